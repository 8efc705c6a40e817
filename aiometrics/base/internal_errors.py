"""What happens to an error of our own: logged once, counted, and never seen by the application."""

from __future__ import annotations

import logging
import threading
from collections import Counter

from aiometrics.base import fork

logger = logging.getLogger("aiometrics")


#: What becomes of a probe that failed, as the log has it.
OFF, OFF_FOR_LOOP, STAYS_ON = "which is now off", "which is now off for this loop", "which stays on"


class InternalErrors:
    """Counts internal errors by probe.

    The first error of a probe is logged with its traceback to the logger ``aiometrics``. Whoever reports it switches the probe off, or
    says that it does not; ``tripped(probe)`` tells whether there was any.
    """

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()
        # Reentrant, because garbage collection may run a finalizer of ours in the middle.
        self._lock = threading.RLock()
        fork.forget_in_child(self, fork.Stage.LOCKS, InternalErrors._forget)

    def report(self, probe: str, error: BaseException, outcome: str = OFF) -> None:
        """Count one error of ``probe`` and log it, with the ``outcome`` for it, if it is the probe's first. Never raises."""
        with self._lock:
            self._counts[probe] += 1
            first = self._counts[probe] == 1
        if first:
            logger.error(
                "internal error in probe %r, %s; the application is not affected",
                probe,
                outcome,
                exc_info=error,
            )

    def _forget(self) -> None:
        """In a forked child: nothing has happened there yet, and a thread of the parent may hold the lock."""
        self._lock = threading.RLock()
        self._counts.clear()

    def disabled(self, probe: str) -> bool:
        """Whether ``probe`` has ever failed."""
        return probe in self._counts

    def counts(self) -> dict[str, int]:
        """Errors by probe."""
        with self._lock:
            return dict(self._counts)
