"""Statistics of a loop that its recorder cannot write.

These are the CPU time of its thread, its queues, its default executor, and its exceptions and
garbage collections.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from aiometrics.instrumentation import thread_times
from aiometrics.instrumentation.loop_internals import (
    executor_state,
    ready_handles,
    scheduled_timers,
)
from aiometrics.instrumentation.thread_times import ThreadId, ThreadMeter, Usage, UsageMeter
from aiometrics.pages.counter_table import CounterTable
from aiometrics.pages.layout import LOOP, LOOP_STATS, MAX_PLACES, UNKNOWN
from aiometrics.pages.page import Page


def _no_loop() -> None:
    """The reference to the loop while a page has none."""


class LoopStats:
    """The loop statistics on a page.

    Like all counters, they go on when a later loop takes the page over.

    What is counted is written by the thread in which it happens: the loop's thread, and the
    watchdog's for samples. What must be asked for is written by :meth:`refresh`, which at most one
    thread at a time may call.
    """

    def __init__(self, page: Page) -> None:
        self._words = page.words
        self._start = page.layout.loop_stats
        self._collecting = page.layout.loop + LOOP["collecting"]
        self._collecting_since_ns = 0
        self._samples = CounterTable(page, page.layout.samples, MAX_PLACES)
        self._meters = {
            "thread_cpu_ns": ThreadMeter(thread_times.cpu_ns, self._known("thread_cpu_ns")),
            "thread_runqueue_ns": ThreadMeter(
                thread_times.runqueue_ns, self._known("thread_runqueue_ns")
            ),
        }
        self._usage = UsageMeter()
        self._loop: Callable[[], Any] = _no_loop
        self._thread: ThreadId | None = None

    def attach(self, loop: Callable[[], Any]) -> None:
        """Begin to describe a loop, which ``loop()`` returns; ``None`` once it is gone."""
        self._loop = loop
        self.note_thread()
        self._read_meters()

    def detach(self) -> None:
        """Stop describing the loop, which is gone."""
        self._read_meters()
        self._loop, self._thread = _no_loop, None

    def note_thread(self) -> None:
        """Note that the calling thread runs the loop. A stopped loop may change threads."""
        if self._thread is None or self._thread.ident != threading.get_ident():
            self._thread = thread_times.current_thread_id()

    def add_gc_pause(self, generation: int, ns: int) -> None:
        """Add ``ns`` of garbage collection in the loop's thread."""
        self._words[self._start + LOOP_STATS[f"gc_pause_{generation}_ns"]] += ns

    def begin_collection(self, generation: int, now_ns: int) -> None:
        """Note that garbage is being collected in the loop's thread from now on."""
        self._collecting_since_ns = now_ns
        self._words[self._collecting] = generation + 1

    def end_collection(self) -> None:
        """Note that it no longer is."""
        self._words[self._collecting] = 0

    def collecting(self, since_ns: int) -> int:
        """Return the generation that has been collected since a time or longer, plus 1; else 0."""
        return self._words[self._collecting] if self._collecting_since_ns <= since_ns else 0

    def count_unhandled_exception(self) -> None:
        """Count a call of the loop's exception handler."""
        self._words[self._start + LOOP_STATS["unhandled_exceptions"]] += 1

    def count_block_sample(self, blocked_at: str) -> None:
        """Count a sample of the watchdog at the place that blocks the loop."""
        self._samples.add(blocked_at)

    @property
    def block_samples(self) -> dict[str, int]:
        """Samples of the watchdog by place."""
        return self._samples.counts()

    @property
    def thread_ident(self) -> int | None:
        """The thread that runs the loop, or ran it last; ``None`` if there is no loop."""
        return None if self._thread is None else self._thread.ident

    def thread_usage(self) -> Usage:
        """The kernel's counts of that thread, for the watchdog."""
        thread = self._thread
        return Usage() if thread is None else self._usage(thread.native)

    def refresh(self) -> None:
        """Ask the kernel about the thread, and the loop about its queues."""
        self._read_meters()
        loop = self._loop()
        if loop is None:
            return
        self._set("ready_handles", ready_handles(loop))
        self._set("scheduled_timers", scheduled_timers(loop))
        executor = executor_state(loop)
        self._set("executor_threads", None if executor is None else executor.threads)
        self._set("executor_queue_items", None if executor is None else executor.queued)

    def _read_meters(self) -> None:
        if self._thread is not None:
            for name, meter in self._meters.items():
                meter.update(self._thread.native)
                self._set(name, meter.total_ns)

    def _known(self, name: str) -> int | None:
        value = self._words[self._start + LOOP_STATS[name]]
        return None if value == UNKNOWN else value

    def _set(self, name: str, value: int | None) -> None:
        self._words[self._start + LOOP_STATS[name]] = UNKNOWN if value is None else value
