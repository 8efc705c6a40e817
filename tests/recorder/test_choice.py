"""Coroutines that are noise have no rows of their own, and none of their time is lost."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from aiometrics.exposition.idle_waits import of_no_library, waits_for_work
from aiometrics.testing import traced_loop


async def wanted() -> None:
    """A coroutine of the application."""
    await asyncio.sleep(1)


async def noise() -> None:
    """A coroutine that runs all the time."""
    await asyncio.sleep(1)


async def main() -> None:
    """Runs both."""
    await asyncio.gather(*map(asyncio.create_task, (wanted(), noise(), noise())))


@pytest.mark.parametrize(
    "options", [{"exclude": ("*.noise",)}, {"include": (f"{__name__}.main", f"{__name__}.wanted")}]
)
def test_what_is_left_out_counts_as_other(options: dict[str, Any], implementation: str) -> None:
    """It is in ``(other)`` with all that it does, and does not count as an overflow."""
    with traced_loop(implementation=implementation, **options) as traced:
        traced.run(main())
        seen = traced.snapshot()
    assert {f"{__name__}.main": 1, f"{__name__}.wanted": 1, "(other)": 2} == {
        entry.coroutine: entry.created for entry in seen.coroutines if entry.created
    }
    (other,) = [point for point in seen.yield_points if point.coroutine == "(other)"]
    assert 2_000_000_000 == other.waits.sum_ns
    assert 0 == sum(seen.overflow.values())


async def handler_of_a_server(handler: Callable[[], Awaitable[None]]) -> None:
    """The coroutine that all handlers share."""
    await asyncio.sleep(0)
    await handler()
    await asyncio.sleep(0)


@pytest.mark.parametrize("named", [f"{__name__}.noise", "asyncio.sl*p"])
def test_what_waits_on_purpose_is_marked(named: str, implementation: str) -> None:
    """It is named by the coroutine or by what it awaits, and only its real waits are marked."""
    with traced_loop(implementation=implementation, patient=(named,)) as traced:
        traced.run(main())
        seen = traced.snapshot()
    sleeps = {"asyncio.sleep (patient)"}
    assert {
        "main": {"asyncio._GatheringFuture", "(return)"},
        "wanted": {"asyncio.sleep" if "noise" in named else "asyncio.sleep (patient)", "(return)"},
        "noise": {*sleeps, "(return)"},
    } == {
        entry.coroutine.rpartition(".")[2]: {
            point.awaits for point in seen.yield_points if point.coroutine == entry.coroutine
        }
        for entry in seen.coroutines
        if entry.created
    }
    marked = [point for point in seen.yield_points if point.awaits in sleeps]
    assert marked
    assert all(waits_for_work(point, of_no_library) for point in marked)


def test_a_function_that_waits_on_purpose_is_marked(implementation: str) -> None:
    """It is named whatever coroutine it is called from, and nothing else of that one is marked."""

    async def serve() -> None:
        await asyncio.gather(*map(handler_of_a_server, (wanted, noise)))

    named = f"{__name__}.noise"
    with traced_loop(implementation=implementation, patient=(named,)) as traced:
        traced.run(serve())
        seen = traced.snapshot()
    waits = {
        (point.yield_point.rpartition(" ")[2], point.awaits)
        for point in seen.yield_points
        if point.coroutine == f"{__name__}.handler_of_a_server" and point.waits.count
    }
    assert waits == {
        ("handler_of_a_server", "asyncio.sleep"),
        ("wanted", "asyncio.sleep"),
        ("noise", "asyncio.sleep (patient)"),
    }
