"""The table of the C core that leads from a coroutine to what is known of its task.

It keeps no coroutine alive, so no entry may be left when one is freed: another coroutine may get
its address.
"""

from __future__ import annotations

import asyncio
import gc
import random
import subprocess
import sys
import threading
import weakref
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import pytest
from support.tracing import every_loop

from aiometrics import request
from aiometrics.recorder.implementation import IMPLEMENTATIONS

COUNT = 10_000


@pytest.fixture(name="core")
def _core() -> Iterator[Any]:
    """The C core, which traces every loop. Nothing is in the table before and after.

    What earlier tests left is collected first. Collections during the test look at what it made
    only: there are thousands of them.
    """
    if "c" not in IMPLEMENTATIONS:
        pytest.skip("the C core is not built here")
    core = IMPLEMENTATIONS["c"].core
    gc.collect()
    gc.freeze()
    try:
        with every_loop("c") as instrumentation:
            assert 0 == core.followed()
            yield core
            gc.collect()
            seen = instrumentation.snapshot()
    finally:
        gc.unfreeze()
    assert 0 == core.followed()
    assert {} == seen.errors
    assert 0 == sum(entry.live for entry in seen.coroutines)
    assert 0 == sum(point.suspended for point in seen.yield_points)


async def returns() -> int:
    """Suspend once."""
    await asyncio.sleep(0)
    return 1


async def waits() -> None:
    """Wait for what never comes."""
    await asyncio.get_running_loop().create_future()


def quiet() -> asyncio.AbstractEventLoop:
    """Return the running loop, which says nothing of tasks that are destroyed while pending."""
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda *_: None)
    return loop


def test_what_is_done_is_in_the_table_no_more(core: Any) -> None:
    """Only the test's own task is left, however many there were."""

    async def main() -> None:
        for _ in range(3):
            tasks = [asyncio.create_task(returns()) for _ in range(COUNT)]
            assert COUNT + 1 == core.followed()
            assert all(core.follows(task.get_coro()) for task in tasks)
            await asyncio.gather(*tasks)
            assert 1 == core.followed()
            assert not any(core.follows(task.get_coro()) for task in tasks)

    asyncio.run(main())


def test_what_is_abandoned_is_in_the_table_no_more(core: Any) -> None:
    """Tasks that are destroyed while pending go with their coroutines."""

    async def main() -> None:
        quiet()
        tasks = [asyncio.create_task(waits()) for _ in range(COUNT)]
        await asyncio.sleep(0)
        assert COUNT + 1 == core.followed()
        tasks.clear()
        gc.collect()
        assert 1 == core.followed()

    asyncio.run(main())


def test_what_is_closed_is_in_the_table_no_more(core: Any) -> None:
    """Whether it was started or not, and whether its task is still there."""

    async def main() -> None:
        loop = quiet()
        tasks: list[Any] = [asyncio.create_task(waits()) for _ in range(COUNT)]
        for task in tasks:
            task.get_coro().close()
        assert 1 == core.followed()
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        running: list[Any] = [loop.create_task(waits()) for _ in range(COUNT)]
        await asyncio.sleep(0)
        for task in running:
            task.get_coro().close()
        assert 1 == core.followed()
        running.clear()
        gc.collect()

    asyncio.run(main())


def test_what_got_no_task_is_in_the_table_no_more(core: Any) -> None:
    """Its construction failed."""

    async def main() -> None:
        construct: Any = asyncio.Task
        for _ in range(1000):
            coro = returns()
            with suppress(TypeError):
                construct(coro, nonsense=True)
            assert not core.follows(coro)
            coro.close()
        assert 1 == core.followed()

    asyncio.run(main())


@pytest.mark.parametrize("seed", range(5))
def test_entries_come_and_go_in_any_order(core: Any, seed: int) -> None:
    """The table finds each coroutine that it has, and no other, as it grows and shrinks."""
    draw = random.Random(seed)  # noqa: S311 - it must be the same in every run

    async def main() -> None:
        quiet()
        alive: list[Any] = []
        for _ in range(20):
            alive += [asyncio.create_task(waits()) for _ in range(draw.randrange(500))]
            draw.shuffle(alive)
            del alive[: draw.randrange(len(alive) + 1)]
            await asyncio.sleep(0)
            gc.collect()
            assert len(alive) + 1 == core.followed()
            assert all(core.follows(task.get_coro()) for task in alive)
            assert not core.follows(waits)

    asyncio.run(main())


@pytest.mark.parametrize("how", ["awaited", "sent"])
def test_a_coroutine_that_is_finished_by_another_leaves_nothing_behind(core: Any, how: str) -> None:
    """Its task never steps it; what comes to its address is not taken for it."""

    async def finish(coro: Any) -> None:
        if how == "awaited":
            await coro
            return
        with suppress(StopIteration):
            while True:
                coro.send(None)

    async def main() -> None:
        quiet()
        for _ in range(100):
            coro = returns()
            loop = asyncio.new_event_loop()
            task: Any = loop.create_task(coro)
            task._log_destroy_pending = False
            await finish(coro)
            loop.close()
            address = id(coro)
            del coro, task, loop
            gc.collect()
            assert 1 == core.followed()
            others = [returns() for _ in range(10)]
            assert not any(core.follows(other) for other in others), address
            for other in others:
                other.close()

    asyncio.run(main())


def test_a_coroutine_that_its_finalizer_brings_back_is_forgotten(core: Any) -> None:
    """Its finalizer does not run again when it is freed at last."""
    saved: list[Any] = []
    found: list[weakref.ref[Any]] = []

    async def returning() -> None:
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            saved.extend(reference() for reference in found)

    async def main() -> None:
        quiet()
        task: Any = asyncio.create_task(returning())
        found.append(weakref.ref(task.get_coro()))
        await asyncio.sleep(0)
        del task
        gc.collect()
        again = [asyncio.ensure_future(each) for each in saved if each is not None]
        await asyncio.sleep(0)
        await asyncio.gather(*again, return_exceptions=True)
        saved.clear()
        again.clear()
        gc.collect()
        assert 1 == core.followed()

    asyncio.run(main())


def test_a_scope_that_refers_to_its_task_keeps_nothing_alive(core: Any) -> None:
    """The record of the task refers to the scope, which the collector must know."""

    class Id:
        """Refers to the task."""

        def __init__(self) -> None:
            self.task = asyncio.current_task()

    ids: list[weakref.ref[Id]] = []

    async def visits() -> None:
        identity = Id()
        ids.append(weakref.ref(identity))
        request("GET /", id=identity).__enter__()
        del identity
        await waits()

    async def main() -> None:
        quiet()
        tasks = [asyncio.create_task(visits()) for _ in range(10)]
        await asyncio.sleep(0)
        assert all(identity() for identity in ids)
        tasks.clear()
        gc.collect()
        assert not any(identity() for identity in ids)
        assert 1 == core.followed()

    asyncio.run(main())


def test_two_tasks_of_one_coroutine_end_as_they_would_untraced(core: Any) -> None:
    """The second one raises, as asyncio does, and nothing is left of either."""

    async def main() -> list[Any]:
        coro = returns()
        tasks = [asyncio.create_task(coro), asyncio.create_task(coro)]
        return await asyncio.gather(*tasks, return_exceptions=True)

    results = asyncio.run(main())
    assert [1] == [result for result in results if result == 1] or all(
        isinstance(result, RuntimeError | int) for result in results
    )
    assert 0 == core.followed()


def test_removal_in_the_middle_of_a_step(core: Any) -> None:
    """The step ends untimed, and its record is freed."""

    async def main() -> int:
        with every_loop("c"):
            await asyncio.sleep(0)
            inner.remove()
        return await returns()

    with every_loop("c") as inner:
        assert 1 == asyncio.run(main())
    assert 0 == core.followed()


@pytest.mark.skipif(
    sys.version_info < (3, 13), reason="interpreters in threads crash this Python without us, too"
)
def test_coroutines_of_other_interpreters_pass_through(core: Any) -> None:
    """They run at the same time, each under a lock of its own."""
    del core
    done = subprocess.run(
        [sys.executable, "-c", INTERPRETERS], check=False, capture_output=True, text=True
    )
    assert ("[None, None, None] 0 {}\n", "") == (done.stdout, done.stderr)


INTERPRETERS = """
import asyncio, sys, threading
import aiometrics
from aiometrics.recorder import _core
from aiometrics.testing import traced_loop

CODE = '''
import asyncio
async def returns():
    await asyncio.sleep(0)
async def main():
    for _ in range(20):
        await asyncio.gather(*(returns() for _ in range(100)))
asyncio.run(main())
'''

import _interpreters

def run():
    interpreter = _interpreters.create("isolated")
    results.append(_interpreters.exec(interpreter, CODE))
    _interpreters.destroy(interpreter)

async def returns():
    await asyncio.sleep(0)

async def main():
    while any(thread.is_alive() for thread in threads):
        await asyncio.gather(*(returns() for _ in range(100)))

results = []
with traced_loop() as traced:
    threads = [threading.Thread(target=run) for _ in range(3)]
    for thread in threads:
        thread.start()
    traced.run(main())
    errors = traced.snapshot().errors
print(results, _core.followed(), errors)
"""


def test_what_something_else_has_replaced_since_is_left_in_place(core: Any) -> None:
    """A method that was patched above ours still works, and the log says so once."""
    del core
    pytest.importorskip("ctypes")
    done = subprocess.run(
        [sys.executable, "-c", REPLACED], check=False, capture_output=True, text=True
    )
    assert (
        "ours False\ntheirs True\nleft True\nresult 1\nagain 1\n",
        f"aiometrics: {LEFT}\n",
    ) == (done.stdout, done.stderr)


LEFT = "coroutine.am_send was replaced while tasks were traced, and is left as it is"
REPLACED = """
import asyncio, ctypes, sys
import aiometrics

class AsyncMethods(ctypes.Structure):
    _fields_ = [(name, ctypes.c_void_p) for name in ("await_", "aiter", "anext", "send")]

SEND = ctypes.PYFUNCTYPE(ctypes.c_int, ctypes.py_object, ctypes.py_object, ctypes.c_void_p)

async def returns():
    await asyncio.sleep(0)
    return 1

coro = returns()
kind = type(coro)
coro.close()
words = ctypes.cast(id(kind), ctypes.POINTER(ctypes.c_void_p))
TP_AS_ASYNC = 10
methods = ctypes.cast(words[TP_AS_ASYNC], ctypes.POINTER(AsyncMethods)).contents
before = methods.send
exporter = aiometrics.start_exporter(port=0, addr="127.0.0.1")
ours = methods.send
print("ours", ours == before)
calls = []
def theirs(coro, value, result):
    calls.append(1)
    return SEND(ours)(coro, value, result)
kept = SEND(theirs)
methods.send = ctypes.cast(kept, ctypes.c_void_p).value
asyncio.run(returns())
print("theirs", bool(calls))
exporter.stop()
print("left", methods.send == ctypes.cast(kept, ctypes.c_void_p).value)
print("result", asyncio.run(returns()))
exporter = aiometrics.start_exporter(port=0, addr="127.0.0.1")
asyncio.run(returns())
print("again", aiometrics.snapshot().coroutine("__main__.returns").created)
methods.send = ours
exporter.stop()
"""


def test_threads_have_their_own_steps(core: Any) -> None:
    """Loops in several threads share the table."""
    results: list[int] = []

    async def main() -> None:
        for _ in range(50):
            results.extend(await asyncio.gather(*(returns() for _ in range(20))))

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        threads = [threading.Thread(target=asyncio.run, args=(main(),)) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(interval)
    assert [1] * 4000 == results
    assert 0 == core.followed()
