"""However many tasks come and go, and however they end, nothing of them stays alive."""

from __future__ import annotations

import asyncio
import gc
import sys
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from typing import Any

import pytest
from support.tracing import every_loop

from aiometrics import request
from aiometrics.recorder.implementation import IMPLEMENTATIONS
from aiometrics.recorder.traced import TracedCoroutine

#: Tasks per crowd; of that many, one kept object each could not be overlooked.
CROWD = 500
#: Which no machine is too slow for: a request that takes longer is logged, and what is logged is
#: kept.
HOUR = 3600
#: Crowds until every cache is warm, and after that.
WARM, MORE = 3, 4
#: Crowds at most. What tells this process which tests to run has a thread, whose objects come and
#: go too, but not with each crowd.
PATIENCE = 40
ConnectionLimit = Callable[[], Awaitable[None]]
CROWDS: list[ConnectionLimit] = []


def crowd(function: ConnectionLimit) -> ConnectionLimit:
    """Tasks that all end in one way."""
    CROWDS.append(function)
    return function


async def returns() -> int:
    """Return after a suspension."""
    await asyncio.sleep(0)
    return 1


async def raises() -> None:
    """Raise after a suspension."""
    await asyncio.sleep(0)
    raise ValueError


async def waits() -> None:
    """Never end."""
    await asyncio.get_running_loop().create_future()


async def spawn(function: Callable[[], Any]) -> list[asyncio.Task[Any]]:
    """Many tasks that have begun."""
    tasks = [asyncio.create_task(function()) for _ in range(CROWD)]
    await asyncio.sleep(0)
    return tasks


@crowd
async def completed() -> None:
    """Each task returns."""
    await asyncio.gather(*await spawn(returns))


@crowd
async def failed() -> None:
    """Each task raises, and its exception is retrieved."""
    await asyncio.gather(*await spawn(raises), return_exceptions=True)


@crowd
async def cancelled() -> None:
    """Each task is cancelled while it waits."""
    tasks = await spawn(waits)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


@crowd
async def cancelled_before_they_began() -> None:
    """Each task is cancelled before its first step."""
    tasks = [asyncio.create_task(waits()) for _ in range(CROWD)]
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


@crowd
async def destroyed_while_pending() -> None:
    """Each task waits for a future that only it refers to, and is collected."""
    await spawn(waits)


@crowd
async def closed_unstarted() -> None:
    """Each task has a loop that is closed before it runs; its coroutine is closed by hand."""
    for _ in range(CROWD // 10):
        loop = asyncio.new_event_loop()
        loop.set_exception_handler(lambda *_: None)
        tasks = [loop.create_task(waits()) for _ in range(10)]
        for task in tasks:
            coro: Any = task.get_coro()
            coro.close()
        loop.close()


@crowd
async def not_constructed() -> None:
    """Each construction of a task fails."""
    for _ in range(CROWD):
        coro = waits()
        with suppress(TypeError):
            asyncio.Task(coro, loop=asyncio.get_running_loop(), nonsense=1)  # type: ignore[call-arg, unused-awaitable]
        coro.close()


@crowd
async def nested() -> None:
    """Each task waits for a chain of others."""

    async def chain(depth: int) -> None:
        if depth:
            await asyncio.create_task(chain(depth - 1))

    await asyncio.gather(*(chain(10) for _ in range(CROWD // 10)))


@crowd
async def subclassed() -> None:
    """Each task has a type of its own, which is collected too."""

    class Own(asyncio.Task[Any]):
        """A task."""

        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)

    await asyncio.gather(*(Own(returns(), loop=asyncio.get_running_loop()) for _ in range(CROWD)))


@crowd
async def thrown_into() -> None:
    """Each task has an exception thrown into it, and goes on."""

    async def catches() -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(0):
                await asyncio.Event().wait()
        await asyncio.sleep(0)

    await asyncio.gather(*await spawn(catches))


@crowd
async def called_back() -> None:
    """Callbacks that are not steps of tasks; one in two raises."""
    loop = asyncio.get_running_loop()
    for number in range(CROWD):
        loop.call_soon([].append if number % 2 else "no function", number)  # type: ignore[arg-type]
    await asyncio.sleep(0)
    await asyncio.sleep(0)


@crowd
async def serving_requests() -> None:
    """Each task serves a request, with a child that outlives it."""

    async def serves() -> None:
        with request("GET /", objective=HOUR):
            child = asyncio.create_task(returns())
            await returns()
        await child

    await asyncio.gather(*await spawn(serves))


@crowd
async def leaving_no_scope() -> None:
    """Each task enters one scope after the other, and leaves none."""

    async def enters() -> None:
        for _ in range(3):
            request("GET /", objective=HOUR).__enter__()
            await returns()

    await asyncio.gather(*await spawn(enters))


@crowd
async def leaving_the_scopes_of_others() -> None:
    """Each task leaves the scope that another task entered."""
    scopes = [request("GET /", objective=HOUR) for _ in range(CROWD)]

    async def enters(number: int) -> None:
        scopes[number].__enter__()
        await asyncio.sleep(0)
        scopes[number - 1].__exit__(None, None, None)
        await asyncio.sleep(0)

    await asyncio.gather(*(asyncio.create_task(enters(number)) for number in range(CROWD)))


@crowd
async def destroyed_inside_a_request() -> None:
    """Each task waits in a scope whose id refers to the task, and is collected."""

    async def visits() -> None:
        with request("GET /", id=asyncio.current_task()):
            await waits()

    await spawn(visits)


@pytest.fixture(autouse=True)
def _nothing_but_what_is_new() -> Iterator[None]:
    """Freeze what other tests left, because collecting it again and again took most of the time."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


def traced(implementation: str, objects: list[Any]) -> int:
    """Count the tasks that are traced: in C, coroutines in a table; in Python, wrappers."""
    core = IMPLEMENTATIONS[implementation].core
    return sum(type(obj) is TracedCoroutine for obj in objects) if core is None else core.followed()


def alive(implementation: str) -> str:
    """Counts of traced tasks, objects and shared references, as text, which adds no object."""
    for _ in range(3):
        gc.collect()
    objects = gc.get_objects()
    shared = (None, waits, returns.__code__, TracedCoroutine, asyncio.Task, asyncio.CancelledError)
    # Before None was immortal, each frame that is alive held some.
    counts = [
        sys.getrefcount(each) for each in (shared if sys.version_info >= (3, 12) else shared[1:])
    ]
    tasks = traced(implementation, objects)
    return f"{tasks} traced tasks, {len(objects)} objects, references {counts}"


@pytest.mark.parametrize("function", CROWDS, ids=lambda function: function.__name__)
def test_nothing_stays_alive(implementation: str, function: ConnectionLimit) -> None:
    """Counts of objects, memory blocks and references do not grow, and no task is live."""
    seen: list[str] = []
    blocks: list[int] = []

    async def main() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda *_: None)
        while len(seen) < WARM + MORE or (len(set(seen[-MORE:])) > 1 and len(seen) < PATIENCE):
            await function()
            await asyncio.sleep(0)
            seen.append(alive(implementation))
            blocks.append(sys.getallocatedblocks())

    with every_loop(implementation) as instrumentation:
        asyncio.run(main())
        snapshot = instrumentation.snapshot()
    assert seen[-1].startswith("1 traced tasks, ")  # the test's own
    assert [seen[-1]] * MORE == seen[-MORE:]
    # What is no object has no owner to be asked, and the interpreter's own caches come and go by a
    # few.
    assert blocks[-1] - blocks[-MORE] < CROWD
    assert 0 == sum(entry.live for entry in snapshot.coroutines)
    assert 0 == sum(point.suspended + point.oldest_suspension_ns for point in snapshot.yield_points)


def test_nothing_stays_alive_of_loops(implementation: str) -> None:
    """Loops that come and go leave their page to the next loop, and nothing else."""

    def alive_after(count: int) -> int:
        for _ in range(count):
            asyncio.run(returns())
        gc.collect()
        instrumentation.snapshot()
        gc.collect()
        return len(gc.get_objects())

    with every_loop(implementation) as instrumentation:
        alive_after(30)
        assert any(alive_after(30) == alive_after(30) for _ in range(PATIENCE))
        assert 1 == len(instrumentation.snapshot().loops)


def test_nothing_stays_alive_of_an_instrumentation(implementation: str) -> None:
    """Installing and removing it again and again leaves nothing."""

    def once() -> None:
        with every_loop(implementation):
            asyncio.run(returns())

    def alive_after(count: int) -> int:
        for _ in range(count):
            once()
        gc.collect()
        return len(gc.get_objects())

    alive_after(10)
    assert any(alive_after(10) == alive_after(10) for _ in range(PATIENCE))
