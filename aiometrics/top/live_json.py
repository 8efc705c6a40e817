"""Reads the JSON of ``/debug/live`` back into a snapshot, as far as hotspots need it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from aiometrics.base.clock import SECOND_NS
from aiometrics.pages.layout import STATUSES
from aiometrics.pages.snapshot import (
    Coroutine,
    Held,
    Histogram,
    Loop,
    Running,
    SegmentPath,
    Snapshot,
    YieldPoint,
)

Row = Mapping[str, Any]


def snapshot_of(answer: Row) -> Snapshot:
    """Return the snapshot that an answer was made of.

    Raises ``KeyError``, ``TypeError``, ``ValueError`` or ``AttributeError`` if it is none.
    """
    taken_ns = _ns(answer["taken_timestamp_seconds"])
    return Snapshot(
        taken_ns,
        loops=tuple(map(_loop, answer["loops"])),
        coroutines=tuple(map(_coroutine, answer["coroutines"])),
        yield_points=tuple(_yield_point(row, taken_ns) for row in answer["yield_points"]),
        held=tuple(map(_held, answer["held"])),
        segment_paths=tuple(map(_segment_path, answer["segment_paths"])),
        untraced_tasks=int(answer["untraced_tasks"]),
        sample_ratio=float(answer["sample_ratio"]),
    )


def waits_for_work(answer: Row) -> Callable[[str], bool]:
    """Return what tells the yield points where tasks wait because there is nothing to do."""
    idle = {row["yield_point"] for row in answer["yield_points"] if row["waits_for_work"]}
    return idle.__contains__


def _loop(row: Row) -> Loop:
    running = row["running"]
    return Loop(
        str(row["loop"]),
        _histogram(row["start_delays"]),
        _ns(row["blocking_seconds"]),
        _ns(row["heartbeat_timestamp_seconds"]),
        running
        and Running(
            str(running["coroutine"]), _ns(running["elapsed_seconds"]), blocks=running["blocks"]
        ),
        _histogram(row["iterations"]),
        _ns(row["active_seconds"]),
        None if row["idle_seconds"] is None else _ns(row["idle_seconds"]),
        None,
        None,
        process_id=int(row["process_id"]),
    )


def _yield_point(row: Row, taken_ns: int) -> YieldPoint:
    age_seconds = row["oldest_suspension_seconds"]
    return YieldPoint(
        str(row["coroutine"]),
        str(row["yield_point"]),
        str(row["awaits"]),
        _histogram(row["segments"]),
        _histogram(row["waits"]),
        _ns(row["blocking_seconds"]),
        _ns(row["inflicted_wait_seconds"]),
        int(row["suspended"]),
        0 if age_seconds is None else taken_ns - _ns(age_seconds),
        segment_max_ns=_ns(row["segment_max_seconds"]),
        wait_max_ns=_ns(row["wait_max_seconds"]),
        wait_tasks=int(row["wait_tasks"]),
    )


def _coroutine(row: Row) -> Coroutine:
    return Coroutine(
        str(row["coroutine"]),
        int(row["created"]),
        int(row["live"]),
        int(row["destroyed_pending"]),
        {status: _histogram(row["wall"][status]) for status in STATUSES},
        {status: _histogram(row["active"][status]) for status in STATUSES},
    )


def _held(row: Row) -> Held:
    return Held(
        str(row["coroutine"]),
        str(row["held_at"]),
        int(row["samples"]),
        _ns(row["active_seconds"]),
    )


def _segment_path(row: Row) -> SegmentPath:
    return SegmentPath(
        str(row["coroutine"]),
        str(row["began_at"]),
        str(row["ended_at"]),
        int(row["segments"]),
        _ns(row["active_seconds"]),
    )


def _histogram(row: Row) -> Histogram:
    return Histogram((), (int(row["count"]),), _ns(row["sum_seconds"]))


def _ns(seconds: float) -> int:
    return round(seconds * SECOND_NS)
