"""Numbers of the process as a whole: errors, untraced tasks, scopes outside of loops, records."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence

from aiometrics.base.internal_errors import InternalErrors
from aiometrics.instrumentation.slots import Slot
from aiometrics.pages.layout import LOOP_STATS, SCOPE_ERRORS

_OUTSIDE = SCOPE_ERRORS.index("outside_loop")


class ProcessStats:
    """Writes these numbers to the first page of the process.

    As long as there is no page, :meth:`errors` and ``untraced_tasks`` have them.
    """

    def __init__(
        self,
        internal_errors: InternalErrors,
        outside_loop: Callable[[], int],
        records: Callable[[], Mapping[tuple[str, str], int]],
    ) -> None:
        self._internal_errors = internal_errors
        self._outside_loop = outside_loop
        self._records = records
        self._records_written: Mapping[tuple[str, str], int] = {}
        self._outside_written = outside_loop()
        self._written: Counter[str] = Counter()
        #: 0 once the page has the number.
        self.untraced_tasks = 0

    def write(self, slots: Sequence[Slot], untraced_tasks: int) -> None:
        """Bring the page up to date. At most one thread at a time may call this."""
        if not slots:
            self.untraced_tasks = untraced_tasks
            return
        self.untraced_tasks = 0
        page = slots[0].page
        page.words[page.layout.loop_stats + LOOP_STATS["untraced_tasks"]] = untraced_tasks
        for probe, count in self.errors().items():
            slots[0].errors.add(probe, count)
            self._written[probe] += count
        outside = self._outside_loop()
        page.words[page.layout.scope_errors + _OUTSIDE] += outside - self._outside_written
        self._outside_written = outside
        records = self._records()
        for key, count in records.items():
            page.words[page.layout.loop_stats + LOOP_STATS["_".join(key)]] += (
                count - self._records_written.get(key, 0)
            )
        self._records_written = records

    def errors(self) -> dict[str, int]:
        """Internal errors that are not in a page, by probe."""
        return dict(Counter(self._internal_errors.counts()) - self._written)
