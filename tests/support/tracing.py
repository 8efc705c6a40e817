"""Tracing every loop of the process, for tests on real loops and real time."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any

from aiometrics.base.options import resolve
from aiometrics.instrumentation.instrumentation import Instrumentation
from aiometrics.instrumentation.watchdog import Watchdog
from aiometrics.recorder.implementation import IMPLEMENTATIONS
from aiometrics.recorder.recorder import random_seed
from aiometrics.testing import TracedLoop


@contextmanager
def every_loop(
    implementation: str, seed: Callable[[], int] = random_seed, **options: Any
) -> Generator[Instrumentation, None, None]:
    """Trace every loop of the process. An internal error fails the test."""
    made = Instrumentation(
        resolve(**options, environ={}).recording,
        implementation=IMPLEMENTATIONS[implementation],
        seed=seed,
    )
    made.instrument_every_loop()
    try:
        yield made
    finally:
        made.remove()
    assert {} == made.internal_errors.counts()


class Stall:
    """Blocks a loop in virtual time, while a watchdog looks as often as it asks for."""

    def __init__(self, traced: TracedLoop) -> None:
        self.traced = traced
        made = traced.instrumentation
        threshold_ns = made.options.blocking_threshold_ns
        self.dog = Watchdog(
            made.slots,
            made.places,
            made.internal_errors,
            threshold_ns=threshold_ns,
            interval=0.05,
            stack_of_thread=made.stack_of_thread,
            clock=traced.clock,
        )

    def __call__(self, ms: int) -> None:
        clock = self.traced.clock
        ends_ns = clock() + ms * 1_000_000
        while clock() < ends_ns:
            clock.advance_ns(min(self.dog.look(), ends_ns - clock()))
        self.dog.look()
