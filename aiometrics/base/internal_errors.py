"""Internal errors of aiometrics.

Each error is counted, the first one of each probe is logged, and none reaches the application.
"""

from __future__ import annotations

import logging
import threading
from collections import Counter

from aiometrics.base import fork

logger = logging.getLogger("aiometrics")


#: Outcomes for a probe that failed, as they appear in the log.
OFF, OFF_FOR_LOOP, STAYS_ON = "which is now off", "which is now off for this loop", "which stays on"


class InternalErrors:
    """Counts internal errors by probe.

    The first error of each probe is logged with its traceback to the logger ``aiometrics``. The
    code that reports an error disables its probe, or says that the probe stays on; :meth:`disabled`
    returns whether a probe has ever failed.
    """

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()
        # Reentrant, because garbage collection can run one of our finalizers while the lock is
        # held.
        self._lock = threading.RLock()
        fork.forget_in_child(self, fork.Stage.LOCKS, InternalErrors._forget)

    def report(self, probe: str, error: BaseException, outcome: str = OFF) -> None:
        """Count one error of ``probe``, and log the first one.

        The log line names the ``outcome`` for the probe. Never raises.
        """
        with self._lock:
            self._counts[probe] += 1
            first = self._counts[probe] == 1
        if first:
            logger.error(
                "aiometrics: internal error in probe %r, %s; the application is not affected",
                probe,
                outcome,
                exc_info=error,
            )

    def _forget(self) -> None:
        """Start again in a forked child.

        The errors are the parent's, and one of its threads may have held the lock.
        """
        self._lock = threading.RLock()
        self._counts.clear()

    def disabled(self, probe: str) -> bool:
        """Whether ``probe`` has ever failed."""
        return probe in self._counts

    def counts(self) -> dict[str, int]:
        """Return the number of errors by probe."""
        with self._lock:
            return dict(self._counts)
