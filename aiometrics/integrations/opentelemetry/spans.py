"""Requests as spans of OpenTelemetry: one for the request, one for each task, with their steps."""

from __future__ import annotations

import random
import re
import time
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any, Literal

from opentelemetry import context as contexts
from opentelemetry.context import Context
from opentelemetry.trace import (
    Span,
    StatusCode,
    Tracer,
    TracerProvider,
    get_current_span,
    get_tracer,
    set_span_in_context,
)

from aiometrics.base.clock import SECOND_NS
from aiometrics.base.version import __version__
from aiometrics.base.work_queue import Job
from aiometrics.requests.finished import FinishedRequest, Step, TaskEntry
from aiometrics.requests.request import Request
from aiometrics.requests.tracer import set_tracer

Detail = Literal["events", "spans"]

_SCOPE = "aiometrics"
#: Not the one of the module, whose numbers a program may have chosen by a seed.
_RANDOM = random.SystemRandom()
_PLACE = re.compile(r"(?P<path>.+):(?P<line>\d+) (?P<function>.+)", re.DOTALL)


def trace_requests(
    tracer_provider: TracerProvider | None = None,
    *,
    sample: float = 1.0,
    detail: Detail | None = "events",
) -> None:
    """Give requests to OpenTelemetry as spans, from now on.

    ``sample`` is the share of requests that OpenTelemetry's own sampler is asked about at all. The
    span of a request is current inside of it, and its parent is the span that was current around
    it. When the request is over, it gets a child for each of its tasks, nested as the tasks started
    each other. With ``detail="events"``, each segment with the wait after it is an event in the
    span of its task; with ``"spans"``, both are child spans; with ``None``, they are left out.
    Places are attributes ``code.*``. Another thread makes and ends the spans. The default of
    ``tracer_provider`` is the program's global one.

    Raises ``ValueError`` if an option is wrong.
    """
    if not 0 < sample <= 1:
        raise ValueError(
            "sample must be over 0 and at most 1, the share of requests that become spans, "
            f"not {sample!r}"
        )
    if detail not in ("events", "spans", None):
        raise ValueError(f"detail must be 'events', 'spans' or None, not {detail!r}")
    set_tracer(RequestTracer(get_tracer(_SCOPE, __version__, tracer_provider), sample, detail))


@dataclass(frozen=True, slots=True)
class _Open:
    """The span of a request in progress."""

    span: Span
    started: int
    around: Context


class RequestTracer:
    """Begins the span of a request in its context, and makes the other spans when it is over."""

    def __init__(self, tracer: Tracer, sample: float, detail: Detail | None) -> None:
        self._tracer = tracer
        self._sample = sample
        self._detail = detail

    def begin(self, request: Request) -> _Open | None:
        """Begin the span of a request that was just entered; ``None`` if it is not wanted.

        A span that the sampler dropped becomes current all the same, so that spans inside of it are
        dropped with it.
        """
        if self._sample < 1 and _RANDOM.random() >= self._sample:
            return None
        around, started = contexts.get_current(), time.time_ns()
        span = self._tracer.start_span(request.type, around, start_time=started)
        if not span.get_span_context().is_valid:
            return None
        contexts.attach(set_span_in_context(span, around))
        return _Open(span, started, around)

    def recording(self, opened: _Open) -> bool:
        """Whether the sampler took the span."""
        return opened.span.is_recording()

    def leave(self, opened: _Open) -> None:
        """Make the span current again that was current around the request."""
        if get_current_span() is opened.span:
            contexts.attach(opened.around)

    def end(self, opened: _Open, finished: FinishedRequest) -> Job:
        """Return the job that writes the spans of a finished request, for another thread."""
        return _Tree(self._tracer, self._detail, opened, finished).write


class _Tree:
    """The spans of one finished request."""

    def __init__(
        self, tracer: Tracer, detail: Detail | None, opened: _Open, finished: FinishedRequest
    ) -> None:
        self._tracer = tracer
        self._detail = detail
        self._opened = opened
        self._finished = finished

    def write(self) -> None:
        """Make and end all spans."""
        timeline = self._finished.timeline
        steps: dict[int, list[Step]] = {task.number: [] for task in timeline.tasks}
        for step in timeline.steps:
            steps.setdefault(step.task, []).append(step)
        spans: dict[int, Span] = {}
        for task in timeline.tasks:
            spans[task.number] = self._task(
                task, steps[task.number], spans.get(task.parent, self._opened.span)
            )
        self._end_request(timeline.dropped)

    def _end_request(self, dropped: int) -> None:
        finished, span = self._finished, self._opened.span
        attributes: dict[str, Any] = {
            "aiometrics.request.type": finished.request,
            "aiometrics.request.status": finished.status,
            "aiometrics.active_seconds": finished.active_ns / SECOND_NS,
            "aiometrics.steps_dropped": dropped,
            **finished.attributes,
        }
        if finished.id is not None:
            attributes["aiometrics.request.id"] = finished.id
        span.set_attributes(attributes)
        if finished.status == "failed":
            span.set_status(StatusCode.ERROR)
        span.end(self._at(finished.wall_ns))

    def _task(self, task: TaskEntry, steps: list[Step], parent: Span) -> Span:
        begin_ns = max(0, task.created_ns)
        attributes = {
            "code.function.name": task.coroutine,
            "aiometrics.active_seconds": sum(step.end_ns - step.begin_ns for step in steps)
            / SECOND_NS,
        }
        span = self._begin(task.coroutine, parent, begin_ns, attributes)
        for step, following in zip_longest(steps, steps[1:]):
            self._step(span, step, following)
        span.end(self._at(steps[-1].end_ns if steps else begin_ns))
        return span

    def _step(self, span: Span, step: Step, following: Step | None) -> None:
        """Write a segment, and the wait until the next one."""
        place = _place(step)
        if self._detail == "events":
            durations = {"aiometrics.segment_seconds": (step.end_ns - step.begin_ns) / SECOND_NS}
            if following is not None:
                durations["aiometrics.wait_seconds"] = (
                    following.begin_ns - step.end_ns
                ) / SECOND_NS
            span.add_event("segment", place | durations, self._at(step.begin_ns))
        elif self._detail == "spans":
            self._begin("segment", span, step.begin_ns, place).end(self._at(step.end_ns))
            if following is not None:
                self._begin(f"wait {step.awaits}", span, step.end_ns, place).end(
                    self._at(following.begin_ns)
                )

    def _begin(self, name: str, parent: Span, begin_ns: int, attributes: dict[str, Any]) -> Span:
        return self._tracer.start_span(
            name,
            set_span_in_context(parent, Context()),
            attributes=attributes,
            start_time=self._at(begin_ns),
        )

    def _at(self, ns: int) -> int:
        """Return the Unix time in ns of a moment of the request."""
        return self._opened.started + ns


def _place(step: Step) -> dict[str, Any]:
    """Return the place where a segment ended, as attributes."""
    attributes: dict[str, Any] = {
        "aiometrics.yield_point": step.yield_point,
        "aiometrics.awaits": step.awaits,
    }
    place = _PLACE.fullmatch(step.yield_point)
    if place is not None:
        attributes["code.file.path"], attributes["code.line.number"] = (
            place["path"],
            int(place["line"]),
        )
        attributes["code.function.name"] = place["function"]
    return attributes
