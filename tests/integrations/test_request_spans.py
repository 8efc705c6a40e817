"""Requests as spans in OpenTelemetry's own SDK, in memory.

The tests check the tree of one request, and the cost for requests that are not traced.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import (
    ALWAYS_OFF,
    ALWAYS_ON,
    Decision,
    ParentBased,
    Sampler,
    SamplingResult,
)
from opentelemetry.trace import StatusCode, get_current_span

from aiometrics import request
from aiometrics.base.work_queue import CAPACITY
from aiometrics.integrations.opentelemetry import trace_requests
from aiometrics.requests.tracer import set_tracer
from aiometrics.testing import TracedLoop, traced_loop

MS = 1_000_000
HERE = __name__


class Spans:
    """A provider and the spans that it received."""

    def __init__(self, exporter: SpanExporter | None = None, sampler: Any = ALWAYS_ON) -> None:
        self.memory = InMemorySpanExporter()
        self.provider = TracerProvider(sampler=sampler, shutdown_on_exit=False)
        self.provider.add_span_processor(SimpleSpanProcessor(exporter or self.memory))

    @property
    def finished(self) -> list[ReadableSpan]:
        """Return the spans, parents before children and in the order of their beginnings."""
        return sorted(
            self.memory.get_finished_spans(),
            key=lambda span: (span.start_time or 0, span.parent is not None, span.name),
        )

    def tree(self) -> dict[str, Any]:
        """Return the names of spans with those below; of spans with one name only the first."""
        spans = self.finished

        def below(parent: ReadableSpan | None) -> dict[str, Any]:
            ident = None if parent is None else parent.context.span_id
            children = [
                span for span in spans if (span.parent.span_id if span.parent else None) == ident
            ]
            return {short(span): below(span) for span in reversed(children)}

        return below(None)

    def named(self, name: str) -> ReadableSpan:
        """Return the only span of that name."""
        (found,) = (span for span in self.finished if short(span) == name)
        return found


def short(span: ReadableSpan) -> str:
    """Return the name of a span, without the prefix of local coroutines."""
    return span.name.rpartition(".")[2] if span.name.startswith(HERE) else span.name


def when(span: ReadableSpan, root: ReadableSpan) -> tuple[float, float]:
    """Return the beginning and end in ms since the root began."""
    assert span.start_time is not None
    assert span.end_time is not None
    assert root.start_time is not None
    return (span.start_time - root.start_time) / MS, (span.end_time - root.start_time) / MS


@pytest.fixture
def traced(implementation: str) -> Iterator[TracedLoop]:
    """A loop in virtual time; tracing of requests ends with it."""
    try:
        with traced_loop(implementation=implementation) as made:
            yield made
    finally:
        set_tracer(None)


def run(traced: TracedLoop, main: Any) -> None:
    """Run a coroutine, and write all spans."""
    traced.run(main)
    traced.instrumentation.work_queue.stop()


async def grandchild(traced: TracedLoop) -> None:
    """Take 4 ms."""
    traced.clock.advance(0.004)


async def child(traced: TracedLoop) -> None:
    """Take 10 ms, wait 100 ms, and start a task."""
    traced.clock.advance(0.01)
    await asyncio.sleep(0.1)
    await asyncio.create_task(grandchild(traced))


async def handler(traced: TracedLoop) -> None:
    """Handle a request with a child task that runs meanwhile."""
    with request("GET /orders/{id}", id="REQ-001") as current:
        current.attributes["http.request.method"] = "GET"
        traced.clock.advance(0.002)
        await asyncio.create_task(child(traced))
        traced.clock.advance(0.003)


def test_the_tree_of_one_request(traced: TracedLoop) -> None:
    """The request and its tasks have spans, nested as they were started, with exact times."""
    spans = Spans()
    trace_requests(spans.provider)
    run(traced, handler(traced))
    assert {"GET /orders/{id}": {"handler": {"child": {"grandchild": {}}}}} == spans.tree()
    root = spans.named("GET /orders/{id}")
    assert {
        "handler": (0, 119),
        "child": (2, 116),
        "grandchild": (112, 116),
        "GET /orders/{id}": (0, 119),
    } == {short(span): when(span, root) for span in spans.finished}
    assert {
        "http.request.method": "GET",
        "aiometrics.request.type": "GET /orders/{id}",
        "aiometrics.request.id": "REQ-001",
        "aiometrics.request.status": "completed",
        "aiometrics.active_seconds": 0.019,
        "aiometrics.steps_dropped": 0,
    } == root.attributes
    assert {
        "code.function.name": f"{HERE}.child",
        "aiometrics.active_seconds": 0.01,
    } == spans.named("child").attributes
    assert 1 == len({span.context.trace_id for span in spans.finished})
    assert (1, 0) == tuple(
        traced.snapshot().records["trace", outcome] for outcome in ("written", "dropped")
    )


def code_of(attributes: Any) -> tuple[object, ...]:
    """Return function, file and line."""
    return tuple(
        attributes.get(f"code.{name}") for name in ("function.name", "file.path", "line.number")
    )


def test_segments_and_waits_are_events(traced: TracedLoop) -> None:
    """Each has the place where it ended, its time, and the time of the wait after it."""
    spans = Spans()
    trace_requests(spans.provider)
    run(traced, handler(traced))
    span = spans.named("child")
    line = child.__code__.co_firstlineno
    here = HERE.replace(".", "/") + ".py"
    assert [
        ("segment", 0, 0.01, 0.1, "asyncio.sleep", ("child", here, line + 3)),
        ("segment", 110, 0, 0.004, "Task", ("child", here, line + 4)),
        ("segment", 114, 0, None, "(return)", (None, None, None)),
    ] == [
        (
            event.name,
            (event.timestamp - (span.start_time or 0)) / MS,
            (event.attributes or {})["aiometrics.segment_seconds"],
            (event.attributes or {}).get("aiometrics.wait_seconds"),
            (event.attributes or {})["aiometrics.awaits"],
            code_of(event.attributes),
        )
        for event in span.events
    ]


def test_segments_and_waits_may_be_spans(traced: TracedLoop) -> None:
    """They are below their tasks, in turn and without a gap."""
    spans = Spans()
    trace_requests(spans.provider, detail="spans")
    run(traced, handler(traced))
    task = spans.named("child")
    steps = [
        span
        for span in spans.finished
        if span.parent
        and span.parent.span_id == task.context.span_id
        and short(span) != "grandchild"
    ]
    assert [
        ("segment", (0, 10)),
        ("wait asyncio.sleep", (10, 110)),
        ("segment", (110, 110)),
        ("wait Task", (110, 114)),
        ("segment", (114, 114)),
    ] == sorted(
        ((span.name, when(span, task)) for span in steps),
        key=lambda step: (*step[1], step[0] != "segment"),
    )
    assert () == task.events


def test_without_detail_there_are_only_tasks(traced: TracedLoop) -> None:
    """Their steps are left out."""
    spans = Spans()
    trace_requests(spans.provider, detail=None)
    run(traced, handler(traced))
    assert [()] * 4 == [span.events for span in spans.finished]


def test_the_span_of_a_request_is_current_inside_of_it(traced: TracedLoop) -> None:
    """Spans of the program around and inside, also of child tasks, are in the same tree.

    Afterwards the current span is the one from before.
    """
    spans = Spans()
    trace_requests(spans.provider)
    tracer = spans.provider.get_tracer("application")

    async def query() -> None:
        with tracer.start_as_current_span("SELECT"):
            await asyncio.sleep(0)

    async def main() -> None:
        with tracer.start_as_current_span("server") as server:
            with request("GET /"):
                await asyncio.create_task(query())
            assert get_current_span() is server

    run(traced, main())
    assert {"server": {"GET /": {"main": {"query": {}}, "SELECT": {}}}} == spans.tree()


def test_consecutive_requests_have_separate_traces(traced: TracedLoop) -> None:
    """One task serves them: none is a child of the one before, and a failed one has that status."""
    spans = Spans()
    trace_requests(spans.provider)

    async def main() -> None:
        with request("GET /"):
            await asyncio.sleep(0)
        with pytest.raises(ZeroDivisionError), request("PUT /"):
            raise ZeroDivisionError
        assert get_current_span() is trace.INVALID_SPAN

    run(traced, main())
    assert {"GET /": {"main": {}}, "PUT /": {"main": {}}} == spans.tree()
    assert (StatusCode.UNSET, StatusCode.ERROR) == (
        spans.named("GET /").status.status_code,
        spans.named("PUT /").status.status_code,
    )


def test_what_outlives_the_request_is_not_in_its_spans(traced: TracedLoop) -> None:
    """They end with the request, and so does the timeline."""
    spans = Spans()
    trace_requests(spans.provider)

    async def main() -> None:
        with request("GET /"):
            task = asyncio.create_task(child(traced))
            await asyncio.sleep(0)
        await task

    run(traced, main())
    assert (0, 10) == when(spans.named("child"), spans.named("GET /"))


def test_a_request_that_finishes_early_ends_its_span(traced: TracedLoop) -> None:
    """Its span stays current, as a server's span does for background tasks."""
    spans = Spans()
    trace_requests(spans.provider)

    async def main() -> None:
        with request("GET /") as current:
            traced.clock.advance(0.005)
            current.finish("cancelled")
            traced.clock.advance(1)
            assert "GET /" == getattr(get_current_span(), "name", None)
        assert get_current_span() is trace.INVALID_SPAN

    run(traced, main())
    root = spans.named("GET /")
    assert (0, 5) == when(root, root)
    assert "cancelled" == (root.attributes or {})["aiometrics.request.status"]


def test_requests_that_the_sampler_drops_leave_nothing(traced: TracedLoop) -> None:
    """There is no timeline, no recorded span is current, and nothing waits to be written."""
    spans = Spans(sampler=ALWAYS_OFF)
    trace_requests(spans.provider)

    async def main() -> None:
        with request("GET /") as current:
            assert not get_current_span().is_recording()
            assert current.timeline() is None
            await asyncio.sleep(0)
        assert get_current_span() is trace.INVALID_SPAN

    run(traced, main())
    assert ((), 0) == (
        spans.memory.get_finished_spans(),
        traced.snapshot().records["trace", "written"],
    )


class Without(Sampler):
    """A sampler that drops spans of one name."""

    def __init__(self, name: str) -> None:
        self._name = name

    def should_sample(
        self,
        parent_context: Context | None,  # noqa: ARG002
        trace_id: int,  # noqa: ARG002
        name: str,
        *rest: Any,  # noqa: ARG002
        **more: Any,  # noqa: ARG002
    ) -> SamplingResult:
        """Decide about a span without parent."""
        return SamplingResult(Decision.DROP if name == self._name else Decision.RECORD_AND_SAMPLE)

    def get_description(self) -> str:
        """Return the name for log lines."""
        return "without"


def test_spans_inside_of_a_dropped_request_are_dropped(traced: TracedLoop) -> None:
    """They do not become traces of their own: the sampler knows their parent.

    Requests around are not affected.
    """
    spans = Spans(sampler=ParentBased(Without("GET /")))
    trace_requests(spans.provider)
    tracer = spans.provider.get_tracer("application")

    async def main() -> None:
        with request("around"):
            pass
        with request("GET /"):
            with tracer.start_as_current_span("query"):
                await asyncio.sleep(0)
            with request("inside"):
                await asyncio.sleep(0)
        with tracer.start_as_current_span("after"):
            pass

    run(traced, main())
    assert ["around", "after"] == [span.name for span in spans.finished if span.parent is None]
    assert {"around", "main", "after"} == {short(span) for span in spans.finished}


def test_the_sampler_is_asked_about_a_share(
    traced: TracedLoop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The sampler is asked about a random quarter of the requests."""
    draws = iter([0.1, 0.3, 0.24, 0.25, 0.9])
    monkeypatch.setattr(
        "aiometrics.integrations.opentelemetry.spans._RANDOM.random", lambda: next(draws)
    )
    spans = Spans()
    trace_requests(spans.provider, sample=0.25)

    async def main() -> None:
        for number in range(5):
            with request(f"GET /{number}"):
                await asyncio.sleep(0)

    run(traced, main())
    assert {"GET /0", "GET /2"} == spans.tree().keys()


def test_a_timeline_is_bounded(traced: TracedLoop) -> None:
    """The first thousand steps and tasks are kept, and the number of missing ones is recorded."""
    spans = Spans()
    trace_requests(spans.provider, detail=None)

    async def main() -> None:
        with request("GET /"):
            for _ in range(1200):
                await asyncio.create_task(grandchild(traced))

    run(traced, main())
    # Two steps per task, its own and one of the task that waits for it, and the last step of that
    # task.
    assert (
        2 * 1200 + 1 - 1000 + 1201 - 1000
        == (spans.named("GET /").attributes or {})["aiometrics.steps_dropped"]
    )
    assert 1 + 1000 == len(spans.memory.get_finished_spans())


class Broken(SpanExporter):
    """An exporter that always raises."""

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:  # noqa: ARG002 - as it is called
        raise ConnectionRefusedError

    def shutdown(self) -> None:
        """Do nothing."""


def test_an_exporter_that_fails_does_not_harm_requests(
    traced: TracedLoop, caplog: pytest.LogCaptureFixture
) -> None:
    """OpenTelemetry logs the error; the requests end, and count as written."""
    trace_requests(Spans(Broken()).provider)
    run(traced, handler(traced))
    assert 1 == traced.snapshot().request("GET /orders/{id}").wall["completed"].count
    assert {"Exception while exporting Span."} <= set(caplog.messages)


class Hanging(SpanExporter):
    """An exporter that waits for a collector that does not answer."""

    def __init__(self) -> None:
        self.reached, self.answer = threading.Event(), threading.Event()

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:  # noqa: ARG002 - as it is called
        self.reached.set()
        self.answer.wait()
        return SpanExportResult.SUCCESS

    def shutdown(self) -> None:
        """Do nothing."""


def test_an_exporter_that_hangs_does_not_delay_requests(traced: TracedLoop) -> None:
    """Requests begin and end meanwhile; those without room in the queue are counted.

    That holds even for an exporter that OpenTelemetry calls at once.
    """
    exporter = Hanging()
    trace_requests(Spans(exporter).provider, detail=None)

    async def main() -> None:
        for number in range(CAPACITY + 3):
            with request("GET /"):
                await asyncio.sleep(0)
            if number == 0:
                exporter.reached.wait()

    traced.run(main())
    assert (0, 2) == tuple(
        traced.snapshot().records["trace", outcome] for outcome in ("written", "dropped")
    )
    exporter.answer.set()
    traced.instrumentation.work_queue.stop()
    assert CAPACITY + 1 == traced.snapshot().records["trace", "written"]


def test_a_tracer_that_fails_is_not_asked_again(
    implementation: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The request goes on; the error is logged and counted."""

    class Provider(TracerProvider):
        def get_tracer(self, *_: Any, **__: Any) -> Any:
            return None

    def twice() -> None:
        with traced_loop(implementation=implementation) as traced:
            for _ in range(2):
                traced.run(handler(traced))
            assert 2 == traced.snapshot().request("GET /orders/{id}").wall["completed"].count

    trace_requests(Provider(shutdown_on_exit=False))
    with pytest.raises(AssertionError, match="request_tracer"):
        twice()
    assert 1 == len(caplog.records)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sample": 0}, "sample must be over 0 and at most 1"),
        ({"sample": 1.1}, "not 1.1"),
        ({"detail": "all"}, "detail must be 'events', 'spans' or None, not 'all'"),
    ],
)
def test_wrong_options_raise(options: dict[str, Any], message: str) -> None:
    """They raise before anything is traced."""
    with pytest.raises(ValueError, match=message):
        trace_requests(**options)
