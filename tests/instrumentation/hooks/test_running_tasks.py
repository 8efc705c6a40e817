"""With the C core, tasks that already run when tracing starts are traced from their next step."""

from __future__ import annotations

import asyncio
import gc
import logging
import subprocess
import sys
import threading
from asyncio import tasks as asyncio_tasks
from collections.abc import Callable
from typing import Any

import pytest
import uvloop
from support.tracing import every_loop

from aiometrics import request
from aiometrics.pages.snapshot import Snapshot
from aiometrics.recorder.implementation import IMPLEMENTATIONS

MakeLoop = Callable[[], asyncio.AbstractEventLoop]
LOOPS = pytest.mark.parametrize(
    "make_loop", [asyncio.SelectorEventLoop, uvloop.new_event_loop], ids=["asyncio", "uvloop"]
)
PY_TASK: Any = vars(asyncio_tasks)["_PyTask"]


pytestmark = pytest.mark.skipif(
    "c" not in IMPLEMENTATIONS,
    reason="the recorder in Python sees no task that was created before it started",
)


async def waits(event: asyncio.Event) -> int:
    """Wait twice for an event, then return."""
    await event.wait()
    await asyncio.sleep(0)
    return 1


async def raises(event: asyncio.Event) -> None:
    """Wait for an event, then raise."""
    await event.wait()
    raise ValueError("raised")


def counts(seen: Snapshot, name: str) -> tuple[int, int, int, int]:
    """Return how many tasks were created, are live, were destroyed, and have ended."""
    found = next(entry for entry in seen.coroutines if entry.coroutine.endswith(f".{name}"))
    ended = sum(histogram.count for histogram in found.wall.values())
    return found.created, found.live, found.destroyed_pending, ended


def ends(seen: Snapshot, name: str) -> dict[str, int]:
    """Return how many tasks have returned and raised, by the segments that they ended with."""
    return {
        point.yield_point: point.segments.count
        for point in seen.yield_points
        if point.coroutine.endswith(f".{name}") and point.yield_point in ("(return)", "(raise)")
    }


@LOOPS
def test_a_thousand_running_tasks_are_traced(make_loop: MakeLoop) -> None:
    """Results, exceptions and cancellation are intact; what was unknown is not in the numbers."""

    async def main() -> None:
        event, never = asyncio.Event(), asyncio.Event()
        running = [asyncio.create_task(waits(event)) for _ in range(1000)]
        failing = [asyncio.create_task(raises(event)) for _ in range(10)]
        cancelled = [asyncio.create_task(waits(never)) for _ in range(10)]
        await asyncio.sleep(0)
        with every_loop("c") as instrumentation:
            await asyncio.sleep(0)
            assert 1020 == instrumentation.snapshot().untraced_tasks
            event.set()
            await asyncio.sleep(0)
            seen = instrumentation.snapshot()
            assert 10 == seen.untraced_tasks  # they have not been stepped
            assert (0, 1000, 0, 0) == counts(seen, "waits")
            for task in cancelled:
                task.cancel()
            assert [1] * 1000 == await asyncio.gather(*running)
            failures = await asyncio.gather(*failing, *cancelled, return_exceptions=True)
            assert [ValueError] * 10 + [asyncio.CancelledError] * 10 == list(map(type, failures))
            assert {("raised",)} == {error.args for error in failures[:10]}  # type: ignore[union-attr]
            seen = instrumentation.snapshot()
            assert {"(return)": 1000, "(raise)": 10} == ends(seen, "waits")
            assert {"(raise)": 10} == ends(seen, "raises")
            assert {} == seen.errors
            assert 0 == sum(loop.start_delay.count for loop in seen.loops)
            assert 1000 == sum(
                point.waits.count
                for point in seen.yield_points
                if point.coroutine.endswith(".waits")
            )

    gc.collect()  # tasks that other tests left, which would count
    with asyncio.Runner(loop_factory=make_loop) as runner:
        runner.run(main())


def test_the_tasks_of_every_running_loop_are_traced() -> None:
    """Loops in other threads need no call of their own, and no new task."""
    events: list[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = []
    ready, traced = threading.Barrier(4), threading.Barrier(3)

    async def main() -> None:
        event = asyncio.Event()
        events.append((asyncio.get_running_loop(), event))
        task = asyncio.create_task(waits(event))
        await asyncio.sleep(0)
        ready.wait()
        await task
        traced.wait()  # until all are, so that none takes over the page of another

    threads = [threading.Thread(target=asyncio.run, args=(main(),)) for _ in range(3)]
    for thread in threads:
        thread.start()
    ready.wait()
    with every_loop("c") as instrumentation:
        for loop, event in events:
            loop.call_soon_threadsafe(event.set)
        for thread in threads:
            thread.join()
        seen = instrumentation.snapshot()
    assert {"(return)": 3} == ends(seen, "waits")
    assert 3 == len(seen.loops)


def test_running_tasks_are_traced_again_after_a_restart() -> None:
    """The second time too, they go on from their next step."""

    async def main() -> None:
        event = asyncio.Event()
        task = asyncio.create_task(waits(event))
        await asyncio.sleep(0)
        for _ in range(2):
            with every_loop("c"):
                await asyncio.sleep(0)
        with every_loop("c") as instrumentation:
            event.set()
            await task
            assert {"(return)": 1} == ends(instrumentation.snapshot(), "waits")

    asyncio.run(main())


COMES_AND_GOES = """
import asyncio, sys, threading
import aiometrics

sys.setswitchinterval(1e-6)
over = threading.Event()

def come_and_go():
    for _ in range(100):
        options = {"registry": None, "watchdog": False, "sample_interval": 0}
        aiometrics.start_exporter(0, "127.0.0.1", **options).stop()
    over.set()

async def works():
    await asyncio.sleep(0)

async def main():
    while not over.is_set():
        await asyncio.create_task(works())

threading.Thread(target=come_and_go).start()
asyncio.run(main())
print("over")
"""


def test_a_thread_may_start_and_stop_exporters_beside_a_busy_loop() -> None:
    """A recorder may be stopped while it adopts the task that is about to run."""
    done = subprocess.run(
        [sys.executable, "-P", "-c", COMES_AND_GOES],
        check=False,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert (0, "over\n", "") == (done.returncode, done.stdout, done.stderr)


def test_running_tasks_of_a_loop_that_is_chosen_later_are_traced() -> None:
    """Those of a loop that is no longer chosen run on, untimed, and can be chosen again."""

    async def main() -> None:
        instrumentation.uninstrument(loop)
        event = asyncio.Event()
        task = asyncio.create_task(waits(event))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert not IMPLEMENTATIONS["c"].follows(task.get_coro())
        instrumentation.instrument(loop)
        event.set()
        await task

    with every_loop("c") as instrumentation:
        pass
    loop, other = asyncio.new_event_loop(), asyncio.new_event_loop()
    instrumentation.instrument(other)
    instrumentation.instrument(loop)
    loop.run_until_complete(main())
    assert {"(return)": 1} == ends(instrumentation.snapshot(), "waits")
    instrumentation.remove()
    loop.close()
    other.close()


def test_one_in_many_running_tasks_is_traced_with_a_sample() -> None:
    """Each is drawn once, however often it is stepped."""

    async def works() -> None:
        for _ in range(20):
            await asyncio.sleep(0)

    async def main() -> None:
        running = [asyncio.create_task(works()) for _ in range(1000)]
        await asyncio.sleep(0)
        with every_loop("c", sample=1 / 10) as instrumentation:
            await asyncio.gather(*running)
            assert 500 < ends(instrumentation.snapshot(), "works")["(return)"] < 1500

    asyncio.run(main())


def test_a_running_task_belongs_to_the_request_of_its_context() -> None:
    """If the request began while tracing, the task that a foreign type runs belongs to it."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        with every_loop("c") as instrumentation, request("GET /"):
            await asyncio.sleep(0)
            await PY_TASK(waits(event), loop=loop)
        seen = instrumentation.snapshot().request("GET /")
        assert 1 == seen.wall["completed"].count

    event = asyncio.Event()
    event.set()
    asyncio.run(main())


@pytest.mark.parametrize("when", ["before", "after"])
def test_tasks_in_python_are_traced(monkeypatch: pytest.MonkeyPatch, when: str) -> None:
    """Tools that put them in place of the tasks in C, as nest_asyncio does, hide none of them."""

    def replace() -> None:
        for module in (asyncio, asyncio_tasks):
            monkeypatch.setattr(module, "Task", PY_TASK)

    async def main() -> None:
        event = asyncio.Event()
        running = [asyncio.create_task(waits(event)), asyncio.create_task(raises(event))]
        assert {PY_TASK} == {type(task) for task in running}
        cancelled = asyncio.create_task(waits(asyncio.Event()))
        await asyncio.sleep(0)
        event.set()
        cancelled.cancel()
        await asyncio.gather(*running, cancelled, return_exceptions=True)

    if when == "before":
        replace()
    with every_loop("c") as instrumentation:
        replace()
        asyncio.run(main())
        seen = instrumentation.snapshot()
    assert ((2, 0, 0, 2), (1, 0, 0, 1)) == (counts(seen, "waits"), counts(seen, "raises"))
    assert {"(return)": 1, "(raise)": 1} == ends(seen, "waits")


def test_tasks_of_a_derived_type_in_python_are_traced_from_their_first_step() -> None:
    """Nobody sees them being created."""

    class Own(PY_TASK):  # type: ignore[misc]  # it is Any
        """A task in Python with a constructor of its own."""

        def __init__(self, coro: Any, **options: Any) -> None:
            super().__init__(coro, **options)

    async def main() -> None:
        event = asyncio.Event()
        event.set()
        await Own(waits(event), loop=asyncio.get_running_loop())

    with every_loop("c") as instrumentation:
        asyncio.run(main())
        seen = instrumentation.snapshot()
    assert {"(return)": 1} == ends(seen, "waits")
    assert 0 == seen.untraced_tasks


def test_tasks_whose_constructor_was_replaced_are_traced_and_logged_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """They are traced from their first step on; the log names what was replaced."""
    original = PY_TASK.__init__

    def construct(task: Any, coro: Any, **options: Any) -> None:
        original(task, coro, **options)

    async def main() -> None:
        loop = asyncio.get_running_loop()
        for _ in range(2):
            event = asyncio.Event()
            event.set()
            await PY_TASK(waits(event), loop=loop)

    with caplog.at_level(logging.WARNING), every_loop("c") as instrumentation:
        monkeypatch.setattr(PY_TASK, "__init__", construct)
        asyncio.run(main())
        seen = instrumentation.snapshot()
    assert {"(return)": 2} == ends(seen, "waits")
    (record,) = (record for record in caplog.records if record.name == "aiometrics")
    assert record.getMessage() == (
        "aiometrics: asyncio.tasks._PyTask.tp_init was replaced, so tasks are traced from their "
        "first step on only"
    )


class ForeignTask(asyncio.Future[Any]):
    """Something that runs a coroutine as a task does, and is no task of asyncio's."""

    def __init__(self, coro: Any, loop: Any) -> None:
        super().__init__(loop=loop)
        self._coro = coro
        self._loop.call_soon(self.step)

    def step(self) -> None:
        """Run the coroutine to its end."""
        asyncio_tasks._enter_task(self._loop, self)  # type: ignore[arg-type]
        try:
            self._coro.send(None)
        except StopIteration as stop:
            self.set_result(stop.value)
        finally:
            asyncio_tasks._leave_task(self._loop, self)  # type: ignore[arg-type]


def test_tasks_of_another_making_are_left_alone_and_logged_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The log names their type."""

    async def returns() -> int:
        return 1

    async def main() -> list[int]:
        loop = asyncio.get_running_loop()
        return [await ForeignTask(returns(), loop) for _ in range(3)]

    with caplog.at_level(logging.WARNING), every_loop("c") as instrumentation:
        assert [1, 1, 1] == asyncio.run(main())
        seen = instrumentation.snapshot()
    assert {} == ends(seen, "returns")
    (record,) = (record for record in caplog.records if record.name == "aiometrics")
    assert record.getMessage() == (
        f"aiometrics: tasks of the type {__name__}.ForeignTask are not traced, because it is not "
        "derived from asyncio.Task"
    )


@pytest.mark.skipif(sys.version_info < (3, 12), reason="eager tasks came with Python 3.12")
def test_eager_children_of_running_tasks_are_traced() -> None:
    """Their first step is inside of a step that is traced, or of one that is not yet."""

    async def child() -> None:
        await asyncio.sleep(0)

    async def main() -> None:
        loop: Any = asyncio.get_running_loop()
        construct: Any = asyncio.Task
        with every_loop("c") as instrumentation:
            for _ in range(2):
                await construct(child(), loop=loop, eager_start=True)
            seen = instrumentation.snapshot()
        assert (2, 0, 0, 2) == counts(seen, "child")

    asyncio.run(main())
