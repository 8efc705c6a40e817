"""Daemon threads that run beside the application and never keep the process from ending."""

from __future__ import annotations

import _thread
import logging
import threading
from collections.abc import Callable

from aiometrics.base import green_threads
from aiometrics.base.internal_errors import STAYS_ON, InternalErrors
from aiometrics.base.unpatched import Flag

PROBE = "keeper"
INTERVAL_SECONDS = 1.0
_STOP_SECONDS = 5.0


logger = logging.getLogger("aiometrics")
_warned = False


def _warn_if_patched() -> None:
    """Log a warning, once, if threads are greenlets, which run only while no loop blocks."""
    global _warned  # noqa: PLW0603 - once per process
    found = None if _warned else green_threads.patched_by()
    if found is None:
        return
    _warned = True
    logger.warning(
        "aiometrics: %s has replaced threads: a blocked loop is neither noticed nor scraped "
        "until it goes on, and not sampled. Leave threads alone: %s",
        *found,
    )


def daemon_threads_allowed() -> bool:
    """Return whether daemon threads may run here: isolated sub-interpreters allow none."""
    ask = getattr(_thread, "daemon_threads_allowed", None)  # from Python 3.12 on
    return ask is None or ask()


class Background:
    """A daemon thread that runs :meth:`_run` from :meth:`start` until ``_stopping`` is set.

    It can be started only once.
    """

    def __init__(self, name: str) -> None:
        self._stopping = Flag()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        """Start the thread."""
        _warn_if_patched()
        self._thread.start()

    def stop(self) -> None:
        """Stop the thread and wait for its work to finish.

        Waits for at most 5 s, and not at all when called from the thread itself.
        """
        self._stopping.set()
        if self._thread.is_alive() and self._thread is not threading.current_thread():
            self._thread.join(_STOP_SECONDS)

    def _run(self) -> None:
        raise NotImplementedError


class Periodic(Background):
    """Calls ``functions``, which must be quick, every second once it is started.

    An exception in one of them counts as an internal error of the probe ``keeper``; the other
    functions are still called.
    """

    def __init__(
        self,
        internal_errors: InternalErrors,
        *functions: Callable[[], None],
        interval: float = INTERVAL_SECONDS,
    ) -> None:
        self._internal_errors = internal_errors
        self._functions = functions
        self._interval = interval
        super().__init__("aiometrics-keeper")

    def _run(self) -> None:
        while not self._stopping.wait(self._interval):
            for function in self._functions:
                self._call(function)

    def _call(self, function: Callable[[], None]) -> None:
        try:
            function()
        except Exception as error:  # noqa: BLE001 - never the application's problem
            self._internal_errors.report(PROBE, error, STAYS_ON)
