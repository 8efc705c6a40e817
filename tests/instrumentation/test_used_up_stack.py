"""Programs that run their loops where the stack is almost used up."""

from __future__ import annotations

import asyncio
import gc
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import pytest
from support.new_code import new_code
from support.tracing import every_loop

from aiometrics import request
from aiometrics.recorder.implementation import IMPLEMENTATIONS
from aiometrics.recorder.labels import Labels
from aiometrics.testing import traced_loop

#: Frames that are left where the loop begins to run. The fewest are what a bare loop needs, and
#: with the most, we have all that we need.
LEFT = range(24, 120)


def depth() -> int:
    """How many frames of Python the stack has."""
    frame, frames = sys._getframe(), 0
    while frame is not None:
        frame, frames = frame.f_back, frames + 1  # type: ignore[assignment]  # the outermost has none
    return frames


def with_frames_left(left: int, call: Callable[[], Any]) -> Any:
    """Call a function where only so many frames are left."""

    def deeper(frames: int) -> Any:
        return call() if frames <= 0 else deeper(frames - 1)

    return deeper(sys.getrecursionlimit() - depth() - left)


def run(left: int) -> bool:
    """Run the program where so few frames are left, and say whether it came to its end."""
    done: list[None] = []
    loop = asyncio.new_event_loop()
    loop.set_exception_handler(lambda *_: None)
    main = new_code(loop, done)["main"]()
    try:
        with_frames_left(left, lambda: loop.run_until_complete(main))
    except RecursionError:
        done.clear()
    finally:
        main.close()
        for task in asyncio.all_tasks(loop):
            task.cancel()
        loop.run_until_complete(asyncio.sleep(0))
        loop.close()
    return bool(done)


@pytest.fixture
def _no_collection() -> Iterator[None]:
    """No garbage is collected: what is called then, such as Hypothesis's callback, needs frames."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


@pytest.mark.usefixtures("_no_collection")
@pytest.mark.skipif("c" not in IMPLEMENTATIONS, reason="the recorder in Python needs frames itself")
def test_a_stack_that_is_used_up_costs_names_and_nothing_else() -> None:
    """The program ends as without us, and what is named later has its name."""
    bare = [run(left) for left in LEFT]
    with every_loop("c") as traced:
        assert bare == [run(left) for left in LEFT]
        before = traced.snapshot().coroutine("new_code.work").created
        assert run(500)
        seen = traced.snapshot()
    assert before + 1 == seen.coroutine("new_code.work").created
    assert {"new_code.py:8 work", "(return)"} <= {
        point.yield_point for point in seen.yield_points_of("new_code.work")
    }


def spare_frame() -> None:
    """Needs one frame."""


def collect_with_a_frame_left() -> None:
    """Collect garbage where a function in Python can still be called."""
    spare_frame()
    gc.collect()


@pytest.fixture
def _no_other_callbacks() -> Iterator[None]:
    """Collections call no callbacks of other tools and tests, which need frames."""
    others = list(gc.callbacks)
    gc.callbacks.clear()
    yield
    gc.callbacks[:] = others


@pytest.mark.usefixtures("_no_collection", "_no_other_callbacks")
def test_a_collection_where_the_stack_is_used_up_is_not_noticed(
    implementation: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The interpreter prints nothing, and later collections are timed."""
    printed: list[Any] = []
    monkeypatch.setattr(sys, "unraisablehook", printed.append)
    collect = gc.collect if implementation == "c" else collect_with_a_frame_left

    async def main() -> None:
        for left in range(40):
            with suppress(RecursionError):
                with_frames_left(left, collect)

    async def collect_once() -> None:
        gc.collect()

    loop = asyncio.new_event_loop()
    with every_loop(implementation) as traced:
        loop.run_until_complete(main())
        before_ns = sum(traced.snapshot().loops[0].gc_pauses_ns)
        loop.run_until_complete(collect_once())
        assert before_ns < sum(traced.snapshot().loops[0].gc_pauses_ns)
        loop.close()
    assert [] == printed


@pytest.mark.parametrize("error", [RecursionError, MemoryError])
@pytest.mark.parametrize(
    "name",
    [
        "callback",
        "chain_node",
        "coroutine",
        "origin",
        "pseudo_point",
        "request_wait",
        "transparent",
        "yield_point",
    ],
)
def test_what_cannot_be_named_now_is_counted_under_other_and_named_later(
    implementation: str, name: str, error: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each place in the naming where the stack, or the memory, can be used up."""
    original = getattr(Labels, name)
    failed: list[None] = []

    def fail_once(*args: Any) -> Any:
        if failed:
            return original(*args)
        failed.append(None)
        raise error

    async def work() -> None:
        asyncio.get_running_loop().call_soon(int)
        with request("GET /"):
            await asyncio.sleep(1)

    async def main() -> None:
        await asyncio.gather(work(), work())

    with traced_loop(implementation=implementation) as traced:
        monkeypatch.setattr(Labels, name, fail_once)
        traced.run(main())
        traced.run(main())
        seen = traced.snapshot()
    assert failed
    assert {} == seen.errors
    assert 6 == sum(entry.created for entry in seen.coroutines)
    assert 0 == sum(entry.live for entry in seen.coroutines)
