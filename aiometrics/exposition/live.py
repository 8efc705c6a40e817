"""The numbers of one moment as JSON, for the live page and other programs.

Counters and sums count from the start, so that a reader can subtract any two answers.
docs/live.md describes each field.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

from aiometrics.base.clock import SECOND_NS
from aiometrics.base.yielding import Pause, no_pause
from aiometrics.exposition.families import ExporterInfo
from aiometrics.exposition.idle_waits import of_no_library, waits_for_work
from aiometrics.exposition.stuck import Judge
from aiometrics.pages.snapshot import (
    Chain,
    Coroutine,
    Held,
    Histogram,
    Loop,
    RequestType,
    RequestWait,
    Running,
    SegmentPath,
    Snapshot,
    YieldPoint,
    encodable,
)

#: Rows of one slice, which take about 0.1 ms.
_SLICE_ROWS = 16

Row = dict[str, Any]


class LiveView(NamedTuple):
    """Makes the JSON of snapshots.

    ``of_library(yield_point)`` tells where tasks wait because there is nothing to do.
    """

    of_library: Callable[[str], bool] = of_no_library

    def slices(
        self, snapshot: Snapshot, info: ExporterInfo, pause: Pause = no_pause
    ) -> Iterator[bytes]:
        """Yield the JSON text of ``snapshot``, with a pause after every few rows."""
        yield json.dumps(self._head(snapshot, info))[:-1].encode()
        for name, rows in self._tables(snapshot).items():
            yield f',\n"{name}": ['.encode()
            for slice_ in _sliced(rows):
                yield slice_
                pause()
            yield b"]"
        yield b"}\n"

    def _head(self, snapshot: Snapshot, info: ExporterInfo) -> Row:
        return {
            "version": info.version,
            "implementation": info.implementation,
            "taken_timestamp_seconds": _seconds(snapshot.taken_ns),
            "sample_ratio": snapshot.sample_ratio,
            "untraced_tasks": snapshot.untraced_tasks,
            "errors": dict(snapshot.errors),
            "overflow": dict(snapshot.overflow),
            "scope_errors": dict(snapshot.scope_errors),
        }

    def _tables(self, snapshot: Snapshot) -> dict[str, Iterable[Row]]:
        judge = Judge(snapshot, self.of_library)
        return {
            "loops": map(_loop, snapshot.loops),
            "held": map(_held, snapshot.held),
            "yield_points": (
                self._yield_point(point, snapshot.taken_ns, judge)
                for point in snapshot.yield_points
            ),
            "segment_paths": map(_segment_path, snapshot.segment_paths),
            "chains": map(_chain, snapshot.chains),
            "coroutines": map(_coroutine, snapshot.coroutines),
            "requests": map(_request, snapshot.requests),
            "request_waits": map(_request_wait, snapshot.request_waits),
        }

    def _yield_point(self, point: YieldPoint, now_ns: int, judge: Judge) -> Row:
        since_ns = point.oldest_suspension_ns
        return {
            "coroutine": encodable(point.coroutine),
            "yield_point": encodable(point.yield_point),
            "awaits": encodable(point.awaits),
            "segments": _durations(point.segments),
            "segment_max_seconds": _seconds(point.segment_max_ns),
            "waits": _durations(point.waits),
            "wait_max_seconds": _seconds(point.wait_max_ns),
            "wait_tasks": point.wait_tasks,
            "blocking_seconds": _seconds(point.blocking_ns),
            "inflicted_wait_seconds": _seconds(point.inflicted_wait_ns),
            "suspended": point.suspended,
            "oldest_suspension_seconds": _seconds(now_ns - since_ns) if since_ns else None,
            "waits_for_work": waits_for_work(point, self.of_library),
            "unusual": judge.is_unusual(point),
            "stuck": judge.is_stuck(point),
        }


def _sliced(rows: Iterable[Row]) -> Iterator[bytes]:
    separator, texts = "", list[str]()
    for row in rows:
        texts.append(f"{separator}{json.dumps(row)}")
        separator = ",\n"
        if len(texts) == _SLICE_ROWS:
            yield "".join(texts).encode()
            texts.clear()
    yield "".join(texts).encode()


def _loop(loop: Loop) -> Row:
    return {
        "loop": encodable(loop.loop),
        "process_id": loop.process_id,
        "heartbeat_timestamp_seconds": _seconds(loop.heartbeat_ns),
        "running": _running(loop.running) if loop.running else None,
        "active_seconds": _seconds(loop.active_ns),
        "idle_seconds": _seconds(loop.idle_ns),
        "iterations": _durations(loop.iterations),
        "start_delays": _durations(loop.start_delay),
        "blocking_seconds": _seconds(loop.blocking_ns),
        "block_samples": {encodable(at): count for at, count in loop.block_samples.items()},
        "ready_handles": loop.ready_handles,
        "scheduled_timers": loop.scheduled_timers,
        "thread_cpu_seconds": _seconds(loop.thread_cpu_ns),
        "thread_runqueue_seconds": _seconds(loop.thread_runqueue_ns),
        "gc_pause_seconds": _seconds(sum(loop.gc_pauses_ns)),
        "unhandled_exceptions": loop.unhandled_exceptions,
        "executor_threads": loop.executor_threads,
        "executor_queue_items": loop.executor_queue_items,
    }


def _running(running: Running) -> Row:
    return {
        "coroutine": encodable(running.coroutine),
        # The segment may have begun after the snapshot.
        "elapsed_seconds": _seconds(max(0, running.elapsed_ns)),
        "blocks": running.blocks,
    }


def _held(held: Held) -> Row:
    return {
        "coroutine": encodable(held.coroutine),
        "held_at": encodable(held.held_at),
        "samples": held.samples,
        "active_seconds": _seconds(held.active_ns),
    }


def _segment_path(path: SegmentPath) -> Row:
    return {
        "coroutine": encodable(path.coroutine),
        "began_at": encodable(path.began_at),
        "ended_at": encodable(path.ended_at),
        "segments": path.segments,
        "active_seconds": _seconds(path.active_ns),
    }


def _chain(chain: Chain) -> Row:
    return {
        "coroutine": encodable(chain.coroutine),
        "frames": [encodable(frame) for frame in chain.frames],
        "yield_point": encodable(chain.yield_point),
        "awaits": encodable(chain.awaits),
        "waits": {"count": chain.waits, "sum_seconds": _seconds(chain.wait_ns)},
        "active_seconds": _seconds(chain.active_ns),
    }


def _coroutine(entry: Coroutine) -> Row:
    return {
        "coroutine": encodable(entry.coroutine),
        "created": entry.created,
        "live": entry.live,
        "destroyed_pending": entry.destroyed_pending,
        "wall": {status: _durations(wall) for status, wall in entry.wall.items()},
        "active": {status: _durations(active) for status, active in entry.active.items()},
    }


def _request(entry: RequestType) -> Row:
    return {
        "request": encodable(entry.request),
        "objective_seconds": _seconds(entry.objective_ns),
        "violations": entry.violations,
        "in_progress": entry.in_progress,
        "wall": {status: _durations(wall) for status, wall in entry.wall.items()},
        "active": _durations(entry.active),
        "background_seconds": _seconds(entry.background_ns),
    }


def _request_wait(entry: RequestWait) -> Row:
    return {
        "request": encodable(entry.request),
        "awaits": encodable(entry.awaits),
        "wait_seconds": _seconds(entry.wait_ns),
    }


def _durations(histogram: Histogram) -> Row:
    return {"count": histogram.count, "sum_seconds": _seconds(histogram.sum_ns)}


def _seconds(ns: int | None) -> float | None:
    return None if ns is None else ns / SECOND_NS
