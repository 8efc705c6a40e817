"""Request scopes: what one request takes of the loop, however many tasks work for it."""

from __future__ import annotations

import asyncio
from contextlib import suppress
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


def test_a_request_may_be_over_before_its_block(implementation: str) -> None:
    """Its wall time ends there, once; what its tasks go on to take is background, also the task that is still inside."""

    async def handler(traced: TracedLoop) -> None:
        with request("GET /") as current:
            traced.clock.advance(0.1)
            current.finish("failed")
            traced.clock.advance(0.2)
            current.finish()
            assert current is current_request()
            await asyncio.sleep(1)
            traced.clock.advance(0.4)
        traced.clock.advance(0.8)

    with traced_loop(implementation=implementation, objectives={"GET /": 0.5}) as traced:
        found = observed(traced)
        traced.run(handler(traced))
        seen = traced.snapshot()
    entry = seen.request("GET /")
    assert (1, 0) == (entry.wall["failed"].count, entry.wall["completed"].count)
    assert (100_000_000, 100_000_000, 600_000_000) == (entry.wall["failed"].sum_ns, entry.active.sum_ns, entry.background_ns)
    assert (0, 0) == (entry.in_progress, entry.violations)
    assert ["failed"] == [finished.status for finished in found]
    assert not any(seen.scope_errors.values())


def test_a_child_may_say_that_the_request_is_over(implementation: str) -> None:
    """It is no error that another task than the one that entered it does."""

    async def child(traced: TracedLoop) -> None:
        traced.clock.advance(0.1)
        current = current_request()
        assert current is not None
        current.finish()
        traced.clock.advance(0.2)

    async def handler(traced: TracedLoop) -> None:
        with request("GET /"):
            await asyncio.create_task(child(traced))
            traced.clock.advance(0.4)

    with traced_loop(implementation=implementation) as traced:
        traced.run(handler(traced))
        seen = traced.snapshot()
    entry = seen.request("GET /")
    assert (100_000_000, 600_000_000) == (entry.active.sum_ns, entry.background_ns)
    assert not any(seen.scope_errors.values())


def test_a_status_that_is_none_counts_as_failed(implementation: str) -> None:
    """And as an error of who uses the scope."""

    async def handler() -> None:
        with request("GET /") as current:
            current.finish("done")

    with traced_loop(implementation=implementation) as traced:
        traced.run(handler())
        seen = traced.snapshot()
    assert (1, 1) == (seen.request("GET /").wall["failed"].count, seen.scope_errors["invalid"])


def test_outside_of_a_traced_loop_a_request_may_finish_too() -> None:
    """Nothing is measured, and nothing raised."""
    with request("nightly") as current:
        current.finish()


def test_observers_are_told_what_else_is_known(implementation: str) -> None:
    """Attributes that the code inside sets, which are no labels."""

    async def handler() -> None:
        with request("GET /") as current:
            current.attributes["url.path"] = "/orders/7"

    with traced_loop(implementation=implementation) as traced:
        found = observed(traced)
        traced.run(handler())
    assert [{"url.path": "/orders/7"}] == [finished.attributes for finished in found]


def test_a_worker_counts_each_job_through_the_decorator(implementation: str) -> None:
    """Workers that take jobs from a queue, one task each for many of them, as those of a task queue do."""

    async def worker(traced: TracedLoop, jobs: asyncio.Queue[tuple[str, float]]) -> None:
        @request("send_receipt")
        async def send_receipt(seconds: float) -> None:
            traced.clock.advance(0.01)
            await asyncio.sleep(seconds)

        @request("rebuild_index")
        async def rebuild_index(seconds: float) -> None:
            traced.clock.advance(seconds)
            raise ZeroDivisionError

        handlers = {"send_receipt": send_receipt, "rebuild_index": rebuild_index}
        while True:
            name, seconds = await jobs.get()
            with suppress(ZeroDivisionError):
                await handlers[name](seconds)
            jobs.task_done()

    async def main(traced: TracedLoop) -> None:
        jobs: asyncio.Queue[tuple[str, float]] = asyncio.Queue()
        workers = [asyncio.create_task(worker(traced, jobs)) for _ in range(2)]
        for job in [("send_receipt", 1.0), ("rebuild_index", 0.25)] * 3:
            jobs.put_nowait(job)
        await jobs.join()
        for one in workers:
            one.cancel()

    with traced_loop(implementation=implementation) as traced:
        traced.run(main(traced))
        seen = traced.snapshot()
    receipts, index = seen.request("send_receipt"), seen.request("rebuild_index")
    assert (3, 30_000_000) == (receipts.wall["completed"].count, receipts.active.sum_ns)
    assert (3, 750_000_000) == (index.wall["failed"].count, index.active.sum_ns)
    assert not any(seen.scope_errors.values())
