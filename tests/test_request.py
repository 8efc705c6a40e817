"""Request scopes: what one request takes of the loop, however many tasks work for it."""

from __future__ import annotations

import asyncio
from typing import Any

from aiometrics import current_request, request
from aiometrics.request import Charge, FinishedRequest
from aiometrics.testing import TracedLoop, traced_loop

SECOND = 1_000_000_000


def observed(traced: TracedLoop) -> list[FinishedRequest]:
    """The requests that are finished from now on."""
    found: list[FinishedRequest] = []
    traced.instrumentation.request_observers.every.append(found.append)
    return found


def charged(finished: FinishedRequest) -> list[tuple[str, int, int, int]]:
    """What was charged, by the name of the yield point's function or the pseudo point: segments, active and waiting ns."""
    return [
        (point.yield_point.rpartition(" ")[2].rpartition(".")[2], point.segments, point.active_ns, point.wait_ns)
        for point in finished.points
    ]


def test_a_request_is_its_code_and_every_task_started_inside(implementation: str) -> None:
    """Active time of all its tasks until it is left, wall time, waits; what they take later is background."""

    async def child(traced: TracedLoop) -> None:
        traced.clock.advance(0.5)
        await asyncio.sleep(1)
        traced.clock.advance(0.25)
        await asyncio.sleep(2)
        traced.clock.advance(0.125)

    async def handler(traced: TracedLoop) -> None:
        traced.clock.advance(3)
        with request("GET /orders/{id}", id=7) as current:
            assert current is current_request()
            traced.clock.advance(0.1)
            task = asyncio.create_task(child(traced))
            await asyncio.sleep(0)
            await asyncio.sleep(1.5)
            traced.clock.advance(0.2)
        assert current_request() is None
        await task

    with traced_loop(implementation=implementation) as traced:
        found = observed(traced)
        traced.run(handler(traced))
        seen = traced.snapshot()
    entry = seen.request("GET /orders/{id}")
    assert (2_300_000_000, 1_050_000_000) == (entry.wall["completed"].sum_ns, entry.active.sum_ns)
    assert (125_000_000, 0) == (entry.background_ns, entry.in_progress)
    assert {("GET /orders/{id}", "asyncio.sleep"): 3_000_000_000} == {wait.labels: wait.wait_ns for wait in seen.request_waits}
    (finished,) = found
    assert ("GET /orders/{id}", "7", "completed", 4 * SECOND) == (finished.request, finished.id, finished.status, finished.started)
    assert [
        ("handler", 1, 100_000_000, 500_000_000),
        ("child", 1, 500_000_000, 1_000_000_000),
        ("handler", 1, 0, 1_500_000_000),
        ("child", 1, 250_000_000, 0),
        ("(request)", 1, 200_000_000, 0),
    ] == charged(finished)
    assert finished.active_ns == sum(point.active_ns for point in finished.points)


def test_outside_of_a_traced_loop_nothing_is_measured() -> None:
    """The block runs all the same."""
    with request("nightly") as current:
        assert current is current_request()
    assert current_request() is None


def test_objectives_count_each_violation_once(implementation: str) -> None:
    """A request in progress that is over its objective counts when somebody looks, and not again when it is left."""

    async def handler(traced: TracedLoop) -> list[int]:
        with request("slow"):
            counts = [traced.snapshot().request("slow").violations]
            await asyncio.sleep(0.6)
            counts.append(traced.snapshot().request("slow").violations)
            counts.append(traced.snapshot().request("slow").violations)
        with request("slow", objective=9):
            await asyncio.sleep(8)
        with request("slow"):
            await asyncio.sleep(0.6)
        return [*counts, traced.snapshot().request("slow").violations]

    with traced_loop(implementation=implementation, objectives={"slow": 0.5}) as traced:
        assert [0, 1, 1, 2] == traced.run(handler(traced))


def test_a_charge_is_a_plain_tuple() -> None:
    """Seven values in the order in which they are documented."""
    names: Any = Charge._fields
    assert ("coroutine", "yield_point", "awaits", "segments", "active_ns", "wait_ns", "blocking_ns") == names
