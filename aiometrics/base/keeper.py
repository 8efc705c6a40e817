"""A thread that does something every second, for those who cannot wait until they are asked: what it does must be quick."""

from __future__ import annotations

from collections.abc import Callable

from aiometrics.base.background import Background
from aiometrics.base.internal_errors import STAYS_ON, InternalErrors

PROBE = "keeper"
INTERVAL_SECONDS = 1.0


class Periodic(Background):
    """Does its ``duties`` every second once it is started. One that fails is an error of the probe ``keeper``; the others are done."""

    def __init__(
        self,
        internal_errors: InternalErrors,
        *duties: Callable[[], None],
        interval: float = INTERVAL_SECONDS,
    ) -> None:
        self._internal_errors = internal_errors
        self._duties = duties
        self._interval = interval
        super().__init__("aiometrics-keeper")

    def _run(self) -> None:
        while not self._stopping.wait(self._interval):
            for duty in self._duties:
                self._do(duty)

    def _do(self, duty: Callable[[], None]) -> None:
        try:
            duty()
        except Exception as error:  # noqa: BLE001 - never the application's problem
            self._internal_errors.report(PROBE, error, STAYS_ON)
