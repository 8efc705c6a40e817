"""The slow log: which requests are logged, what the event says, and that requests never wait."""

from __future__ import annotations

import asyncio
import json
import logging
import threading
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

import pytest
from opentelemetry.sdk.trace import TracerProvider

from aiometrics import request
from aiometrics.base import work_queue
from aiometrics.base.work_queue import CAPACITY
from aiometrics.ecs import EcsFormatter
from aiometrics.requests.slow_log import MAX_POINTS
from aiometrics.testing import TracedLoop, traced_loop

PARTS = ("active", "wait", "blocking")


class Written(logging.Handler):
    """A handler that keeps lines, and hangs while ``gate`` is closed, as if its disk were gone."""

    def __init__(self) -> None:
        super().__init__()
        self.setFormatter(EcsFormatter())
        self.reached, self.gate = threading.Event(), threading.Event()
        self.gate.set()
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.reached.set()
        self.gate.wait()
        self.lines.append(self.format(record))

    @property
    def events(self) -> list[dict[str, Any]]:
        """The messages of the lines."""
        return [json.loads(line) for line in self.lines]


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wait until all records are written, also on a machine that is busy with other things."""
    monkeypatch.setattr(work_queue, "_STOP_SECONDS", 300.0)


@pytest.fixture
def written() -> Iterator[Written]:
    """The handler of the slow log."""
    handler, logger = Written(), logging.getLogger("aiometrics.slow_requests")
    logger.addHandler(handler)
    yield handler
    handler.gate.set()
    logger.removeHandler(handler)


async def take(seconds: float, kind: str = "GET /orders/{id}", **options: Any) -> None:
    """A request that waits."""
    with request(kind, **options):
        await asyncio.sleep(seconds)


def records(traced: TracedLoop) -> tuple[int, int]:
    """Return how many were written and dropped, according to the metric."""
    counts = traced.snapshot().records
    return counts["slow_request", "written"], counts["slow_request", "dropped"]


def test_the_event_of_one_slow_request(implementation: str, written: Written) -> None:
    """It has times, status, id, trace, attributes, and where the time went, worst first."""
    tracer = TracerProvider().get_tracer("test")

    async def query(traced: TracedLoop) -> None:
        await asyncio.sleep(0.5)
        traced.clock.advance(0.125)

    async def handler(traced: TracedLoop) -> tuple[str, str]:
        with (
            tracer.start_as_current_span("server") as span,
            request("GET /orders/{id}", id="REQ-001") as current,
        ):
            current.attributes["http.request.method"] = "GET"
            traced.clock.advance(0.03125)
            await query(traced)
            context = span.get_span_context()
            return f"{context.trace_id:032x}", f"{context.span_id:016x}"

    with traced_loop(
        implementation=implementation, objectives={"GET /orders/{id}": 0.25}
    ) as traced:
        trace, span = traced.run(handler(traced))
        traced.instrumentation.work_queue.stop()
        assert (1, 0) == records(traced)
    (event,) = written.events
    points = event.pop("aiometrics.yield_points")
    here = f"{__name__}.{handler.__qualname__}"
    assert {
        "@timestamp": "1970-01-01T00:00:01.656250Z",
        "log.level": "warning",
        "message": "GET /orders/{id} [REQ-001] completed after 0.656 s, "
        "0.250 s allowed; 0.156 s of it on the loop; "
        f"0.500 s waiting at {points[0]['yield_point']} (asyncio.sleep), "
        f"0.125 s computing after {points[0]['yield_point']} (asyncio.sleep)",
        "ecs.version": "8.11.0",
        "log.logger": "aiometrics.slow_requests",
        "process.pid": event["process.pid"],
        "process.thread.name": "aiometrics-outbox",
        "event.kind": "event",
        "event.module": "aiometrics",
        "event.dataset": "aiometrics.slow_requests",
        "event.action": "slow-request",
        "event.outcome": "success",
        "event.start": "1970-01-01T00:00:01.000000Z",
        "event.end": "1970-01-01T00:00:01.656250Z",
        "event.duration": 656_250_000,
        "labels.request": "GET /orders/{id}",
        "labels.status": "completed",
        "labels.request_id": "REQ-001",
        "http.request.method": "GET",
        "trace.id": trace,
        "span.id": span,
        "aiometrics.allowed_seconds": 0.25,
        "aiometrics.active_seconds": 0.15625,
        "aiometrics.blocking_seconds": 0.125,
        "aiometrics.yield_points_left_out": 0,
    } == event
    first, second = points
    assert {
        "coroutine": here,
        "yield_point": first["yield_point"],
        "awaits": "asyncio.sleep",
        "segments": 1,
        "active_seconds": 0.03125,
        "wait_seconds": 0.5,
        "blocking_seconds": 0.0,
    } == first
    assert first["yield_point"].endswith("query")
    assert ("(request)", 0.125, 0.0, 0.125) == tuple(
        second[name] for name in ("yield_point", *(f"{part}_seconds" for part in PARTS))
    )


@pytest.mark.parametrize(
    ("seconds", "options", "expected"),
    [
        (9, {}, 0),
        (0.5, {"slow_request": 0.5}, 0),
        (0.6, {"slow_request": 0.5}, 1),
        (0.6, {"slow_request": 0.5, "objectives": {"GET /orders/{id}": 0.7}}, 0),
        (0.6, {"objectives": {"GET /orders/{id}": 0.5}}, 1),
        (0.5, {"objectives": {"GET /orders/{id}": 0.5}}, 0),
        (0.6, {"objectives": {"POST /orders": 0.5}}, 0),
    ],
)
def test_which_requests_are_slow(
    implementation: str, written: Written, seconds: float, options: dict[str, Any], expected: int
) -> None:
    """They are over the objective of their type, else over the threshold, if there is one."""
    with traced_loop(implementation=implementation, **options) as traced:
        traced.run(take(seconds))
        traced.instrumentation.work_queue.stop()
    assert expected == len(written.lines)


@pytest.mark.parametrize(
    ("error", "status", "outcome"),
    [(ValueError, "failed", "failure"), (asyncio.CancelledError, "cancelled", "unknown")],
)
def test_the_event_has_the_outcome(
    implementation: str, written: Written, error: type[BaseException], status: str, outcome: str
) -> None:
    """Failed and cancelled requests are logged like any other."""

    async def fail() -> None:
        with request("GET /", objective=0.1):
            await asyncio.sleep(1)
            raise error

    async def handler() -> None:
        with pytest.raises(error):
            await fail()

    with traced_loop(implementation=implementation) as traced:
        traced.run(handler())
        traced.instrumentation.work_queue.stop()
    (event,) = written.events
    assert (status, outcome) == (event["labels.status"], event["event.outcome"])
    assert {"labels.request_id", "trace.id", "span.id"}.isdisjoint(event)


def test_only_the_worst_places_are_in_the_event(implementation: str, written: Written) -> None:
    """The size of an event is bounded; the other places are counted."""
    program = (
        "async def handler(request, sleep):\n with request('GET /', objective=0.1):\n"
        + "  await sleep(1)\n" * (MAX_POINTS + 7)
    )
    names: dict[str, Any] = {}
    exec(compile(program, "shop/handlers.py", "exec"), names)  # noqa: S102 - it is ours
    with traced_loop(implementation=implementation) as traced:
        traced.run(names["handler"](request, asyncio.sleep))
        traced.instrumentation.work_queue.stop()
    (event,) = written.events
    told = len(event["aiometrics.yield_points"])
    assert told == MAX_POINTS
    assert event["aiometrics.yield_points_left_out"] > 0


def test_requests_never_wait_for_a_handler_that_hangs(
    implementation: str, written: Written
) -> None:
    """Records without room are dropped and counted, the rest is written when it continues."""
    written.gate.clear()

    async def main() -> None:
        await take(1)
        written.reached.wait()
        for _ in range(CAPACITY + 5):
            await take(1)

    with traced_loop(implementation=implementation, slow_request=0.5) as traced:
        traced.run(main())
        assert (0, 5) == records(traced)
        assert CAPACITY + 6 == traced.snapshot().request("GET /orders/{id}").wall["completed"].count
        written.gate.set()
        traced.instrumentation.work_queue.stop()
        assert (CAPACITY + 1, 5) == records(traced)


def test_a_logger_that_is_off_costs_nothing(implementation: str) -> None:
    """Without warnings there is no thread for them."""
    logging.getLogger("aiometrics.slow_requests").setLevel(logging.ERROR)
    before = threading.enumerate()
    try:
        with traced_loop(implementation=implementation, slow_request=0.5) as traced:
            traced.run(take(1))
            assert (0, 0) == records(traced)
    finally:
        logging.getLogger("aiometrics.slow_requests").setLevel(logging.NOTSET)
    started = [thread for thread in threading.enumerate() if thread not in before]
    assert [] == [thread for thread in started if thread.name == "aiometrics-outbox"]


def messages(
    implementation: str, written: Written, handler: Callable[[TracedLoop], Coroutine[Any, Any, Any]]
) -> list[str]:
    """Return what the messages of slow requests say about where the time went."""
    with traced_loop(implementation=implementation, slow_request=0.05) as traced:
        traced.run(handler(traced))
        traced.instrumentation.work_queue.stop()
    return [event["message"].partition(" on the loop; ")[2] for event in written.events]


def line(function: Callable[..., Any], offset: int) -> str:
    """Return the place of a line of a function, counted from its first."""
    path = __name__.replace(".", "/")
    return f"{path}.py:{function.__code__.co_firstlineno + offset} {function.__qualname__}"


def test_computing_is_named_by_the_await_before_it(implementation: str, written: Written) -> None:
    """A request that ends with its own computing is slow after its last await."""

    async def handler(traced: TracedLoop) -> None:
        with request("GET /report"):
            await asyncio.sleep(0.01)
            traced.clock.advance(0.08)

    (message,) = messages(implementation, written, handler)
    where = f"{line(handler, 2)} (asyncio.sleep)"
    assert f"0.080 s computing after {where}, 0.010 s waiting at {where}" == message


def test_computing_without_an_await_is_from_the_start(
    implementation: str, written: Written
) -> None:
    """What was awaited before the request says nothing about it."""

    async def handler(traced: TracedLoop) -> None:
        await asyncio.sleep(0.01)
        traced.clock.advance(0.001)
        for _ in range(2):
            with request("GET /report"):
                traced.clock.advance(0.08)

    assert 2 * ["0.080 s computing from its start"] == messages(implementation, written, handler)


async def part(traced: TracedLoop) -> None:
    """A task of a request."""
    await asyncio.sleep(0.5)
    traced.clock.advance(0.1)


async def in_group(traced: TracedLoop) -> None:
    """Wait for tasks at the end of a group."""
    async with asyncio.TaskGroup() as group:
        group.create_task(part(traced))
        group.create_task(part(traced))


async def by_gather(traced: TracedLoop) -> None:
    """Wait for tasks all at once."""
    await asyncio.gather(part(traced), part(traced))


async def in_turn(traced: TracedLoop) -> None:
    """Wait for tasks one by one."""
    for task in [asyncio.create_task(part(traced)) for _ in range(2)]:
        await task


@pytest.mark.parametrize("fan_out", [in_group, by_gather, in_turn])
def test_a_request_that_fans_out_says_what_its_tasks_did(
    implementation: str,
    written: Written,
    fan_out: Callable[[TracedLoop], Coroutine[Any, Any, Any]],
) -> None:
    """A wait for tasks of the request is explained by what they did; their times add up."""

    async def handler(traced: TracedLoop) -> None:
        with request("GET /report", id="REQ-001"):
            await fan_out(traced)

    (message,) = messages(implementation, written, handler)
    within = f"in {__name__}.part"
    waiting, computing = message.split(", ")
    assert f"1.100 s waiting at {line(part, 2)} (asyncio.sleep) {within}" == waiting
    assert f"0.200 s computing until it returned {within}" == computing


def test_a_wait_for_tasks_of_others_is_told(implementation: str, written: Written) -> None:
    """Nothing else explains it."""
    shared: list[asyncio.Task[None]] = []

    async def handler(traced: TracedLoop) -> None:
        shared.append(asyncio.create_task(part(traced)))
        with request("GET /report"):
            await shared[0]

    assert [f"0.600 s waiting at {line(handler, 3)} (Task)"] == messages(
        implementation, written, handler
    )
