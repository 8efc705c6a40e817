"""Internal errors of aiometrics.

Each error is counted, the first one of each probe is logged, and none reaches the application.
"""

from __future__ import annotations

import logging
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType

from aiometrics.base import fork

logger = logging.getLogger("aiometrics")


#: The number of known limits that are logged.
_MAX_WARNINGS = 100
#: Outcomes for a probe that failed, as they appear in the log.
OFF, OFF_FOR_LOOP, STAYS_ON = "which is now off", "which is now off for this loop", "which stays on"


class KnownLimit(Exception):  # noqa: N818 - it is no error of ours
    """Something that we cannot do, and what to do about it. It is logged without a traceback."""


def from_signal(error: BaseException) -> bool:
    """Return whether a handler of a signal raised the exception in the middle of our code.

    Such an exception is the application's. Its traceback shows a function that was given the frame
    which it interrupted. Handlers run in the main thread only.
    """
    if threading.current_thread() is not threading.main_thread():
        return False
    return isinstance(error, KeyboardInterrupt) or _shows_handler(error.__traceback__)


def is_interrupt(error: BaseException) -> bool:
    """Return whether an exception is meant for the application and not an error of ours."""
    return not isinstance(error, Exception) or from_signal(error)


def pass_on(error: BaseException) -> None:
    """Raise an exception again if a handler of a signal raised it."""
    if from_signal(error):
        raise error


def _shows_handler(traceback: TracebackType | None) -> bool:
    while traceback is not None and traceback.tb_next is not None:
        interrupted, traceback = traceback.tb_frame, traceback.tb_next
        for value in traceback.tb_frame.f_locals.values():
            if any(part is interrupted for part in (value if type(value) is tuple else (value,))):
                return True
    return False


class InternalErrors:
    """Counts internal errors by probe.

    The first error of each probe is logged with its traceback to the logger ``aiometrics``. The
    code that reports an error disables its probe, or says that the probe stays on; :meth:`disabled`
    returns whether a probe has ever failed.
    """

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()
        self._warnings: set[str] = set()
        # Reentrant, because garbage collection can run one of our finalizers while the lock is
        # held.
        self._lock = threading.RLock()
        fork.forget_in_child(self, fork.Stage.LOCKS, InternalErrors._forget)

    def report(self, probe: str, error: BaseException, outcome: str = OFF) -> None:
        """Count one error of ``probe``, and log the first one.

        The log line names the ``outcome`` for the probe. An exception that a handler of a signal
        raised is the application's: it is raised again, and nothing else is.
        """
        if isinstance(error, Exception):
            pass_on(error)
        with self._lock:
            self._counts[probe] += 1
            first = self._counts[probe] == 1
        if isinstance(error, KnownLimit):
            self._warn_once(str(error))
        elif first:
            logger.error(
                "aiometrics: internal error in probe %r, %s; the application is not affected",
                probe,
                outcome,
                exc_info=error,
            )

    def _warn_once(self, message: str) -> None:
        with self._lock:
            first = message not in self._warnings and len(self._warnings) < _MAX_WARNINGS
            if first:
                self._warnings.add(message)
        if first:
            logger.warning("aiometrics: %s", message)

    @contextmanager
    def contained(self, probe: str) -> Iterator[None]:
        """Report an error of the block, which then costs no more than what the block is about."""
        try:
            yield
        except Exception as error:  # noqa: BLE001 - code of any loop, task or file may have run
            self.report(probe, error, STAYS_ON)

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
