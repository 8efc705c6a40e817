"""Subtracts an earlier snapshot from a later one, which leaves what counters gained in between."""

from __future__ import annotations

from dataclasses import replace
from operator import lt, sub

from aiometrics.pages.layout import STATUSES
from aiometrics.pages.snapshot import Coroutine, Held, Histogram, Loop, Snapshot, YieldPoint


def gain(now: Snapshot, before: Snapshot) -> Snapshot:
    """Return ``now`` with what its counters and histograms gained since ``before``.

    A number that is smaller than before has been reset and counts in full, as in ``rate()``. Only
    what a report shows is subtracted.
    """
    loops = {loop.loop: loop for loop in before.loops}
    tasks = {entry.coroutine: entry for entry in before.coroutines}
    points = {point.labels: point for point in before.yield_points}
    lines = {held.labels: held for held in before.held}
    return replace(
        now,
        loops=tuple(_loop_gain(loop, loops.get(loop.loop)) for loop in now.loops),
        coroutines=tuple(_task_gain(entry, tasks.get(entry.coroutine)) for entry in now.coroutines),
        yield_points=tuple(
            _point_gain(point, points.get(point.labels)) for point in now.yield_points
        ),
        held=tuple(_held_gain(held, lines.get(held.labels)) for held in now.held),
    )


def _loop_gain(now: Loop, old: Loop | None) -> Loop:
    if old is None:
        return now
    return replace(
        now,
        start_delay=_histogram_gain(now.start_delay, old.start_delay),
        blocking_ns=_counter_gain(now.blocking_ns, old.blocking_ns),
        active_ns=_counter_gain(now.active_ns, old.active_ns),
    )


def _task_gain(now: Coroutine, old: Coroutine | None) -> Coroutine:
    if old is None:
        return now
    wall = {status: _histogram_gain(now.wall[status], old.wall[status]) for status in STATUSES}
    return now._replace(
        wall=wall,
        destroyed_pending=_counter_gain(now.destroyed_pending, old.destroyed_pending),
    )


def _point_gain(now: YieldPoint, old: YieldPoint | None) -> YieldPoint:
    if old is None:
        return now
    segments, waits = (
        _histogram_gain(now.segments, old.segments),
        _histogram_gain(now.waits, old.waits),
    )
    return replace(
        now,
        segments=segments,
        waits=waits,
        blocking_ns=_counter_gain(now.blocking_ns, old.blocking_ns),
    )


def _held_gain(now: Held, old: Held | None) -> Held:
    if old is None:
        return now
    return now._replace(
        samples=_counter_gain(now.samples, old.samples),
        active_ns=_counter_gain(now.active_ns, old.active_ns),
    )


def _counter_gain(now: int, before: int) -> int:
    return now - before if now >= before else now


def _histogram_gain(now: Histogram, before: Histogram) -> Histogram:
    if before.bounds_ns != now.bounds_ns or any(map(lt, now.counts, before.counts)):
        return now
    return Histogram(
        now.bounds_ns, tuple(map(sub, now.counts, before.counts)), now.sum_ns - before.sum_ns
    )
