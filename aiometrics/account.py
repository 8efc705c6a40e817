"""What a process has to tell that is of none of its loops: internal errors, and tasks that nobody traces. One of its pages takes it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from aiometrics.faults import Faults
from aiometrics.layout import VITALS
from aiometrics.pages import Slot


class Account:
    """Writes to the first page of the process. What there is no page for yet, it tells itself."""

    def __init__(self, faults: Faults) -> None:
        self._faults = faults
        self._written: Counter[str] = Counter()
        #: Unless it is in a page.
        self.untraced_tasks = 0

    def write(self, slots: Sequence[Slot], untraced_tasks: int) -> None:
        """Bring the page up to date. One thread at a time may do so."""
        if not slots:
            self.untraced_tasks = untraced_tasks
            return
        self.untraced_tasks = 0
        page = slots[0].page
        page.words[page.layout.vitals + VITALS["untraced_tasks"]] = untraced_tasks
        for probe, count in self.errors().items():
            slots[0].errors.add(probe, count)
            self._written[probe] += count

    def errors(self) -> dict[str, int]:
        """Internal errors that are in no page, by probe."""
        return dict(Counter(self._faults.counts()) - self._written)
