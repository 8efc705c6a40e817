"""Loop statistics: garbage collections, thread times, unhandled exceptions, the executor."""

from __future__ import annotations

import asyncio
import gc
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import pytest
from support.samples import FACTS, loop, page
from support.tracing import every_loop

from aiometrics.exposition.families import families
from aiometrics.instrumentation.loop_internals import (
    ExecutorState,
    executor_state,
    ready_handles,
    scheduled_timers,
)
from aiometrics.instrumentation.loop_stats import LoopStats
from aiometrics.instrumentation.thread_times import ThreadMeter, cpu_ns, runqueue_ns
from aiometrics.pages.snapshot import Loop, Snapshot
from aiometrics.testing import ManualClock, traced_loop

LINUX = pytest.mark.skipif(sys.platform != "linux", reason="the kernel of Linux tells this")
MS = 1_000_000


def uvloop_loop() -> Any:
    """A loop of uvloop's, where there is one."""
    return pytest.importorskip("uvloop").new_event_loop()


LOOPS = pytest.mark.parametrize("make", [asyncio.SelectorEventLoop, uvloop_loop])


def only(seen: Snapshot) -> Loop:
    """The only loop."""
    (found,) = seen.loops
    return found


# --- garbage collections


def test_collections_are_charged_to_the_loop_whose_thread_they_ran_in(implementation: str) -> None:
    """They are exact and by generation; collections in a thread without a loop do not count."""
    with traced_loop(implementation=implementation) as traced:

        def slow(phase: str, _: object) -> None:
            if phase == "start":
                traced.clock.advance_ns(3 * MS)

        async def main() -> None:
            gc.collect(0)
            gc.collect(2)
            gc.collect(2)
            thread = threading.Thread(target=gc.collect)
            thread.start()
            thread.join()

        gc.callbacks.append(slow)
        gc.disable()
        try:
            traced.run(main())
            gc.collect()
        finally:
            gc.enable()
            gc.callbacks.remove(slow)
        assert (3 * MS, 0, 6 * MS) == only(traced.snapshot()).gc_pauses_ns


def test_the_collector_calls_nothing_of_ours_once_tracing_is_over(implementation: str) -> None:
    """Its callbacks are those of the application again."""
    before = list(gc.callbacks)
    with every_loop(implementation):
        assert len(before) + 1 == len(gc.callbacks)
    assert before == gc.callbacks


def test_an_error_while_a_collection_is_timed_switches_that_off(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The error is logged and counted once, and everything else goes on."""

    class Fails(ManualClock):
        """A clock that raises when it was told to."""

        broken = False

        def __call__(self) -> int:
            if self.broken:
                raise LookupError("the clock")
            return super().__call__()

    clock, before = Fails(), list(gc.callbacks)

    async def main() -> None:
        clock.broken = True
        gc.collect()
        gc.collect()
        clock.broken = False
        assert before == gc.callbacks

    def run() -> None:
        with traced_loop(clock=clock) as traced:
            traced.run(main())

    with pytest.raises(AssertionError, match=r"by probe: \{'gc': 1\}"):
        run()
    assert [
        (
            "aiometrics: internal error in probe 'gc', which is now off; "
            "the application is not affected"
        )
    ] == [record.getMessage() for record in caplog.records if record.name == "aiometrics"]


# --- the thread


@LINUX
def test_the_clock_of_a_thread_is_that_of_pthreads() -> None:
    """It is found without asking pthreads about a thread that may be gone."""
    clock = time.pthread_getcpuclockid(threading.get_ident())
    assert ~threading.get_native_id() << 3 | 6 == clock
    found = cpu_ns(threading.get_native_id())
    assert found is not None
    assert 0 < found <= time.clock_gettime_ns(clock)


@LINUX
def test_a_thread_that_is_gone_has_no_times() -> None:
    """No error is raised."""
    natives: list[int] = []
    thread = threading.Thread(target=lambda: natives.append(threading.get_native_id()))
    thread.start()
    thread.join()
    # The kernel may take a moment longer than Python to let go of it.
    while cpu_ns(natives[0]) is not None or runqueue_ns(natives[0]) is not None:
        pass
    assert runqueue_ns(threading.get_native_id()) is not None


def test_a_meter_adds_up_what_each_thread_gains() -> None:
    """Gains count from the first update of a thread on; another thread takes nothing away."""
    readings: dict[int, int | None] = {}
    meter = ThreadMeter(readings.get)
    totals = []
    steps: list[tuple[int, int | None]] = [
        (1, None),
        (1, 100),
        (1, 130),
        (2, 1_000),
        (2, 1_005),
        (2, None),
        (2, 7),
        (2, 9),
        (1, 500),
        (1, 501),
    ]
    for native, value in steps:
        readings[native] = value
        meter.update(native)
        totals.append(meter.total_ns)
    assert [None, 0, 30, 30, 35, 35, 35, 37, 37, 38] == totals


def burn(until_ns: int) -> None:
    """Use the CPU until this thread has had that much CPU time."""
    while time.thread_time_ns() < until_ns:
        pass


@LINUX
@LOOPS
def test_cpu_time_is_that_of_the_thread_since_the_loop_was_seen(
    implementation: str, make: Callable[[], Any]
) -> None:
    """It is at most what the thread had, and at least what was used between the readings."""
    with every_loop(implementation) as made:

        async def main() -> tuple[int, int, int]:
            start_ns = time.thread_time_ns()
            burn(start_ns + 20 * MS)
            least_ns = time.thread_time_ns() - start_ns
            seen = only(made.snapshot())
            assert seen.thread_cpu_ns is not None
            assert seen.thread_runqueue_ns is not None
            return least_ns, seen.thread_cpu_ns, time.thread_time_ns() - before_ns

        before_ns = time.thread_time_ns()
        with asyncio.Runner(loop_factory=make) as runner:
            least_ns, found_ns, most_ns = runner.run(main())
    assert least_ns <= found_ns <= most_ns


@LINUX
def test_the_time_of_threads_never_falls(implementation: str) -> None:
    """Loops of one name in different threads continue one counter, also while none runs."""

    async def main() -> None:
        burn(time.thread_time_ns() + 2 * MS)
        totals.append(only(made.snapshot()).thread_cpu_ns or 0)

    totals = [0]
    with every_loop(implementation) as made:
        for _ in range(3):
            thread = threading.Thread(target=asyncio.run, args=(main(),), name="worker")
            thread.start()
            thread.join()
            totals.append(only(made.snapshot()).thread_cpu_ns or 0)
    assert sorted(totals) == totals
    assert all(
        later - earlier >= 2 * MS
        for earlier, later in zip(totals[0::2], totals[1::2], strict=False)
    )


@LINUX
@LOOPS
def test_the_thread_is_that_which_runs_the_loop(
    implementation: str, make: Callable[[], Any]
) -> None:
    """The first task may be created elsewhere; with uvloop the first collection or block tells."""
    idents: list[int | None] = []

    async def main() -> None:
        gc.collect()
        (slot,) = made.slots()
        idents.extend([threading.get_ident(), slot.loop_stats.thread_ident])

    with every_loop(implementation) as made:
        running = make()
        task = running.create_task(main())
        thread = threading.Thread(target=running.run_until_complete, args=(task,))
        thread.start()
        thread.join()
        running.close()
    assert idents[0] == idents[1] != threading.get_ident()


def test_without_a_loop_there_is_no_thread() -> None:
    """A free slot reads nothing of what its thread runs now."""
    loop_stats = LoopStats(page())
    assert loop_stats.thread_ident is None
    loop_stats.attach(lambda: None)
    assert threading.get_ident() == loop_stats.thread_ident
    loop_stats.detach()
    assert loop_stats.thread_ident is None


# --- exceptions that nobody handled


def fail() -> None:
    """A callback."""
    raise ZeroDivisionError


@LOOPS
def test_calls_of_the_exception_handler_are_counted(
    implementation: str, make: Callable[[], Any]
) -> None:
    """The handler that the application sets, at any time, is called, and is what it reads back."""
    heard: list[tuple[Any, dict[str, Any]]] = []

    def handler(running: Any, context: dict[str, Any]) -> None:
        heard.append((running, context))

    async def main() -> None:
        running = asyncio.get_running_loop()
        assert running.get_exception_handler() is None
        running.set_exception_handler(handler)
        assert handler is running.get_exception_handler()
        for _ in range(2):
            running.call_soon(fail)
            await asyncio.sleep(0)
        mine = {"message": "mine"}
        running.call_exception_handler(mine)
        assert [running] * 3 == [found for found, _ in heard]
        assert mine is heard[-1][1]
        assert [ZeroDivisionError, ZeroDivisionError, type(None)] == [
            type(context.get("exception")) for _, context in heard
        ]
        running.set_exception_handler(None)
        assert running.get_exception_handler() is None

    with every_loop(implementation) as made, asyncio.Runner(loop_factory=make) as runner:
        runner.run(main())
        assert 3 == only(made.snapshot()).unhandled_exceptions


@LOOPS
def test_an_exception_that_is_never_retrieved_counts(
    implementation: str, make: Callable[[], Any], caplog: pytest.LogCaptureFixture
) -> None:
    """It counts when the task is collected, and asyncio logs it once, as it does untraced."""

    async def fails() -> None:
        raise ZeroDivisionError

    async def main() -> None:
        task = asyncio.create_task(fails())
        await asyncio.sleep(0)
        del task
        gc.collect()

    gc.collect()  # tasks that other tests left, of which asyncio would log
    caplog.clear()
    with every_loop(implementation) as made, asyncio.Runner(loop_factory=make) as runner:
        runner.run(main())
        assert 1 == only(made.snapshot()).unhandled_exceptions
    assert ["Task exception was never retrieved"] == [
        record.getMessage().partition("\n")[0] for record in caplog.records
    ]


@pytest.mark.parametrize("asks_parent", [True, False])
def test_a_loop_of_the_applications_that_overrides_the_method_is_counted_once(
    implementation: str, *, asks_parent: bool
) -> None:
    """It is counted once whether it calls the original or not."""
    called: list[str] = []

    class Loop(asyncio.SelectorEventLoop):
        """A loop with a handler of its own."""

        def call_exception_handler(self, context: dict[str, Any]) -> None:
            called.append(context["message"])
            if asks_parent:
                super().call_exception_handler(context)

    async def main() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda *_: called.append("handler"))
        asyncio.get_running_loop().call_exception_handler({"message": "mine"})

    with every_loop(implementation) as made:
        asyncio.run(asyncio.sleep(0))
        with asyncio.Runner(loop_factory=Loop) as runner:
            runner.run(main())
            assert 1 == sum(found.unhandled_exceptions for found in made.snapshot().loops)
    assert (["mine", "handler"] if asks_parent else ["mine"]) == called


def test_a_handler_that_reports_something_else_counts_twice(implementation: str) -> None:
    """The second report is another call."""

    def handler(running: Any, context: dict[str, Any]) -> None:
        if context["message"] == "first":
            running.call_exception_handler({"message": "second"})

    async def main() -> None:
        asyncio.get_running_loop().set_exception_handler(handler)
        asyncio.get_running_loop().call_exception_handler({"message": "first"})

    with every_loop(implementation) as made:
        asyncio.run(main())
        assert 2 == only(made.snapshot()).unhandled_exceptions


@LOOPS
def test_the_method_is_put_back(implementation: str, make: Callable[[], Any]) -> None:
    """Every class has the attributes that it had before, and no others."""
    probe = make()
    classes = [kind for kind in type(probe).__mro__ if kind is not object]
    probe.close()
    before = [vars(kind).get("call_exception_handler") for kind in classes]
    with every_loop(implementation), asyncio.Runner(loop_factory=make) as runner:
        runner.run(asyncio.sleep(0))
        assert before != [vars(kind).get("call_exception_handler") for kind in classes]
    assert before == [vars(kind).get("call_exception_handler") for kind in classes]


# --- the default executor


@LOOPS
def test_threads_and_queue_of_the_default_executor(
    implementation: str, make: Callable[[], Any]
) -> None:
    """Both are 0 before its first use; then threads that were started and waiting calls count."""
    started, released = threading.Event(), threading.Event()
    states: list[tuple[int | None, int | None]] = []

    def look() -> None:
        found = only(made.snapshot())
        states.append((found.executor_threads, found.executor_queue_items))

    def work() -> None:
        started.set()
        assert released.wait(300)

    async def main() -> None:
        look()
        asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(1))
        calls = [asyncio.create_task(asyncio.to_thread(work)) for _ in range(3)]
        await asyncio.sleep(0)
        assert started.wait(300)
        look()
        released.set()
        await asyncio.gather(*calls)
        look()

    with every_loop(implementation) as made:
        with asyncio.Runner(loop_factory=make) as runner:
            runner.run(main())
        look()
    assert [(0, 0), (1, 2), (1, 0), (None, None)] == states


def test_an_executor_that_the_loop_makes_itself_is_found_too(implementation: str) -> None:
    """That of uvloop is found through the garbage collector."""

    async def main() -> None:
        await asyncio.to_thread(int)
        assert (1, 0) == (
            only(made.snapshot()).executor_threads,
            only(made.snapshot()).executor_queue_items,
        )

    with every_loop(implementation) as made, asyncio.Runner(loop_factory=uvloop_loop) as runner:
        runner.run(main())


def test_an_unknown_loop_or_executor_has_no_state() -> None:
    """The state of an unknown kind of loop, or of an unusual executor, is ``None``."""

    class Foreign:
        """Some loop."""

    strange = Foreign()
    assert executor_state(strange) is None
    strange._default_executor = object()  # type: ignore[attr-defined]
    assert executor_state(strange) is None
    strange._default_executor = None  # type: ignore[attr-defined]
    assert ExecutorState(0, 0) == executor_state(strange)


# --- ready handles and timers


def block() -> None:
    """Hold the loop for longer than the blocking threshold of the tests below."""
    time.sleep(0.02)


@LOOPS
def test_ready_handles_and_timers(implementation: str, make: Callable[[], Any]) -> None:
    """They are counted on every loop, while it has some and when it has none."""
    seen: list[tuple[int | None, int | None]] = []

    def look() -> None:
        found = only(made.snapshot())
        seen.append((found.ready_handles, found.scheduled_timers))

    async def main() -> None:
        loop = asyncio.get_running_loop()
        look()
        timers = [loop.call_later(300, int) for _ in range(2)]
        for _ in range(3):
            loop.call_soon(int)
        look()
        for timer in timers:
            timer.cancel()

    with every_loop(implementation) as made, asyncio.Runner(loop_factory=make) as runner:
        runner.run(main())
    assert [(0, 0), (3, 2)] == seen


@LOOPS
def test_inflicted_wait_is_known_on_every_loop(
    implementation: str, make: Callable[[], Any]
) -> None:
    """It is the length of the blocking segment times the handles that were ready behind it."""

    async def main() -> None:
        for _ in range(3):
            asyncio.get_running_loop().call_soon(int)
        block()
        await asyncio.sleep(0)

    with (
        every_loop(implementation, blocking_threshold=0.01) as made,
        asyncio.Runner(loop_factory=make) as runner,
    ):
        runner.run(main())
        seen = made.snapshot()
    (point,) = [point for point in seen.yield_points if point.yield_point.endswith("main")]
    assert 3 * point.segments.sum_ns == point.inflicted_wait_ns > 0


def test_attributes_of_a_subclass_are_not_taken_for_queues_of_uvloop() -> None:
    """The application may keep a deque and a set of timers of its own on its loop."""
    base: Any = pytest.importorskip("uvloop").Loop

    class Mine(base):  # type: ignore[misc]  # it has no types
        """A loop with queues of its own."""

    loop = Mine()
    loop.mine, loop.timers = deque("abc"), {loop.call_later(300, int)}
    assert (0, 1) == (ready_handles(loop), scheduled_timers(loop))
    loop.call_soon(int)
    assert 1 == ready_handles(loop)
    loop.close()


class Odd(asyncio.SelectorEventLoop):
    """A loop whose timers and executor are not told to us."""

    def __getattribute__(self, name: str) -> Any:
        if name in ("_scheduled", "_default_executor") and is_ours(sys._getframe(1)):
            raise LookupError(name)
        return super().__getattribute__(name)


class OddQueue(deque[Any]):
    """A ready queue whose length is not told to us."""

    def __len__(self) -> int:
        if is_ours(sys._getframe(1)):
            raise LookupError("not here")
        return super().__len__()


def is_ours(frame: Any) -> bool:
    """Whether a frame is one of aiometrics'."""
    return bool(frame.f_globals["__name__"].startswith("aiometrics"))


def test_odd_internals_of_a_loop_cost_only_what_is_odd(implementation: str) -> None:
    """Tasks, turns and blocks are seen all the same, and no error is counted."""

    def make() -> Odd:
        loop = Odd()
        vars(loop)["_ready"] = OddQueue()
        return loop

    async def main() -> None:
        block()
        await asyncio.sleep(0)

    with (
        every_loop(implementation, blocking_threshold=0.01) as made,
        asyncio.Runner(loop_factory=make) as runner,
    ):
        runner.run(main())
        seen = made.snapshot()
    found = only(seen)
    unknown = (found.ready_handles, found.scheduled_timers, found.executor_threads)
    assert (None, None, None) == unknown
    assert found.blocking_ns >= 10 * MS
    assert found.iterations.count > 0
    assert [1] == [entry.created for entry in seen.coroutines if entry.coroutine.endswith("main")]


# --- families


def test_rows_of_loop_statistics() -> None:
    """Numbers are in seconds; unknown numbers have no row, known ones have one from the start."""
    names = (
        "asyncio_loop_thread_cpu_seconds_total",
        "asyncio_loop_thread_runqueue_seconds_total",
        "asyncio_loop_gc_pause_seconds_total",
        "asyncio_unhandled_exceptions_total",
        "asyncio_executor_threads",
        "asyncio_executor_queue_items",
        "asyncio_block_samples_total",
    )
    full = replace(
        loop("Main"),
        thread_cpu_ns=1_500_000_000,
        thread_runqueue_ns=250_000_000,
        gc_pauses_ns=(1_000_000, 0, 2_000_000_000),
        unhandled_exceptions=3,
        executor_threads=4,
        executor_queue_items=5,
        block_samples={"shop.py:1 f": 6, "shop.py:2 g > re.match": 7},
    )
    found = {
        metric.name: dict(rows)
        for metric, rows in families(Snapshot(0, loops=(full, loop("Idle"))), FACTS)
    }
    none = {("Idle", str(generation)): 0.0 for generation in range(3)}
    assert [
        {("Main",): 1.5},
        {("Main",): 0.25},
        {("Main", "0"): 0.001, ("Main", "1"): 0.0, ("Main", "2"): 2.0} | none,
        {("Main",): 3, ("Idle",): 0},
        {("Main",): 4},
        {("Main",): 5},
        {("Main", "shop.py:1 f"): 6, ("Main", "shop.py:2 g > re.match"): 7},
    ] == [found[name] for name in names]
