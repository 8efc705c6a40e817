"""The slow log: one event for each request that took too long, with where its time went."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

from aiometrics import ecs
from aiometrics.base.clock import SECOND_NS
from aiometrics.base.work_queue import WorkQueue
from aiometrics.pages.snapshot import EAGER_CHILD, IN_REQUEST, OTHER, RAISE, RETURN
from aiometrics.requests.exemplars import current_trace_ids
from aiometrics.requests.request import Charge, FinishedRequest

logger = logging.getLogger("aiometrics.slow_requests")

KIND = "slow_request"
#: At most so many yield points are in one event: those that took the longest.
MAX_POINTS = 20
#: At most so many parts are in the message: those that took at least this share of the longest.
MAX_PARTS, LEAST_SHARE = 3, 0.1
#: What is awaited where a task waits for others.
_FOR_TASKS = frozenset(
    {
        "Task",
        "anyio.TaskGroup.__aexit__",
        "asyncio.TaskGroup.__aexit__",
        "asyncio._GatheringFuture",
        "asyncio.wait",
        EAGER_CHILD,
    }
)
#: Where a segment ends other than at an await.
_ENDS = {
    IN_REQUEST: "from its start",
    RETURN: "until it returned",
    RAISE: "until it raised",
    OTHER: "elsewhere",
}
_OUTCOMES = {"completed": "success", "failed": "failure"}


class SlowRequestLog:
    """Logs a warning to ``aiometrics.slow_requests`` for each request over its objective.

    Requests without an objective may take ``threshold_ns``; with ``None`` they may take any time.
    The warning is logged by another thread. The log record has the fields of the event, in names of
    the Elastic Common Schema, in its attribute ``ecs``.
    """

    def __init__(self, work_queue: WorkQueue, threshold_ns: int | None) -> None:
        self._work_queue = work_queue
        self._threshold_ns = threshold_ns

    def __call__(self, finished: FinishedRequest) -> None:
        """Log a finished request if it was slow; called in the context of the request."""
        limit_ns = self._threshold_ns if finished.objective_ns is None else finished.objective_ns
        if (
            limit_ns is not None
            and finished.wall_ns > limit_ns
            and logger.isEnabledFor(logging.WARNING)
        ):
            self._work_queue.put(KIND, partial(_write, finished, limit_ns, current_trace_ids()))


def _write(finished: FinishedRequest, limit_ns: int, trace: tuple[str, str] | None) -> None:
    logger.warning(
        "%s%s %s after %.3f s, %.3f s allowed; %.3f s of it on the loop%s",
        finished.request,
        "" if finished.id is None else f" [{finished.id}]",
        finished.status,
        finished.wall_ns / SECOND_NS,
        limit_ns / SECOND_NS,
        finished.active_ns / SECOND_NS,
        _mostly(finished),
        extra={"ecs": event(finished, limit_ns, trace)},
    )


def event(
    finished: FinishedRequest, limit_ns: int, trace: tuple[str, str] | None
) -> dict[str, Any]:
    """The fields of the event.

    ``event.duration`` is in ns, as the schema says; durations of our own are in seconds.
    """
    ended, points = finished.started + finished.wall_ns, finished.points
    return {
        "@timestamp": ecs.timestamp(ended),
        "event.kind": "event",
        "event.module": "aiometrics",
        "event.dataset": "aiometrics.slow_requests",
        "event.action": "slow-request",
        "event.outcome": _OUTCOMES.get(finished.status, "unknown"),
        "event.start": ecs.timestamp(finished.started),
        "event.end": ecs.timestamp(ended),
        "event.duration": finished.wall_ns,
        "labels.request": finished.request,
        "labels.status": finished.status,
        **({} if finished.id is None else {"labels.request_id": finished.id}),
        **finished.attributes,
        **({} if trace is None else {"trace.id": trace[0], "span.id": trace[1]}),
        "aiometrics.allowed_seconds": limit_ns / SECOND_NS,
        "aiometrics.active_seconds": finished.active_ns / SECOND_NS,
        "aiometrics.blocking_seconds": sum(point.blocking_ns for point in points) / SECOND_NS,
        "aiometrics.yield_points": [_point(point) for point in _worst(points)],
        "aiometrics.yield_points_left_out": max(0, len(points) - MAX_POINTS),
    }


def _worst(points: Iterable[Charge]) -> list[Charge]:
    return sorted(points, key=lambda point: point.active_ns + point.wait_ns, reverse=True)[
        :MAX_POINTS
    ]


def _point(point: Charge) -> dict[str, str | int | float]:
    return {
        "coroutine": point.coroutine,
        "yield_point": point.yield_point,
        "awaits": point.awaits,
        "segments": point.segments,
        "active_seconds": point.active_ns / SECOND_NS,
        "wait_seconds": point.wait_ns / SECOND_NS,
        "blocking_seconds": point.blocking_ns / SECOND_NS,
    }


def _mostly(finished: FinishedRequest) -> str:
    """Return what took the time, in words, the longest first.

    Tasks of the request say themselves what they did, so a wait for them is not told as well.
    """
    parts = sorted(_parts(finished), reverse=True)
    told = [part for part in parts if not part.for_tasks] if _tasks_tell(parts) else parts
    least_ns = told[0].ns * LEAST_SHARE if told else 0
    words = [f"{part.ns / SECOND_NS:.3f} s {part.text}" for part in told if part.ns >= least_ns]
    return f"; {', '.join(words[:MAX_PARTS])}" if words else ""


class _Part(NamedTuple):
    """A part of the time of a request, and whether it is a wait for other tasks."""

    ns: int
    text: str
    for_tasks: bool = False
    of_child: bool = False


def _parts(finished: FinishedRequest) -> Iterator[_Part]:
    for point, began_after in zip(finished.points, finished.began_after, strict=True):
        of_child = point.coroutine != finished.coroutine
        within = f" in {point.coroutine}" if of_child else ""
        if point.wait_ns:
            text = f"waiting at {point.yield_point} ({point.awaits}){within}"
            yield _Part(point.wait_ns, text, point.awaits in _FOR_TASKS, of_child)
        if point.active_ns:
            yield _Part(
                point.active_ns, f"computing {_when(point, began_after)}{within}", of_child=of_child
            )


def _tasks_tell(parts: Sequence[_Part]) -> bool:
    """Return whether what other tasks of the request did explains the waits for them."""
    waited_ns = max((part.ns for part in parts if part.for_tasks), default=0)
    did_ns = sum(part.ns for part in parts if part.of_child and not part.for_tasks)
    return did_ns > waited_ns * LEAST_SHARE


def _when(point: Charge, began_after: tuple[str, str] | None) -> str:
    """Return which of its code a task computed in, relative to where it awaits."""
    if began_after is not None:
        return f"after {began_after[0]} ({began_after[1]})"
    if point.yield_point in _ENDS:
        return _ENDS[point.yield_point]
    return f"before {point.yield_point} ({point.awaits})"
