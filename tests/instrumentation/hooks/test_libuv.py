"""Turns, idle and active time of loops of uvloop, with the C recorder."""

from __future__ import annotations

import _ssl
import asyncio
import logging
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from support.tracing import every_loop

from aiometrics.base.options import RecordingOptions
from aiometrics.instrumentation.hooks import libuv
from aiometrics.instrumentation.instrumentation import Instrumentation
from aiometrics.instrumentation.watchdog import Watchdog
from aiometrics.pages.snapshot import Loop
from aiometrics.recorder.implementation import IMPLEMENTATIONS
from aiometrics.testing import ManualClock

uvloop: Any = pytest.importorskip("uvloop")
WITH_C = pytest.mark.skipif("c" not in IMPLEMENTATIONS, reason="the C recorder is not built")
MS = 1_000_000
EAGERLY: dict[str, Any] = {"eager_start": True} if sys.version_info >= (3, 12) else {}
#: Tasks that must not be collected before they are done.
TASKS: list[Any] = []


@pytest.fixture
def made() -> Iterator[Instrumentation]:
    """Every loop is traced, by the C recorder."""
    with every_loop("c") as instrumentation:
        yield instrumentation


@pytest.fixture
def loop() -> Iterator[Any]:
    """A loop of uvloop."""
    new = uvloop.new_event_loop()
    yield new
    new.close()


def only(made: Instrumentation) -> Loop:
    """The only loop."""
    (found,) = made.snapshot().loops
    return found


def total_ns(found: Loop) -> int:
    """Active and idle time together."""
    assert found.idle_ns is not None
    return found.active_ns + found.idle_ns


@WITH_C
def test_active_and_idle_are_all_the_time(made: Instrumentation, loop: Any) -> None:
    """Together they last from the start of a run to its end, and nothing in between two runs."""
    bounds: list[tuple[int, int]] = []

    async def main() -> None:
        first = time.monotonic_ns()
        for _ in range(20):
            await asyncio.sleep(0.001)
            time.sleep(0.001)  # noqa: ASYNC251 - it keeps the loop active
        bounds.append((first, time.monotonic_ns()))

    inside_ns = outside_ns = 0
    for _ in range(3):
        started = time.monotonic_ns()
        loop.run_until_complete(main())
        ended = time.monotonic_ns()
        first, last = bounds.pop()
        inside_ns += last - first
        outside_ns += ended - started
        time.sleep(0.01)
        assert inside_ns <= total_ns(only(made)) <= outside_ns
    found = only(made)
    assert found.iterations.count >= 3 * 20
    assert found.iterations.sum_ns == found.active_ns >= 3 * 20 * MS
    assert found.idle_ns is not None
    assert found.idle_ns > 0
    assert found.heartbeat_ns == 0


def block_in_a_task(loop: Any, block: Callable[[], None]) -> None:
    """Block in a step of a task."""

    async def main() -> None:
        block()

    TASKS.append(loop.create_task(main()))


def block_in_a_callback(loop: Any, block: Callable[[], None]) -> None:
    """Block in a callback."""
    loop.call_soon(block)


def block_in_a_timer(loop: Any, block: Callable[[], None]) -> None:
    """Block in a timer."""
    loop.call_later(0.001, block)


def block_in_a_reader(loop: Any, block: Callable[[], None]) -> None:
    """Block where a file descriptor is ready, which libuv calls in the middle of its wait."""
    ours, theirs = socket.socketpair()

    def ready() -> None:
        loop.remove_reader(ours)
        block()
        ours.close()
        theirs.close()

    loop.add_reader(ours, ready)
    theirs.send(b"x")


def block_in_a_signal_handler(loop: Any, block: Callable[[], None]) -> None:
    """Block in the handler of a signal."""

    def handle() -> None:
        loop.remove_signal_handler(signal.SIGUSR1)
        block()

    loop.add_signal_handler(signal.SIGUSR1, handle)
    signal.raise_signal(signal.SIGUSR1)


def block_in_a_protocol(loop: Any, block: Callable[[], None]) -> None:
    """Block in a protocol's callback."""

    class Blocks(asyncio.Protocol):
        """Blocks when something is received."""

        transport: Any

        def connection_made(self, transport: Any) -> None:
            self.transport = transport

        def data_received(self, _: bytes) -> None:
            block()
            self.transport.close()
            theirs.close()

    ours, theirs = socket.socketpair()

    async def connect() -> None:
        await loop.create_connection(Blocks, sock=ours)
        theirs.send(b"x")

    TASKS.append(loop.create_task(connect()))


PLACES = pytest.mark.parametrize(
    "place",
    [
        block_in_a_task,
        block_in_a_callback,
        block_in_a_timer,
        block_in_a_reader,
        block_in_a_signal_handler,
        block_in_a_protocol,
    ],
)


@WITH_C
@PLACES
def test_a_block_anywhere_is_active_time_while_it_lasts(
    place: Callable[[Any, Callable[[], None]], None], made: Instrumentation, loop: Any
) -> None:
    """Whoever looks in the meantime sees a turn that began before, and no more idle time."""
    looks: list[Loop] = []

    def block() -> None:
        time.sleep(0.01)  # after so long, libuv is not merely on its way into the wait
        began, began_unix_ns = time.monotonic_ns(), time.time_ns()
        looks.append(only(made))
        time.sleep(0.02)
        looks.append(only(made))
        looked_ns.append(time.monotonic_ns() - began)
        assert looks[1].heartbeat_ns <= began_unix_ns
        done.set()

    async def main() -> None:
        await asyncio.sleep(0.001)
        place(loop, block)
        await done.wait()
        await asyncio.sleep(0.001)

    looked_ns: list[int] = []
    done = asyncio.Event()
    loop.run_until_complete(main())
    first, second = looks
    assert first.idle_ns == second.idle_ns
    assert 20 * MS <= second.active_ns - first.active_ns <= looked_ns[0]
    after = only(made)
    assert total_ns(second) < total_ns(after)
    assert after.iterations.counts[2] + sum(after.iterations.counts[3:]) >= 1


@WITH_C
@PLACES
def test_a_block_anywhere_is_counted_once_and_named(
    place: Callable[[Any, Callable[[], None]], None], loop: Any
) -> None:
    """Its time is in one row, and the watchdog names its line."""

    def block() -> None:
        # Nothing else is looked at, which a busy machine may hold up, too.
        dog.start()
        while not made.slots()[0].loop_stats.block_samples:
            time.sleep(0.005)
        dog.stop()
        done.set()

    async def main() -> None:
        place(loop, block)
        await done.wait()

    done = asyncio.Event()
    with every_loop("c", blocking_threshold=0.1) as made:
        dog = Watchdog(
            made.slots,
            made.places,
            made.internal_errors,
            threshold_ns=100 * MS,
            interval=0.02,
        )
        loop.run_until_complete(main())
        seen = made.snapshot()
    (found,) = seen.loops
    rows = [point for point in seen.yield_points if point.blocking_ns]
    assert found.blocking_ns == sum(point.blocking_ns for point in rows)
    lines = {name.partition(" > ")[0] for name in found.block_samples}  # it may collect garbage
    assert {"block"} == {line.rpartition(".")[2] for line in lines}
    in_task = place is block_in_a_task
    assert in_task != any(point.coroutine == "(callback)" for point in rows)


def blocked(made: Instrumentation) -> tuple[int, int]:
    """For how long callbacks have blocked the loop, and the wait that they inflicted."""
    rows = [row for row in made.snapshot().yield_points if row.coroutine == "(callback)"]
    return sum(row.blocking_ns for row in rows), sum(row.inflicted_wait_ns for row in rows)


@WITH_C
@PLACES
def test_a_block_between_steps_inflicts_a_wait_on_those_behind_it(
    place: Callable[[Any, Callable[[], None]], None], loop: Any
) -> None:
    """It is its length, once for each handle that was ready when the callbacks were over.

    A transport that is closed then has one of them.
    """
    if place is block_in_a_task:
        pytest.skip("that is no callback")

    def block() -> None:
        gate.set()
        time.sleep(0.3)

    async def waits() -> None:
        await gate.wait()

    async def main() -> tuple[int, int]:
        others = [loop.create_task(waits()) for _ in range(2)]
        await asyncio.sleep(0)
        before = blocked(made)
        place(loop, block)
        await gate.wait()
        after = blocked(made)
        await asyncio.wait(others)
        return after[0] - before[0], after[1] - before[1]

    gate = asyncio.Event()
    with every_loop("c", blocking_threshold=0.25) as made:
        blocked_ns, inflicted_ns = loop.run_until_complete(main())
    behind = 4 if place is block_in_a_protocol else 3
    assert behind * blocked_ns == inflicted_ns > 0


@WITH_C
@pytest.mark.skipif(not EAGERLY, reason="tasks start eagerly from Python 3.12 on")
def test_a_task_that_starts_eagerly_was_not_behind_the_block(loop: Any) -> None:
    """No handle waited for the callback that starts it."""

    async def answer() -> tuple[int, int]:
        return blocked(made)

    def block() -> None:
        time.sleep(0.3)
        asked.set_result(asyncio.Task(answer(), loop=loop, **EAGERLY))

    async def main() -> tuple[int, int]:
        loop.call_soon(block)
        return await (await asked)

    asked: asyncio.Future[asyncio.Task[tuple[int, int]]] = loop.create_future()
    with every_loop("c", blocking_threshold=0.25) as made:
        blocked_ns, inflicted_ns = loop.run_until_complete(main())
    assert blocked_ns > 0 == inflicted_ns


@WITH_C
def test_rows_add_up_to_the_active_time(made: Instrumentation, loop: Any) -> None:
    """What runs between the steps of tasks has rows, and nothing is counted twice.

    A task that starts eagerly runs in the middle of an event.
    """

    class Answers(asyncio.Protocol):
        """Starts a task for what it receives."""

        def data_received(self, _: bytes) -> None:
            TASKS.append(asyncio.Task(answer(), loop=loop, **EAGERLY))

    async def answer() -> None:
        time.sleep(0.02)  # noqa: ASYNC251 - it is what is counted
        await asyncio.sleep(0)
        done.set()

    async def main() -> None:
        ours, theirs = socket.socketpair()
        transport, _ = await loop.create_connection(Answers, sock=ours)
        theirs.send(b"x")
        await done.wait()
        loop.call_soon(time.sleep, 0.01)
        loop.call_later(0.01, time.sleep, 0.01)
        await asyncio.sleep(0.05)
        transport.close()
        theirs.close()

    done = asyncio.Event()
    loop.run_until_complete(main())
    seen = made.snapshot()
    owned_ns = sum(point.segments.sum_ns for point in seen.yield_points)
    assert owned_ns == pytest.approx(seen.loops[0].active_ns, rel=0.01)
    callbacks = {p.yield_point: p for p in seen.yield_points if p.coroutine == "(callback)"}
    assert {"(events)", "(handles)"} == callbacks.keys()
    assert callbacks["(handles)"].segments.sum_ns >= 20 * MS


@WITH_C
def test_a_loop_that_never_rests_gives_way_to_a_thread_that_answers(
    made: Instrumentation, loop: Any
) -> None:
    """It sleeps at least three moments, and counts them as idle time; afterwards it does not."""
    hand_over = IMPLEMENTATIONS["c"].hand_over

    def idle_ns() -> int:
        found = only(made)
        return 0 if found.idle_ns is None else found.idle_ns

    async def main() -> None:
        for _ in range(5):
            await asyncio.sleep(0)
        before_ns = idle_ns()
        with hand_over:
            for _ in range(5):
                await asyncio.sleep(0)
        asked_ns = idle_ns()
        for _ in range(5):
            await asyncio.sleep(0)
        assert asked_ns - before_ns >= 3 * 50_000
        assert idle_ns() == asked_ns

    loop.run_until_complete(main())


@WITH_C
def test_the_end_of_a_run_is_seen_that_was_joined(made: Instrumentation, loop: Any) -> None:
    """Where tracing begins inside a run, nobody tells of its end: a look finds out."""
    made.remove()

    async def main() -> None:
        made.instrument_every_loop()
        await asyncio.create_task(asyncio.sleep(0.05))

    loop.run_until_complete(main())
    assert only(made).heartbeat_ns == 0
    counted_ns = total_ns(only(made))
    loop.run_until_complete(asyncio.sleep(0.05))
    assert total_ns(only(made)) > counted_ns
    assert only(made).heartbeat_ns == 0


@WITH_C
def test_nothing_is_left_when_tracing_ends(loop: Any) -> None:
    """The class has the methods that it had, and the loop runs on without being timed."""
    before = dict(vars(uvloop.Loop))
    with every_loop("c") as made:
        loop.run_until_complete(asyncio.sleep(0.05))
        for name in ("run_forever", "close"):
            ours, original = vars(uvloop.Loop)[name], getattr(uvloop.Loop.__mro__[1], name)
            assert (original.__name__, original.__doc__) == (ours.__name__, ours.__doc__)
        made.remove()
        assert before == dict(vars(uvloop.Loop))
        counted_ns = total_ns(only(made))
        loop.run_until_complete(asyncio.sleep(0.001))
        assert counted_ns == total_ns(only(made))


# --- refusals


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture) -> Iterator[pytest.LogCaptureFixture]:
    """What is logged, of which nothing was said before."""
    libuv._log_once.cache_clear()
    libuv._reason_against.cache_clear()
    with caplog.at_level(logging.INFO, "aiometrics"):
        yield caplog
    libuv._log_once.cache_clear()
    libuv._reason_against.cache_clear()


def said(log: pytest.LogCaptureFixture) -> str:
    """The only line of the log, without what is the same in all of them."""
    (record,) = (record for record in log.records if record.name == "aiometrics")
    start = "aiometrics: turns and idle time of uvloop are not known: "
    assert record.getMessage().startswith(start)
    return record.getMessage().removeprefix(start)


def test_the_recorder_in_python_says_that_it_cannot(log: pytest.LogCaptureFixture) -> None:
    """It says so once, and active time is that of the segments, as on any unknown loop."""
    with every_loop("python") as made:
        for _ in range(2):
            with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                runner.run(asyncio.sleep(0.001))
        found = only(made)
    assert "this takes the C recorder, on a system with dlsym()" == said(log)
    assert (None, None, None) == (found.idle_ns, found.events, found.events_waiting)
    assert 0 == found.iterations.count
    assert found.active_ns > 0


@WITH_C
@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"__file__": socket.__file__}, "its extension module is not loaded"),
        ({"__file__": _ssl.__file__}, "its libuv has no uv_version"),
        ({"libuv_get_loop_t_ptr": None}, "shows no uv_loop_t"),
    ],
)
def test_what_is_not_as_expected_is_not_trusted(
    change: dict[str, Any],
    reason: str,
    log: pytest.LogCaptureFixture,
    loop: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The log says why, once, and the loop is traced without turns."""
    for name, value in change.items():
        monkeypatch.setattr(sys.modules["uvloop.loop"], name, value)
    with every_loop("c") as made:
        for _ in range(2):
            loop.run_until_complete(asyncio.sleep(0.001))
        found = only(made)
    assert reason in said(log)
    assert (None, 0) == (found.idle_ns, found.iterations.count)
    assert found.active_ns > 0


@WITH_C
def test_a_clock_in_python_is_not_read_without_the_gil(
    log: pytest.LogCaptureFixture, loop: Any
) -> None:
    """Callbacks of libuv run without it."""
    made = Instrumentation(
        RecordingOptions(), clock=ManualClock(), implementation=IMPLEMENTATIONS["c"]
    )
    made.instrument(loop)
    loop.run_until_complete(asyncio.sleep(0.001))
    assert only(made).idle_ns is None
    made.remove()
    assert "a clock in Python cannot be read without the GIL" == said(log)


@WITH_C
def test_a_loop_that_runs_in_another_thread_is_left_alone(
    log: pytest.LogCaptureFixture, made: Instrumentation, loop: Any
) -> None:
    """Handles are added to a loop by its own thread only."""
    runs = threading.Event()
    loop.call_soon(runs.set)
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    assert runs.wait(60)
    task = loop.create_task(asyncio.sleep(0))
    task.add_done_callback(lambda _: loop.stop())
    loop.call_soon_threadsafe(int)
    thread.join()
    assert "a loop runs in another thread than where it was first seen" == said(log)
    assert only(made).idle_ns is None
