"""Helpers for tests of request scopes: work to do inside, and summaries of the measurements."""

from __future__ import annotations

import asyncio
import sys
from typing import Any

from aiometrics.requests.finished import FinishedRequest
from aiometrics.testing import TracedLoop

SECOND = 1_000_000_000
EAGERLY: dict[str, Any] = {"eager_start": True} if sys.version_info >= (3, 12) else {}


def collect_finished(traced: TracedLoop) -> list[FinishedRequest]:
    """A list to which requests are added as they finish."""
    found: list[FinishedRequest] = []
    traced.instrumentation.request_observers.every.append(found.append)
    return found


def charges_of(finished: FinishedRequest) -> list[tuple[str, float, float]]:
    """By function or pseudo point: active and waiting seconds of a request."""
    return [
        (short_name(point.yield_point), point.active_ns / SECOND, point.wait_ns / SECOND)
        for point in finished.points
    ]


def short_name(name: str) -> str:
    """The last part of a qualified name; pseudo points are left as they are."""
    return name if name.startswith("(") else name.rpartition(" ")[2].rpartition(".")[2]


def summary_of(finished: FinishedRequest) -> tuple[str, str, float, float]:
    """Type, status, wall and active seconds."""
    return (
        finished.request,
        finished.status,
        finished.wall_ns / SECOND,
        finished.active_ns / SECOND,
    )


def scope_errors_of(traced: TracedLoop) -> dict[str, int]:
    """The scope errors that were counted, by kind."""
    return {kind: count for kind, count in traced.snapshot().scope_errors.items() if count}


async def work(traced: TracedLoop, *parts: float) -> None:
    """Take a segment of each of these lengths, with a second of waiting in between."""
    for number, seconds in enumerate(parts):
        if number:
            await asyncio.sleep(1)
        traced.clock.advance(seconds)


def request_totals(traced: TracedLoop, name: str = "GET /") -> tuple[int, float, float, int]:
    """Finished requests of a type, their active and background seconds, and those in progress."""
    entry = traced.snapshot().request(name)
    return (
        entry.active.count,
        entry.active.sum_ns / SECOND,
        entry.background_ns / SECOND,
        entry.in_progress,
    )
