"""A thread that does something every second, for those who cannot wait until they are asked: what it does must be quick."""

from __future__ import annotations

import threading
from collections.abc import Callable

from aiometrics.faults import STAYS_ON, Faults

PROBE = "keeper"
INTERVAL_SECONDS = 1.0
_STOP_SECONDS = 5.0


class Keeper:
    """Calls ``beat()`` every second once it is started. An error counts as one of the probe ``keeper``, and the next second comes."""

    def __init__(self, beat: Callable[[], None], faults: Faults, interval: float = INTERVAL_SECONDS) -> None:
        self._beat = beat
        self._faults = faults
        self._interval = interval
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="aiometrics-keeper", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """No more of it. Waits for a call in progress, unless it is the one that stops."""
        self._stopping.set()
        if self._thread.is_alive() and self._thread is not threading.current_thread():
            self._thread.join(_STOP_SECONDS)

    def _run(self) -> None:
        while not self._stopping.wait(self._interval):
            try:
                self._beat()
            except Exception as error:  # noqa: BLE001 - never the application's problem
                self._faults.report(PROBE, error, STAYS_ON)
