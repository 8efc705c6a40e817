"""Tools for your own tests: a clock that is moved by hand, and an event loop in its time.

>>> with traced_loop() as traced:  # doctest: +SKIP
...     traced.run(handler())
...     assert 0 == traced.snapshot().loops[0].blocking_ns

Code under test says how long its work takes with ``traced.clock.advance(seconds)``;
``asyncio.sleep`` and timeouts pass at once. Every number is then exact, and the same in every run.
"""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import Executor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar, TypeVarTuple

from aiometrics.base.clock import SECOND_NS
from aiometrics.base.internal_errors import InternalErrors
from aiometrics.base.options import resolve
from aiometrics.instrumentation.instrumentation import Instrumentation
from aiometrics.pages.snapshot import Snapshot
from aiometrics.recorder.implementation import IMPLEMENTATION, IMPLEMENTATIONS
from aiometrics.recorder.recorder import SEED

__all__ = ["ManualClock", "TracedLoop", "VirtualLoop", "traced_loop"]

T = TypeVar("T")
Ts = TypeVarTuple("Ts")


class ManualClock:
    """A clock of integer ns that stands still until it is advanced. Calling it reads it."""

    def __init__(self, start_ns: int = SECOND_NS) -> None:
        self.now_ns = start_ns

    def __call__(self) -> int:
        """Return the current time in ns."""
        return self.now_ns

    def advance(self, seconds: float) -> None:
        """Let ``seconds`` pass. Raises ``ValueError`` if they are negative."""
        self.advance_ns(round(seconds * SECOND_NS))

    def advance_ns(self, ns: int) -> None:
        """Let ``ns`` nanoseconds pass. Raises ``ValueError`` if they are negative."""
        if ns < 0:
            raise ValueError(f"cannot advance by {ns} ns: give 0 or more")
        self.now_ns += ns


class _VirtualSelector(selectors.DefaultSelector):
    """A selector that advances the clock in place of waiting.

    It waits in real time only where an event or a thread is to wake the loop.
    """

    def __init__(self, clock: ManualClock) -> None:
        super().__init__()
        self._clock = clock
        #: The number of calls that executor threads are working on.
        self.threaded = 0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        """Return the events that are ready, or none after ``timeout`` virtual seconds."""
        if timeout is None or (timeout > 0 and self.threaded):
            return super().select(None)
        events = super().select(0)
        if not events and timeout > 0:
            self._clock.advance_ns(max(1, round(timeout * SECOND_NS)))
        return events


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop in the time of a :class:`ManualClock`: sleeping for an hour takes no time.

    Virtual time stands still while a thread works for the loop (``asyncio.to_thread``).
    """

    def __init__(self, clock: ManualClock) -> None:
        self._virtual = _VirtualSelector(clock)
        super().__init__(self._virtual)
        self.clock = clock

    def run_in_executor(
        self, executor: Executor | None, func: Callable[[*Ts], T], *args: *Ts
    ) -> asyncio.Future[T]:
        """Run ``func`` in a thread."""
        future = super().run_in_executor(executor, func, *args)
        self._virtual.threaded += 1
        future.add_done_callback(self._thread_is_done)
        return future

    def _thread_is_done(self, _: asyncio.Future[Any]) -> None:
        self._virtual.threaded -= 1

    async def shutdown_default_executor(
        self,
        timeout: float | None = None,  # noqa: ARG002, ASYNC109 - the signature of asyncio's method
    ) -> None:
        """Wait for the threads without a timeout: virtual time stands still meanwhile."""
        await super().shutdown_default_executor()

    def time(self) -> float:
        """Return the clock's time in seconds."""
        return self.clock() / SECOND_NS


@dataclass(frozen=True, slots=True)
class TracedLoop:
    """A virtual loop, its clock, and its measurements."""

    loop: VirtualLoop
    clock: ManualClock
    instrumentation: Instrumentation
    runner: asyncio.Runner

    def run(self, main: Coroutine[Any, Any, T]) -> T:
        """Run ``main`` as a task of the loop until it is done."""
        return self.runner.run(main)

    def snapshot(self) -> Snapshot:
        """Return all numbers of this moment; times of day are the clock's, counted from 1970."""
        return self.instrumentation.snapshot()


@contextmanager
def traced_loop(
    *, clock: ManualClock | None = None, implementation: str = IMPLEMENTATION, **options: Any
) -> Iterator[TracedLoop]:
    """Trace a new :class:`VirtualLoop`, and nothing outside of it; nothing is served.

    ``options`` are those of ``start_exporter``; ``implementation`` is ``"c"`` or ``"python"``. At
    the end, running tasks are cancelled, and an internal error of aiometrics is raised as
    ``AssertionError``.
    """
    clock = ManualClock() if clock is None else clock
    internal_errors = InternalErrors()
    instrumentation = Instrumentation(
        resolve(**options, environ={}).recording,
        clock=clock,
        unix_clock=clock,
        internal_errors=internal_errors,
        implementation=IMPLEMENTATIONS[implementation],
        seed=lambda: SEED,
    )
    loop = VirtualLoop(clock)
    instrumentation.instrument(loop)
    try:
        with asyncio.Runner(loop_factory=lambda: loop) as runner:
            yield TracedLoop(loop, clock, instrumentation, runner)
    finally:
        instrumentation.remove()
    if internal_errors.counts():
        raise AssertionError(
            f"aiometrics had internal errors, by probe: {internal_errors.counts()}"
        )
