"""Tools that patch the same places of asyncio, enabled before us, after us, or while we record."""

from __future__ import annotations

import asyncio
import selectors
import time
from asyncio import events
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any

import pytest
from support.tracing import every_loop

Tool = Callable[[list[str]], AbstractContextManager[None]]


@contextmanager
def aiodebug(told: list[str]) -> Iterator[None]:
    """The log of slow callbacks of aiodebug."""
    log_slow_callbacks = pytest.importorskip("aiodebug.log_slow_callbacks")
    found = events.Handle._run
    log_slow_callbacks.enable(0.01, on_slow_callback=lambda name, _: told.append(name))
    yield
    events.Handle._run = found  # type: ignore[method-assign]


@contextmanager
def logfire(told: list[str]) -> Iterator[None]:
    """The log of slow callbacks of logfire."""
    logfire = pytest.importorskip("logfire")
    logfire.configure(send_to_logfire=False, console=False)
    exporters = pytest.importorskip("logfire.testing")
    exporter = exporters.TestExporter()
    logfire.configure(
        send_to_logfire=False,
        console=False,
        additional_span_processors=[exporters.SimpleSpanProcessor(exporter)],
    )
    with logfire.log_slow_async_callbacks(0.01):
        yield
    told += [str(span["attributes"]) for span in exporter.exported_spans_as_dict()]


@contextmanager
def counter(told: list[str]) -> Iterator[None]:
    """A tool that replaces the method by a function of its own and calls what it found."""
    found = events.Handle._run

    def _run(self: events.Handle) -> None:
        if "slow" in repr(self):
            told.append("slow")
        found(self)

    events.Handle._run = _run  # type: ignore[method-assign]
    yield
    events.Handle._run = found  # type: ignore[method-assign]


def slow() -> None:
    """Block the loop."""
    time.sleep(0.05)


async def main() -> None:
    """Call back."""
    asyncio.get_running_loop().call_soon(slow)
    await asyncio.sleep(0.01)


@pytest.mark.parametrize("tool", [aiodebug, logfire, counter])
@pytest.mark.parametrize("first", ["tool", "aiometrics"])
def test_a_tool_that_times_callbacks_is_told_as_before(
    implementation: str, tool: Tool, first: str
) -> None:
    """Whichever was enabled first, both see the callback, and nothing of us is left behind."""
    told: list[str] = []
    before, code = events.Handle._run, events.Handle._run.__code__
    with ExitStack() as enabled:
        if first == "tool":
            enabled.enter_context(tool(told))
        traced = enabled.enter_context(every_loop(implementation))
        if first == "aiometrics":
            enabled.enter_context(tool(told))
        asyncio.run(main())
        seen = traced.snapshot()
    assert [1] == [
        point.segments.count
        for point in seen.yield_points_of("(callback)")
        if point.yield_point.endswith(" slow")
    ]
    assert 1 == sum("slow" in each for each in told)
    assert before is events.Handle._run
    assert code is before.__code__


def test_a_tool_is_told_while_we_come_and_go(implementation: str) -> None:
    """It is neither silenced by our start nor removed by our end."""
    told: list[str] = []
    with counter(told):
        for traced in (False, True, False):
            with ExitStack() as enabled:
                if traced:
                    enabled.enter_context(every_loop(implementation))
                asyncio.run(main())
    assert 3 == len(told)


def test_the_select_of_a_class_may_be_replaced_while_we_time_it(
    implementation: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next turn calls the new one."""
    calls: list[float | None] = []
    original = selectors.DefaultSelector.select

    def select(selector: Any, timeout: float | None = None) -> Any:
        calls.append(timeout)
        return original(selector, timeout)

    async def patched() -> int:
        await asyncio.sleep(0.001)
        monkeypatch.setattr(selectors.DefaultSelector, "select", select)
        await asyncio.sleep(0.001)
        before = len(calls)
        monkeypatch.undo()
        await asyncio.sleep(0.001)
        assert before == len(calls)
        return before

    with every_loop(implementation) as traced:
        assert asyncio.run(patched())
        assert traced.snapshot().loops[0].iterations.count > 3
