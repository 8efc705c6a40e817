"""The list of live tasks: what each one waits for, since when, and who created it."""

from __future__ import annotations

import asyncio
import gc
import json
import sys
import types
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

import aiometrics
from aiometrics.base.yielding import no_pause
from aiometrics.exposition.task_list import LiveTask, Parent, RequestOfTask, TaskList, duration
from aiometrics.testing import TracedLoop, traced_loop

SECOND_NS = 1_000_000_000


@pytest.fixture
def traced(implementation: str) -> Iterator[TracedLoop]:
    """A virtual loop, traced by each recorder."""
    gc.collect()  # tasks that other tests left, which would be listed
    with traced_loop(implementation=implementation, application=[__name__]) as made:
        yield made


def listed(traced: TracedLoop, limit: int = 100) -> TaskList:
    """Return the live tasks now."""
    return traced.instrumentation.live_tasks.take(limit, no_pause)


def by_name(found: TaskList) -> dict[str, LiveTask]:
    """Return tasks by the last part of their coroutine's name."""
    return {task.coroutine.rpartition(".")[2]: task for task in found.tasks}


async def parked(event: asyncio.Event) -> None:
    """Wait below another coroutine."""
    await nested(event)


async def nested(event: asyncio.Event) -> None:
    """Wait for an event."""
    await event.wait()


async def joins(task: asyncio.Task[None]) -> None:
    """Wait for another task."""
    await task


def test_each_task_has_its_chain_parent_age_and_request(traced: TracedLoop) -> None:
    """The numbers are exact in virtual time."""
    lists = []

    async def main() -> None:
        event = asyncio.Event()
        with aiometrics.request("GET /orders", id="R-1"):
            waiting = asyncio.create_task(parked(event), name="the one")
            await asyncio.sleep(2)
        other = asyncio.create_task(joins(waiting))
        await asyncio.sleep(3)
        lists.append(listed(traced))
        event.set()
        await other

    traced.run(main())
    (found,) = lists
    tasks = by_name(found)
    assert ["main", "parked", "joins"] == [
        task.coroutine.rpartition(".")[2] for task in found.tasks
    ]
    assert 0 == found.left_out
    parent = Parent(tasks["main"].number or 0, tasks["main"].coroutine)
    one, two = tasks["parked"], tasks["joins"]
    assert (5 * SECOND_NS, 5 * SECOND_NS, "waiting") == (one.age_ns, one.state_ns, one.state)
    assert (3 * SECOND_NS, parent, parent) == (two.age_ns, two.parent, one.parent)
    assert ("the one", None) == (one.name, two.name)
    assert (RequestOfTask("GET /orders", "R-1"), None) == (one.request, two.request)
    assert ["parked", "nested", "Event.wait"] == [place.split()[1] for place in one.chain]
    assert ("Future", None) == (one.awaits, one.awaits_coroutine)
    assert ("Task", one.coroutine) == (two.awaits, two.awaits_coroutine)
    assert ("running", None) == (tasks["main"].state, tasks["main"].request)


def test_a_task_that_was_not_begun_is_listed_as_created(traced: TracedLoop) -> None:
    """It has no chain below its root."""
    lists = []

    async def main() -> None:
        task = asyncio.create_task(parked(asyncio.Event()))
        lists.append(listed(traced))
        task.cancel()

    traced.run(main())
    found = by_name(lists[0])["parked"]
    assert ("created", 0, 0) == (found.state, found.age_ns, found.state_ns)
    assert (None, 1) == (found.awaits, len(found.chain))


def test_the_oldest_are_listed_and_the_rest_is_counted(traced: TracedLoop) -> None:
    """Also tasks that nobody traces are counted, and come last."""
    lists = []

    async def main() -> None:
        event = asyncio.Event()
        tasks = []
        for _ in range(5):
            tasks.append(asyncio.create_task(parked(event)))
            await asyncio.sleep(1)
        lists.append(listed(traced, 3))
        event.set()
        await asyncio.gather(*tasks)

    traced.run(main())
    (found,) = lists
    assert (3, 3) == (len(found.tasks), found.left_out)
    assert [5 * SECOND_NS, 5 * SECOND_NS, 4 * SECOND_NS] == [task.age_ns for task in found.tasks]


def test_a_task_outlives_its_creator(traced: TracedLoop) -> None:
    """Its creator's number stays, without a name."""
    lists = []
    event = asyncio.Event()
    tasks: list[asyncio.Task[None]] = []

    async def creator() -> None:
        tasks.append(asyncio.create_task(parked(event)))

    async def main() -> None:
        await asyncio.create_task(creator())
        lists.append(listed(traced))
        event.set()
        await asyncio.gather(*tasks)

    traced.run(main())
    parent = by_name(lists[0])["parked"].parent
    assert parent is not None
    assert None is parent.coroutine
    assert parent.number > 0


def test_the_middle_of_a_deep_chain_is_left_out(traced: TracedLoop) -> None:
    """The root and the innermost frames are shown."""
    lists = []

    async def deep(depth: int, event: asyncio.Event) -> None:
        await (deep(depth - 1, event) if depth else event.wait())

    async def main() -> None:
        event = asyncio.Event()
        task = asyncio.create_task(deep(99, event))
        await asyncio.sleep(1)
        lists.append(listed(traced))
        event.set()
        await task

    traced.run(main())
    found = next(task for task in lists[0].tasks if task.coroutine.endswith("deep"))
    assert (32, 69) == (len(found.chain), found.chain_left_out)
    assert found.chain[-1].endswith("Event.wait")
    assert "... 69 more frames" in lists[0].as_text()


def test_generators_and_iterations_are_followed(traced: TracedLoop) -> None:
    """The chain goes through asynchronous generators and decorated generators."""
    lists = []

    @types.coroutine
    def bare() -> Iterator[Any]:
        yield from asyncio.get_running_loop().create_future()

    async def source() -> AsyncIterator[None]:
        await bare()
        yield

    async def reads() -> None:
        async for _ in source():
            pass

    async def main() -> None:
        task = asyncio.create_task(reads())
        await asyncio.sleep(1)
        lists.append(listed(traced))
        task.cancel()
        await asyncio.wait([task])

    traced.run(main())
    found = next(task for task in lists[0].tasks if task.coroutine.endswith("reads"))
    assert ["reads", "source", "bare"] == [place.rpartition(".")[2] for place in found.chain]


def test_json_and_text_say_the_same(traced: TracedLoop) -> None:
    """Seconds in JSON; a paragraph for each task in text, in ASCII."""
    lists = []

    async def main() -> None:
        event = asyncio.Event()
        with aiometrics.request("GET /ä", id="R-1"):
            task = asyncio.create_task(parked(event))
            await asyncio.sleep(61)
        lists.append(listed(traced))
        event.set()
        await task

    traced.run(main())
    (found,) = lists
    written = json.loads(found.as_json())
    (one,) = (task for task in written["tasks"] if task["request"])
    assert (61.0, 61.0, "waiting") == (one["age_seconds"], one["state_seconds"], one["state"])
    assert {"type": "GET /ä", "id": "R-1"} == one["request"]
    text = found.as_text()
    assert text.isascii()
    assert r"request GET /\xe4 R-1" in text
    assert "1 min 1 s old, waiting for 1 min 1 s" in text
    assert f"created by #{one['parent']['number']} {one['parent']['coroutine']}" in text


def test_tasks_that_are_not_traced_come_last(traced: TracedLoop) -> None:
    """They have names and chains, but no age."""
    lists = []
    loop = traced.loop
    event = asyncio.Event()

    async def main() -> None:
        task = asyncio.create_task(parked(event))
        await asyncio.sleep(1)
        traced.instrumentation.uninstrument(loop)
        lists.append(listed(traced))
        event.set()
        await task

    traced.run(main())
    found = by_name(lists[0])["parked"]
    assert (None, None, None) == (found.age_ns, found.loop, found.parent)
    assert found.chain[-1].endswith("Event.wait")
    assert "not traced" in lists[0].as_text()


@pytest.mark.parametrize(
    ("ns", "text"),
    [
        (1_500_000, "1.5 ms"),
        (1_500_000_000, "1.5 s"),
        (61 * SECOND_NS, "1 min 1 s"),
        (3661 * SECOND_NS, "1 h 1 min"),
        (90_000 * SECOND_NS, "1 d 1 h"),
    ],
)
def test_durations_have_two_units(ns: int, text: str) -> None:
    """The larger one, and the one below it."""
    assert text == duration(ns)


@pytest.mark.skipif(sys.version_info < (3, 12), reason="eager tasks came with Python 3.12")
def test_an_eager_child_and_its_creator_both_run(traced: TracedLoop) -> None:
    """The calls in progress are those of the thread."""
    lists = []

    async def child() -> None:
        lists.append(listed(traced))

    async def main() -> None:
        options: dict[str, Any] = {"loop": asyncio.get_running_loop(), "eager_start": True}
        await asyncio.Task(child(), **options)

    traced.run(main())
    running = [task for task in lists[0].tasks if task.state == "running"]
    assert {"main", "child"} == {task.coroutine.rpartition(".")[2] for task in running}
    assert all(any("child" in place for place in task.chain) for task in running)
