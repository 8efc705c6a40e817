"""The thread that samples which lines hold the loops."""

from __future__ import annotations

import atexit
from typing import Any

from aiometrics.base.background import Background
from aiometrics.base.internal_errors import InternalErrors
from aiometrics.recorder.held import PROBE


class Sampling(Background):
    """Runs a sampler at random moments that are ``interval_ns`` apart on average.

    An internal error counts for the probe ``sampler``, and ends the thread.
    """

    def __init__(self, sampler: Any, interval_ns: int, internal_errors: InternalErrors) -> None:
        self._sampler = sampler
        self._interval_ns = interval_ns
        self._internal_errors = internal_errors
        super().__init__("aiometrics-sampler")

    def start(self) -> None:
        """Start the thread. It ends before the interpreter does, which it asks for calls."""
        atexit.register(self.stop)
        super().start()

    def stop(self) -> None:
        """Stop the thread."""
        atexit.unregister(self.stop)
        self._sampler.stop()
        super().stop()

    def _run(self) -> None:
        try:
            self._sampler.run(self._interval_ns)
        except Exception as error:  # noqa: BLE001 - never the application's problem
            self._internal_errors.report(PROBE, error)
