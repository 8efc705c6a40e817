"""Tracing every loop of the process, for tests on real loops and real time."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

from aiometrics.instrumentation import Instrumentation
from aiometrics.options import resolve
from aiometrics.recorder import IMPLEMENTATIONS


@contextmanager
def every_loop(implementation: str, **options: Any) -> Generator[Instrumentation, None, None]:
    """Every loop of the process is traced with one of the recorders; an internal error fails the test."""
    made = Instrumentation(resolve(options, {}), implementation=IMPLEMENTATIONS[implementation])
    made.instrument_every_loop()
    try:
        yield made
    finally:
        made.remove()
    assert {} == made.faults.counts()
