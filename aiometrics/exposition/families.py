"""Turns a snapshot into metric families: which rows each metric has.

Nanoseconds become seconds here, and nowhere else.
"""

from __future__ import annotations

import math
import platform
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import lru_cache
from itertools import accumulate
from typing import NamedTuple

from aiometrics.base.clock import SECOND_NS
from aiometrics.exposition import metrics
from aiometrics.exposition.constant_labels import NO_LABELS, ConstantLabels
from aiometrics.exposition.metrics import Metric
from aiometrics.pages.snapshot import (
    CALLBACK,
    EAGER_CHILD,
    RAISE,
    RETURN,
    RUNNING,
    Exemplar,
    Histogram,
    Loop,
    Snapshot,
    YieldPoint,
)

_NO_SEGMENT = frozenset({EAGER_CHILD, RUNNING})
_NO_WAIT = frozenset({RETURN, RAISE, RUNNING})


class Distribution(NamedTuple):
    """A histogram as Prometheus writes it.

    ``cumulative`` counts the durations up to each bound, and at last all of them.
    """

    bounds_seconds: tuple[float, ...]
    cumulative: tuple[int, ...]
    sum_seconds: float
    #: The counts of the native buckets that are not empty, by index; None if there are none.
    native: Mapping[int, int] | None = None

    @property
    def samples(self) -> int:
        """The number of its samples: one per bucket, the count and the sum."""
        return len(self.cumulative) + 2

    def bucket(self, value_seconds: float) -> int:
        """Return the number of the bucket that a duration is in."""
        return bisect_left(self.bounds_seconds, value_seconds)


class WithExemplar(NamedTuple):
    """A value with an exemplar, which is one of the durations that it counts."""

    value: float | Distribution
    exemplar: Exemplar


Value = float | Distribution | WithExemplar
#: Label values in the order of ``Metric.labels``, and the value.
Row = tuple[tuple[str, ...], Value]
Family = tuple[Metric, Iterator[Row]]


class ExporterInfo(NamedTuple):
    """The version and recorder that the exporter reports about itself.

    ``implementation`` is its recorder: ``c``, ``python`` or ``none``. ``frames`` is how the
    recorder reads suspended frames, and ``scrape_ns`` is the time that the previous scrape took.
    ``labels`` are the user's own. ``detail`` is the number of yield points that are shown one by
    one; 0 stands for all.
    """

    version: str
    implementation: str
    frames: str
    scrape_ns: int = 0
    labels: ConstantLabels = NO_LABELS
    detail: int = 0


#: Returns what one scrape shows.
Source = Callable[[], tuple[Snapshot, ExporterInfo]]


def families(
    snapshot: Snapshot, info: ExporterInfo, written: int | None = None
) -> Iterator[Family]:
    """Yield every metric with its rows, which are made only as they are iterated.

    So a scrape can pause between any two rows. ``aiometrics_series`` comes last: it counts itself
    and the samples of all rows that were iterated before. If the caller has ``written`` so many
    samples of records, their families are left out.
    """
    samples = written or 0

    def counted(rows: Iterable[Row]) -> Iterator[Row]:
        nonlocal samples
        for row in rows:
            value, _ = split_exemplar(row[1])
            samples += value.samples if isinstance(value, Distribution) else 1
            yield row

    def series() -> Iterator[Row]:
        yield (), samples + 1

    labels = info.labels
    if written is None:
        for metric, rows in _of_records(snapshot):
            yield labels.metric(metric), counted(labels.rows(rows))
    for metric, rows in _of_the_rest(snapshot, info):
        yield labels.metric(metric), counted(labels.rows(rows))
    yield labels.metric(metrics.SERIES), iter(labels.rows(series()))


def _of_records(snapshot: Snapshot) -> Iterator[tuple[Metric, Iterable[Row]]]:
    coroutines = snapshot.coroutines
    yield from _of_yield_points(snapshot.yield_points)

    yield metrics.TASKS_CREATED, (((entry.coroutine,), entry.created) for entry in coroutines)
    yield (
        metrics.TASK_WALL_SECONDS,
        (
            ((e.coroutine, status), distribution(h))
            for e in coroutines
            for status, h in e.wall.items()
        ),
    )
    yield (
        metrics.TASK_ACTIVE_SECONDS,
        (
            ((e.coroutine, status), distribution(h))
            for e in coroutines
            for status, h in e.active.items()
        ),
    )
    yield metrics.TASKS, (((entry.coroutine,), entry.live) for entry in coroutines)
    yield (
        metrics.TASKS_DESTROYED_PENDING,
        (((entry.coroutine,), entry.destroyed_pending) for entry in coroutines),
    )

    held = snapshot.held
    yield metrics.ACTIVE_SAMPLES, ((entry.labels, entry.samples) for entry in held)
    yield (
        metrics.ACTIVE_SAMPLED_SECONDS,
        ((entry.labels, seconds(entry.active_ns)) for entry in held),
    )

    requests = snapshot.requests
    yield (
        metrics.REQUEST_WALL_SECONDS,
        (
            ((e.request, status), _with_exemplar(distribution(h), e.exemplars.get(status)))
            for e in requests
            for status, h in e.wall.items()
        ),
    )
    yield (
        metrics.REQUEST_ACTIVE_SECONDS,
        (((entry.request,), distribution(entry.active)) for entry in requests),
    )
    yield (
        metrics.REQUEST_BACKGROUND_SECONDS,
        (((entry.request,), seconds(entry.background_ns)) for entry in requests),
    )
    yield (
        metrics.REQUESTS_IN_PROGRESS,
        (((entry.request,), entry.in_progress) for entry in requests),
    )
    yield (
        metrics.REQUEST_OBJECTIVE_SECONDS,
        _known_seconds((entry.request, entry.objective_ns) for entry in requests),
    )
    yield (
        metrics.REQUEST_OBJECTIVE_VIOLATIONS,
        (((e.request,), e.violations) for e in requests if e.objective_ns is not None),
    )
    yield (
        metrics.REQUEST_WAIT_SECONDS,
        ((entry.labels, seconds(entry.wait_ns)) for entry in snapshot.request_waits),
    )


def _of_the_rest(snapshot: Snapshot, info: ExporterInfo) -> Iterator[tuple[Metric, Iterable[Row]]]:
    loops = snapshot.loops

    yield metrics.LOOP_TIME_SECONDS, _loop_times(loops)
    yield (
        metrics.LOOP_ITERATION_SECONDS,
        (((loop.loop,), distribution(loop.iterations)) for loop in loops),
    )
    yield (
        metrics.LOOP_START_DELAY_SECONDS,
        (((loop.loop,), distribution(loop.start_delay)) for loop in loops),
    )
    yield metrics.LOOP_EVENTS, _known((loop.loop, loop.events) for loop in loops)
    yield metrics.LOOP_EVENTS_WAITING, _known((loop.loop, loop.events_waiting) for loop in loops)
    yield metrics.LOOP_READY_HANDLES, _known((loop.loop, loop.ready_handles) for loop in loops)
    yield (
        metrics.LOOP_SCHEDULED_TIMERS,
        _known((loop.loop, loop.scheduled_timers) for loop in loops),
    )
    yield (
        metrics.LOOP_BLOCKING_SECONDS,
        (((loop.loop,), seconds(loop.blocking_ns)) for loop in loops),
    )
    yield (
        metrics.LOOP_HEARTBEAT,
        (((loop.loop,), seconds(loop.heartbeat_ns)) for loop in loops if loop.heartbeat_ns),
    )
    yield metrics.LOOP_PROCESS_ID, (((loop.loop,), loop.process_id) for loop in loops)

    yield (
        metrics.LOOP_THREAD_CPU_SECONDS,
        _known_seconds((loop.loop, loop.thread_cpu_ns) for loop in loops),
    )
    yield (
        metrics.LOOP_THREAD_RUNQUEUE_SECONDS,
        _known_seconds((loop.loop, loop.thread_runqueue_ns) for loop in loops),
    )
    yield (
        metrics.LOOP_GC_PAUSE_SECONDS,
        (((o.loop, str(n)), seconds(ns)) for o in loops for n, ns in enumerate(o.gc_pauses_ns)),
    )
    yield (
        metrics.UNHANDLED_EXCEPTIONS,
        (((loop.loop,), loop.unhandled_exceptions) for loop in loops),
    )
    yield metrics.EXECUTOR_THREADS, _known((loop.loop, loop.executor_threads) for loop in loops)
    yield (
        metrics.EXECUTOR_QUEUE_ITEMS,
        _known((loop.loop, loop.executor_queue_items) for loop in loops),
    )
    yield (
        metrics.BLOCK_SAMPLES,
        (
            ((loop.loop, place), count)
            for loop in loops
            for place, count in loop.block_samples.items()
        ),
    )

    python = (platform.python_implementation(), platform.python_version())
    yield metrics.BUILD_INFO, [((info.version, info.implementation, info.frames, *python), 1)]
    yield metrics.SERVICE_INFO, info.labels.info()
    yield metrics.SCRAPE_DURATION, [((), seconds(info.scrape_ns))]
    yield metrics.OVERFLOW, (((kind,), count) for kind, count in snapshot.overflow.items())
    yield metrics.ERRORS, (((probe,), count) for probe, count in snapshot.errors.items())
    yield (
        metrics.REQUEST_SCOPE_ERRORS,
        (((kind,), count) for kind, count in snapshot.scope_errors.items()),
    )
    yield metrics.REQUEST_RECORDS, snapshot.records.items()
    yield metrics.UNTRACED_TASKS, [((), snapshot.untraced_tasks)]
    yield metrics.SAMPLE_RATIO, [((), snapshot.sample_ratio)]
    yield (
        metrics.SKIPPED_PAGES,
        (((reason,), count) for reason, count in snapshot.skipped_pages.items()),
    )


def _of_yield_points(points: Iterable[YieldPoint]) -> Iterator[tuple[Metric, Iterable[Row]]]:
    ended = [point for point in points if point.yield_point not in _NO_SEGMENT]
    awaited = [point for point in points if _awaited(point)]
    blocking = [point for point in points if point.yield_point != EAGER_CHILD]

    yield (
        metrics.SEGMENT_SECONDS,
        (
            (point.labels, _with_exemplar(distribution(point.segments), point.exemplar))
            for point in ended
        ),
    )
    yield metrics.WAIT_SECONDS, ((point.labels, distribution(point.waits)) for point in awaited)
    yield (
        metrics.SEGMENT_MAX_SECONDS,
        ((point.labels, seconds(point.segment_max_ns)) for point in ended),
    )
    yield (
        metrics.WAIT_MAX_SECONDS,
        ((point.labels, seconds(point.wait_max_ns)) for point in awaited),
    )
    yield metrics.WAIT_TASKS, ((point.labels, point.wait_tasks) for point in awaited)
    yield (
        metrics.SEGMENT_SQUARE_SECONDS,
        ((point.labels, square_seconds(point.segment_squares_ns2)) for point in ended),
    )
    yield (
        metrics.BLOCKING_SECONDS,
        (
            (point.labels, _with_exemplar(seconds(point.blocking_ns), point.exemplar))
            for point in blocking
        ),
    )
    yield (
        metrics.INFLICTED_WAIT_SECONDS,
        ((point.labels, seconds(point.inflicted_wait_ns)) for point in ended),
    )
    yield metrics.SUSPENDED_TASKS, ((point.labels, point.suspended) for point in awaited)
    yield (
        metrics.OLDEST_SUSPENSION,
        ((point.labels, seconds(point.oldest_suspension_ns)) for point in awaited),
    )


def _awaited(point: YieldPoint) -> bool:
    """Return whether tasks wait there. Callbacks wait only for eager children that they start."""
    return point.yield_point not in _NO_WAIT and (
        point.coroutine != CALLBACK or point.yield_point == EAGER_CHILD
    )


def _loop_times(loops: Iterable[Loop]) -> Iterator[Row]:
    for loop in loops:
        yield (loop.loop, "active"), seconds(loop.active_ns)
        if loop.idle_ns is not None:
            yield (loop.loop, "idle"), seconds(loop.idle_ns)


def _known(values: Iterable[tuple[str, int | None]]) -> Iterator[Row]:
    """Yield a row for each name whose value is known."""
    return (((name,), value) for name, value in values if value is not None)


def _known_seconds(values: Iterable[tuple[str, int | None]]) -> Iterator[Row]:
    return (((name,), seconds(ns)) for name, ns in values if ns is not None)


def split_exemplar(value: Value) -> tuple[float | Distribution, Exemplar | None]:
    """Return the value alone, and its exemplar if it has one."""
    return value if isinstance(value, WithExemplar) else (value, None)


def _with_exemplar(value: float | Distribution, exemplar: Exemplar | None) -> Value:
    return value if exemplar is None else WithExemplar(value, exemplar)


def seconds(ns: int) -> float:
    """Return nanoseconds as seconds, rounded once, to the nearest float."""
    return ns / SECOND_NS


def square_seconds(square_ns2: int) -> float:
    """Return ns² as s², rounded once, to the nearest float."""
    return square_ns2 / SECOND_NS**2


def distribution(histogram: Histogram) -> Distribution:
    """Return a histogram in seconds, with cumulative counts."""
    return Distribution(
        _bounds_seconds(histogram.bounds_ns),
        tuple(accumulate(histogram.counts)),
        seconds(histogram.sum_ns),
        histogram.native,
    )


@lru_cache(maxsize=64)
def _bounds_seconds(bounds_ns: tuple[int, ...]) -> tuple[float, ...]:
    return tuple(map(seconds, bounds_ns))


def bound_text(bound: float) -> str:
    """Return the label ``le`` of a bucket, as ``prometheus_client`` writes it.

    For instance ``1.0``, ``1e+06`` (from a million on) or ``+Inf``. It must not depend on the
    format, or Prometheus would see other series whenever it negotiates another one.
    """
    if math.isinf(bound):
        return "+Inf"
    text = repr(bound)
    whole, _, fraction = text.partition(".")
    if "e" in text or len(whole) < 7:
        return text
    mantissa = f"{whole[0]}.{whole[1:]}{fraction}".rstrip("0").removesuffix(".")
    return f"{mantissa}e+{len(whole) - 1:02}"
