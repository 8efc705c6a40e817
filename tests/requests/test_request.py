"""Request scopes: what one request takes of the loop, however many tasks work for it."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest
import uvloop
from support.scopes import (
    EAGERLY,
    SECOND,
    charges_of,
    collect_finished,
    scope_errors_of,
    short_name,
    summary_of,
    work,
)
from support.tracing import every_loop

from aiometrics import current_request, request
from aiometrics.requests.finished import Charge, FinishedRequest
from aiometrics.testing import TracedLoop, traced_loop


def test_a_request_is_its_code_and_every_task_started_inside(implementation: str) -> None:
    """Time of all its tasks counts until it is left; what they take later is background."""

    async def handler(traced: TracedLoop) -> None:
        traced.clock.advance(3)
        with request("GET /orders/{id}", id=7) as current:
            assert current is current_request()
            traced.clock.advance(0.1)
            task = asyncio.create_task(work(traced, 0.5, 0.25, 0.125))
            await asyncio.sleep(0)
            await asyncio.sleep(1.1)
            traced.clock.advance(0.2)
        assert current_request() is None
        await task

    with traced_loop(implementation=implementation) as traced:
        found = collect_finished(traced)
        traced.run(handler(traced))
        seen = traced.snapshot()
    entry = seen.request("GET /orders/{id}")
    assert (2_050_000_000, 1_050_000_000) == (entry.wall["completed"].sum_ns, entry.active.sum_ns)
    assert (125_000_000, 0) == (entry.background_ns, entry.in_progress)
    (finished,) = found
    assert ("GET /orders/{id}", "7", "completed", 4 * SECOND) == (
        finished.request,
        finished.id,
        finished.status,
        finished.started,
    )
    assert [
        ("handler", 0.1, 0.5),
        ("work", 0.75, 1.0),
        ("handler", 0.0, 1.25),
        ("(request)", 0.2, 0.0),
    ] == charges_of(finished)
    assert {("GET /orders/{id}", "asyncio.sleep"): 2_750_000_000} == {
        wait.labels: wait.wait_ns for wait in seen.request_waits
    }


@pytest.mark.parametrize(
    "make_loop", [asyncio.SelectorEventLoop, uvloop.new_event_loop], ids=["asyncio", "uvloop"]
)
def test_tasks_of_real_loops_belong_to_their_requests(
    implementation: str, make_loop: Callable[[], asyncio.AbstractEventLoop]
) -> None:
    """So do tasks of groups and of ``gather``, and their children.

    No request is more active than long.
    """

    async def leaf() -> None:
        for _ in range(3):
            await asyncio.sleep(0)

    async def branch() -> None:
        await asyncio.gather(leaf(), leaf())

    async def main() -> None:
        with request("tree"):
            async with asyncio.TaskGroup() as group:
                for _ in range(2):
                    group.create_task(branch())
        await asyncio.create_task(leaf())

    found: list[FinishedRequest] = []
    with (
        every_loop(implementation) as instrumentation,
        asyncio.Runner(loop_factory=make_loop) as runner,
    ):
        instrumentation.request_observers.every.append(found.append)
        runner.run(main())
        seen = instrumentation.snapshot()
    (tree,) = found
    counted: Counter[str] = Counter()
    for point in tree.points:
        counted[short_name(point.yield_point)] += point.segments
    assert {"leaf": 4 * 3, "branch": 2, "main": 1, "(return)": 4 + 2, "(request)": 1} == counted
    assert 0 < tree.active_ns < tree.wall_ns
    assert (0, {}) == (
        seen.request("tree").background_ns,
        {kind: count for kind, count in seen.scope_errors.items() if count},
    )


def test_one_task_serves_many_requests_in_turn(implementation: str) -> None:
    """As on a kept-alive connection, each request has its part of the task, even of a segment."""

    async def connection(traced: TracedLoop) -> None:
        traced.clock.advance(5)
        for name, seconds in (("GET /", 0.25), ("POST /", 0.5), ("GET /", 0.125)):
            with request(name):
                traced.clock.advance(seconds)
            traced.clock.advance(7)
        await asyncio.sleep(1)
        with request("GET /"):
            await work(traced, 0.25, 0.25)

    with traced_loop(implementation=implementation) as traced:
        found = collect_finished(traced)
        traced.run(connection(traced))
        seen = traced.snapshot()
    assert [
        ("GET /", "completed", 0.25, 0.25),
        ("POST /", "completed", 0.5, 0.5),
        ("GET /", "completed", 0.125, 0.125),
        ("GET /", "completed", 1.5, 0.5),
    ] == list(map(summary_of, found))
    assert (3, 0.875 * SECOND) == (
        seen.request("GET /").active.count,
        seen.request("GET /").active.sum_ns,
    )
    assert {} == scope_errors_of(traced)


def test_an_inner_scope_has_its_time_to_itself(implementation: str) -> None:
    """Each nanosecond belongs to one request; the outer one goes on when the inner one is left."""

    async def handler(traced: TracedLoop) -> None:
        with request("outer"):
            traced.clock.advance(0.5)
            with request("inner"):
                assert "inner" == getattr(current_request(), "type", None)
                await work(traced, 0.25, 0.25)
            assert "outer" == getattr(current_request(), "type", None)
            traced.clock.advance(0.125)

    with traced_loop(implementation=implementation) as traced:
        inner, outer = collect_finished(traced), traced.run(handler(traced))
        assert outer is None
    assert [("inner", "completed", 1.5, 0.5), ("outer", "completed", 2.125, 0.625)] == list(
        map(summary_of, inner)
    )
    assert [[("work", 0.25, 1.0), ("(request)", 0.25, 0.0)], [("(request)", 0.625, 0.0)]] == list(
        map(charges_of, inner)
    )


def test_a_failing_task_group_fails_the_request(implementation: str) -> None:
    """The time of its tasks counts, also of those that were cancelled by the failure."""

    async def fails(traced: TracedLoop) -> None:
        await asyncio.sleep(1)
        traced.clock.advance(0.25)
        raise ValueError

    async def handler(traced: TracedLoop) -> None:
        with request("GET /"):
            async with asyncio.TaskGroup() as group:
                group.create_task(fails(traced))
                group.create_task(work(traced, 0.5, 0, 0, 0))

    with traced_loop(implementation=implementation) as traced:
        found = collect_finished(traced)
        with pytest.raises(ExceptionGroup):
            traced.run(handler(traced))
    assert [("GET /", "failed", 1.25, 0.75)] == list(map(summary_of, found))
    assert {
        ("handler", 0.0, 1.25),
        ("fails", 0.0, 1.0),
        ("(raise)", 0.25, 0.0),
        ("work", 0.5, 0.75),
    } == {(place, active, wait) for place, active, wait in charges_of(found[0]) if active or wait}


def test_a_cancelled_request_has_that_status(implementation: str) -> None:
    """Its client may have gone away. What its shielded child does afterwards is background."""

    async def handler(traced: TracedLoop) -> None:
        async with request("GET /"):
            await asyncio.shield(asyncio.create_task(work(traced, 0.5, 0.25)))

    async def main(traced: TracedLoop) -> None:
        task = asyncio.create_task(handler(traced))
        await asyncio.sleep(0.75)
        task.cancel()
        await asyncio.sleep(9)

    with traced_loop(implementation=implementation) as traced:
        found = collect_finished(traced)
        traced.run(main(traced))
        assert [("GET /", "cancelled", 0.75, 0.5)] == list(map(summary_of, found))
        assert 0.25 * SECOND == traced.snapshot().request("GET /").background_ns


@pytest.mark.skipif(not EAGERLY, reason="eager tasks came with Python 3.12")
def test_an_eager_child_counts_once(implementation: str) -> None:
    """Its first segment runs inside a segment of its parent, which waits meanwhile."""

    async def handler(traced: TracedLoop) -> None:
        with request("GET /"):
            traced.clock.advance(0.5)
            child = asyncio.Task(work(traced, 0.25, 0.125), loop=traced.loop, **EAGERLY)
            traced.clock.advance(0.5)
            await child

    with traced_loop(implementation=implementation) as traced:
        found = collect_finished(traced)
        traced.run(handler(traced))
    assert [("GET /", "completed", 1.875, 1.375)] == list(map(summary_of, found))
    assert ("(eager child)", 0.0, 0.25) in charges_of(found[0])


def test_blocking_segments_of_a_request_are_told_apart(implementation: str) -> None:
    """They are its parts of segments that reach the threshold."""

    async def handler(traced: TracedLoop) -> None:
        traced.clock.advance(0.09)
        with request("GET /"):
            await work(traced, 0.02, 0.05, 0.3)

    with traced_loop(implementation=implementation) as traced:
        found = collect_finished(traced)
        traced.run(handler(traced))
    assert [("work", 70_000_000, 20_000_000), ("(request)", 300_000_000, 300_000_000)] == [
        (short_name(point.yield_point), point.active_ns, point.blocking_ns)
        for point in found[0].points
    ]


def test_a_scope_entered_in_a_callback_counts_the_tasks_it_starts(implementation: str) -> None:
    """The callback itself belongs to no request."""
    tasks: list[asyncio.Task[None]] = []

    def on_message(traced: TracedLoop) -> None:
        with request("message"):
            traced.clock.advance(0.5)
            tasks.append(traced.loop.create_task(work(traced, 0.25)))

    async def main(traced: TracedLoop) -> None:
        traced.loop.call_soon(on_message, traced)
        await asyncio.sleep(1)
        await tasks[0]

    with traced_loop(implementation=implementation) as traced:
        traced.run(main(traced))
        entry = traced.snapshot().request("message")
        assert (0.5 * SECOND, 0, 0.25 * SECOND) == (
            entry.wall["completed"].sum_ns,
            entry.active.sum_ns,
            entry.background_ns,
        )
        assert {} == scope_errors_of(traced)


def test_places_beyond_sixty_four_go_to_other(implementation: str) -> None:
    """A request that suspends at ever new places has bounded memory, and loses no time."""
    names: dict[str, Any] = {"asyncio": asyncio, "__name__": "many"}
    lines = "\n".join(
        f"    clock.advance(1)\n    await asyncio.sleep({number})" for number in range(70)
    )
    code = compile(f"async def many(clock):\n{lines}", "many.py", "exec")
    exec(code, names)  # noqa: S102 - seventy lines are no pleasure to read

    async def handler(traced: TracedLoop) -> None:
        with request("GET /"):
            await names["many"](traced.clock)

    with traced_loop(implementation=implementation) as traced:
        found = collect_finished(traced)
        traced.run(handler(traced))
    (finished,) = found
    assert (65, ("(other)", 6.0, float(sum(range(64, 70))))) == (
        len(finished.points),
        charges_of(finished)[-1],
    )
    assert (70 * SECOND, finished.wall_ns) == (
        finished.active_ns,
        finished.active_ns + sum(point.wait_ns for point in finished.points),
    )


def test_types_beyond_the_capacity_go_to_other(implementation: str) -> None:
    """Each type without room is counted; no time is lost."""

    async def handler(traced: TracedLoop) -> None:
        for name in ("a", "b", "c", "d", "c", "(other)"):
            with request(name):
                await work(traced, 0.5, 0)

    with traced_loop(implementation=implementation, max_requests=2) as traced:
        traced.run(handler(traced))
        seen = traced.snapshot()
    assert {"a": 1, "b": 1, "(other)": 4} == {
        entry.request: entry.active.count for entry in seen.requests
    }
    assert 2 == seen.overflow["request"]
    assert {"a": 1, "b": 1, "(other)": 4} == {
        wait.request: wait.wait_ns // SECOND for wait in seen.request_waits
    }


def test_of_a_sample_of_tasks_sums_are_estimates(implementation: str) -> None:
    """Every request counts; its time is what the traced tasks took, scaled in sums."""

    async def main(traced: TracedLoop) -> None:
        with request("GET /"):
            await asyncio.gather(*(asyncio.create_task(work(traced, 0.5, 0)) for _ in range(400)))

    with traced_loop(implementation=implementation, sample=1 / 4) as traced:
        traced.run(main(traced))
        seen = traced.snapshot()
    sampled = next(entry for entry in seen.coroutines if entry.coroutine.endswith("work")).created
    entry = seen.request("GET /")
    assert (1, 1, sampled * SECOND // 2) == (
        entry.wall["completed"].count,
        entry.active.count,
        entry.active.sum_ns,
    )


# --- objectives


def test_a_violation_counts_once_at_a_scrape_or_at_the_end(implementation: str) -> None:
    """A request in progress over its objective counts at a scrape, and not again when left."""

    async def handler(traced: TracedLoop) -> list[int]:
        def violations() -> int:
            return traced.snapshot().request("slow").violations

        with request("slow"):
            counts = [violations()]
            await asyncio.sleep(0.5)
            counts.append(violations())
            traced.clock.advance_ns(1)
            counts += [violations(), violations()]
        with request("slow", objective=9):
            await asyncio.sleep(9)
        with request("slow"):
            await asyncio.sleep(0.6)
        return [*counts, violations()]

    with traced_loop(implementation=implementation, objectives={"slow": 0.5}) as traced:
        assert [0, 0, 1, 1, 2] == traced.run(handler(traced))


def test_types_with_an_objective_are_there_from_the_start(implementation: str) -> None:
    """They begin at 0, so that a rate shows the first violation; other types have no series."""

    async def main() -> None:
        with request("fast"), request("own", objective=2):
            pass

    with traced_loop(implementation=implementation, objectives={"slow": 0.5}) as traced:
        traced.run(main())
        seen = traced.snapshot()
    assert {"slow": (500_000_000, 0, 0), "fast": (None, 0, 1), "own": (2_000_000_000, 0, 1)} == {
        entry.request: (entry.objective_ns, entry.violations, entry.active.count)
        for entry in seen.requests
    }


def test_observers_are_called_with_every_request_or_with_slow_ones(implementation: str) -> None:
    """Slow is over the objective, else over the limit.

    An observer that raises is counted and removed.
    """

    async def handler() -> None:
        for name, seconds in (("a", 1.0), ("a", 1.5), ("b", 0.5), ("b", 0.125)):
            with request(name):
                await asyncio.sleep(seconds)

    with traced_loop(
        implementation=implementation, objectives={"a": 1}, blocking_threshold=0.25
    ) as traced:
        told, observers = [], traced.instrumentation.request_observers

        def breaks(finished: FinishedRequest) -> None:
            told.append(("breaks", finished.wall_ns))
            raise ValueError

        observers.slow += [lambda finished: told.append(("slow", finished.wall_ns)), breaks]
        observers.every.append(lambda finished: told.append(("every", finished.wall_ns)))
        traced.run(handler())
        internal_errors = traced.instrumentation.internal_errors.counts()
        traced.instrumentation.internal_errors._counts.clear()
    assert {"request_observer": 1} == internal_errors
    assert [
        ("every", SECOND),
        ("every", 1.5 * SECOND),
        ("slow", 1.5 * SECOND),
        ("breaks", 1.5 * SECOND),
        ("every", 0.5 * SECOND),
        ("slow", 0.5 * SECOND),
        ("every", 0.125 * SECOND),
    ] == told


def test_a_charge_is_a_plain_tuple() -> None:
    """It has seven values in the order in which they are documented."""
    assert [
        "coroutine",
        "yield_point",
        "awaits",
        "segments",
        "active_ns",
        "wait_ns",
        "blocking_ns",
    ] == list(Charge._fields)


def test_a_request_may_be_over_before_its_block(implementation: str) -> None:
    """Its wall time ends there, once. What its tasks take afterwards is background."""

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
        found = collect_finished(traced)
        traced.run(handler(traced))
        seen = traced.snapshot()
    entry = seen.request("GET /")
    assert (1, 0) == (entry.wall["failed"].count, entry.wall["completed"].count)
    assert (100_000_000, 100_000_000, 600_000_000) == (
        entry.wall["failed"].sum_ns,
        entry.active.sum_ns,
        entry.background_ns,
    )
    assert (0, 0) == (entry.in_progress, entry.violations)
    assert ["failed"] == [finished.status for finished in found]
    assert not any(seen.scope_errors.values())


def test_a_child_may_finish_the_request(implementation: str) -> None:
    """Any task may finish it, not only the one that entered it."""

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


def test_an_invalid_status_counts_as_failed(implementation: str) -> None:
    """It counts as a scope error too."""

    async def handler() -> None:
        with request("GET /") as current:
            current.finish("done")

    with traced_loop(implementation=implementation) as traced:
        traced.run(handler())
        seen = traced.snapshot()
    assert (1, 1) == (seen.request("GET /").wall["failed"].count, seen.scope_errors["invalid"])


def test_outside_of_a_traced_loop_a_request_may_finish_too() -> None:
    """Nothing is measured, and nothing is raised."""
    with request("nightly") as current:
        current.finish()


def test_observers_get_the_attributes_of_the_request(implementation: str) -> None:
    """They are what the block has set when the request is over, and never labels."""

    async def handler() -> None:
        with request("GET /") as current:
            current.attributes["url.path"] = "/orders/7"
            current.finish()
            current.attributes["late"] = True

    with traced_loop(implementation=implementation) as traced:
        found = collect_finished(traced)
        traced.run(handler())
    assert [{"url.path": "/orders/7"}] == [finished.attributes for finished in found]


def test_a_worker_counts_each_job_through_the_decorator(implementation: str) -> None:
    """Each worker is one task that takes many jobs from a queue."""

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
