"""The slow log: which requests are logged, what the event says, and that requests never wait."""

from __future__ import annotations

import asyncio
import json
import logging
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from opentelemetry.sdk.trace import TracerProvider

from aiometrics import request
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
        f"most at {points[0]['yield_point']} (asyncio.sleep)",
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
    try:
        with traced_loop(implementation=implementation, slow_request=0.5) as traced:
            traced.run(take(1))
            assert (0, 0) == records(traced)
    finally:
        logging.getLogger("aiometrics.slow_requests").setLevel(logging.NOTSET)
    assert [] == [thread for thread in threading.enumerate() if thread.name == "aiometrics-outbox"]
