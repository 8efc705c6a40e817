"""What is known of a loop beyond what its recorder writes into its page: its thread, its executor, and what befell it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from aiometrics import threads
from aiometrics.executors import executor_state
from aiometrics.snapshot import OTHER, Loop
from aiometrics.threads import Meter, ThreadId

GENERATIONS = 3
#: Different places that samples of one loop can name.
MAX_PLACES = 100


def _no_loop() -> Any:
    return None


class Vitals:
    """One per page, and like its counters they go on when a later loop takes the page over."""

    def __init__(self) -> None:
        self.gc_pauses_ns = [0] * GENERATIONS
        self.unhandled_exceptions = 0
        self.block_samples: dict[str, int] = {}
        self._cpu = Meter(threads.cpu_ns)
        self._runqueue = Meter(threads.runqueue_ns)
        self._loop: Callable[[], Any] = _no_loop
        self._seen_in: ThreadId | None = None

    def begin(self, loop: Callable[[], Any]) -> None:
        """A loop moves in; ``loop()`` is it, or ``None`` once it is gone."""
        self._loop = loop
        self.seen_here()
        self._look()

    def end(self) -> None:
        """The loop is gone."""
        self._look()
        self._loop, self._seen_in = _no_loop, None

    def seen_here(self) -> None:
        """The calling thread runs the loop. It may be told by different ones, in turn: a loop can move while it does not run."""
        if self._seen_in is None or self._seen_in.ident != threading.get_ident():
            self._seen_in = threads.this_thread()

    def sampled(self, blocked_at: str) -> None:
        """Count a sample of the watchdog."""
        if blocked_at not in self.block_samples and len(self.block_samples) >= MAX_PLACES:
            blocked_at = OTHER
        self.block_samples[blocked_at] = self.block_samples.get(blocked_at, 0) + 1

    @property
    def ident(self) -> int | None:
        """The thread that runs the loop, or last did; ``None`` if there is no loop."""
        return None if self._seen_in is None else self._seen_in.ident

    def complete(self, loop: Loop) -> Loop:
        """What a page says of its loop, and what is known here."""
        self._look()
        living = self._loop()
        executor = None if living is None else executor_state(living)
        ready, timers = (getattr(living, name, None) for name in ("_ready", "_scheduled"))
        return replace(
            loop,
            ready_handles=None if ready is None else len(ready),
            scheduled_timers=None if timers is None else len(timers),
            thread_cpu_ns=self._cpu.total_ns,
            thread_runqueue_ns=self._runqueue.total_ns,
            gc_pauses_ns=tuple(self.gc_pauses_ns),
            unhandled_exceptions=self.unhandled_exceptions,
            executor_threads=None if executor is None else executor.threads,
            executor_queue_items=None if executor is None else executor.queued,
            block_samples=dict(self.block_samples),
        )

    def _look(self) -> None:
        if self._seen_in is not None:
            self._cpu.look(self._seen_in.native)
            self._runqueue.look(self._seen_in.native)
