"""The families of records of which there can be many, as the C core needs them described.

``families.py`` says the same for Python, and is the specification.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator
from functools import lru_cache
from typing import NamedTuple

from aiometrics.exposition import metrics
from aiometrics.exposition.families import seconds
from aiometrics.exposition.metrics import Metric
from aiometrics.pages.exemplar_table import SEGMENT
from aiometrics.pages.layout import (
    COROUTINE,
    HELD,
    REQUEST,
    REQUEST_WAIT,
    STATUSES,
    YIELD_POINT,
    Layout,
)
from aiometrics.pages.records import Group, Number, Records, Table
from aiometrics.pages.snapshot import Exemplar


class RecordFamily(NamedTuple):
    """A family with a row for each record of a group, or one for each status.

    ``words`` says where in a record the numbers of these rows begin.
    """

    metric: Metric
    table: Table
    group: Group
    number: Number
    words: tuple[int, ...]
    #: Whether its rows may have an exemplar.
    exemplars: bool = False

    def bounds_seconds(self, layout: Layout) -> tuple[float, ...]:
        """Return the bounds of its classic buckets; none if it is not a histogram."""
        if self.metric.kind != "histogram":
            return ()
        if self.number is Number.SEGMENTS:
            return segment_bounds_seconds(layout)
        return wait_bounds_seconds(layout)

    @property
    def rows(self) -> Iterator[tuple[int, tuple[tuple[str, str], ...]]]:
        """For each row of a record, where its number begins, and its further labels."""
        if len(self.words) == 1:
            return iter([(self.words[0], ())])
        return ((word, (("status", s),)) for word, s in zip(self.words, STATUSES, strict=True))


@lru_cache(maxsize=8)
def record_families(layout: Layout) -> tuple[RecordFamily, ...]:
    """Return the families in the order in which they are written."""
    return (
        *_of_yield_points(layout),
        *_of_coroutines(layout),
        *_OF_HELD,
        *_of_requests(layout),
        _OF_REQUEST_WAITS,
    )


def _of_yield_points(layout: Layout) -> tuple[RecordFamily, ...]:
    def family(
        metric: Metric, group: Group, number: Number, word: int, *, exemplars: bool = False
    ) -> RecordFamily:
        return RecordFamily(metric, Table.YIELD_POINTS, group, number, (word,), exemplars)

    at, start = YIELD_POINT, layout.yield_point(0)
    segments, waits = layout.segments(0) - start, layout.waits(0) - start
    ended, awaited, blocking = Group.ENDED, Group.AWAITED, Group.BLOCKING
    return (
        family(metrics.SEGMENT_SECONDS, ended, Number.SEGMENTS, segments, exemplars=True),
        family(metrics.WAIT_SECONDS, awaited, Number.WAITS, waits),
        family(metrics.SEGMENT_MAX_SECONDS, ended, Number.LONGEST_SECONDS, at["segment_max_ns"]),
        family(metrics.WAIT_MAX_SECONDS, awaited, Number.LONGEST_SECONDS, at["wait_max_ns"]),
        family(metrics.WAIT_TASKS, awaited, Number.COUNT, at["wait_tasks"]),
        family(metrics.SEGMENT_SQUARE_SECONDS, ended, Number.SQUARE_SECONDS, at["square_s2"]),
        family(
            metrics.BLOCKING_SECONDS, blocking, Number.SECONDS, at["blocking_ns"], exemplars=True
        ),
        family(metrics.INFLICTED_WAIT_SECONDS, ended, Number.SECONDS, at["inflicted_wait_ns"]),
        family(metrics.SUSPENDED_TASKS, awaited, Number.MOMENTARY, at["suspended"]),
        family(metrics.OLDEST_SUSPENSION, awaited, Number.OLDEST_SECONDS, at["oldest_ns"]),
    )


def _of_coroutines(layout: Layout) -> tuple[RecordFamily, ...]:
    def family(metric: Metric, number: Number, *words: int) -> RecordFamily:
        return RecordFamily(metric, Table.COROUTINES, Group.ALL, number, words)

    at, start, codes = COROUTINE, layout.coroutine(0), range(len(STATUSES))
    wall = (layout.wall(0, code) - start for code in codes)
    active = (layout.active(0, code) - start for code in codes)
    return (
        family(metrics.TASKS_CREATED, Number.COUNT, at["created"]),
        family(metrics.TASK_WALL_SECONDS, Number.WAITS, *wall),
        family(metrics.TASK_ACTIVE_SECONDS, Number.WAITS, *active),
        family(metrics.TASKS, Number.MOMENTARY, at["live"]),
        family(metrics.TASKS_DESTROYED_PENDING, Number.COUNT, at["destroyed_pending"]),
    )


def _of_requests(layout: Layout) -> tuple[RecordFamily, ...]:
    def family(
        metric: Metric,
        number: Number,
        *words: int,
        group: Group = Group.ALL,
        exemplars: bool = False,
    ) -> RecordFamily:
        return RecordFamily(metric, Table.REQUESTS, group, number, words, exemplars)

    at, start = REQUEST, layout.request(0)
    wall = (layout.request_wall(0, code) - start for code in range(len(STATUSES)))
    active, objective = layout.request_active(0) - start, Group.OBJECTIVE
    return (
        family(metrics.REQUEST_WALL_SECONDS, Number.REQUEST_WALL, *wall, exemplars=True),
        family(metrics.REQUEST_ACTIVE_SECONDS, Number.REQUEST_ACTIVE, active),
        family(metrics.REQUEST_BACKGROUND_SECONDS, Number.SECONDS, at["background_ns"]),
        family(metrics.REQUESTS_IN_PROGRESS, Number.REQUESTS, at["in_progress"]),
        family(
            metrics.REQUEST_OBJECTIVE_SECONDS,
            Number.LONGEST_SECONDS,
            at["objective_ns"],
            group=objective,
        ),
        family(
            metrics.REQUEST_OBJECTIVE_VIOLATIONS,
            Number.VIOLATIONS,
            at["violations"],
            group=objective,
        ),
    )


_OF_HELD = tuple(
    RecordFamily(metric, Table.HELD, Group.ALL, number, (word,))
    for metric, number, word in (
        (metrics.ACTIVE_SAMPLES, Number.COUNT, HELD["samples"]),
        (metrics.ACTIVE_SAMPLED_SECONDS, Number.SECONDS, HELD["active_ns"]),
    )
)
_OF_REQUEST_WAITS = RecordFamily(
    metrics.REQUEST_WAIT_SECONDS,
    Table.REQUEST_WAITS,
    Group.ALL,
    Number.SECONDS,
    (REQUEST_WAIT["wait_ns"],),
)
#: The labels of each table.
RECORD_LABELS = (
    metrics.YIELD_POINT_LABELS,
    metrics.COROUTINE_LABELS,
    metrics.ACTIVE_SAMPLES.labels,
    metrics.REQUEST_WAIT_SECONDS.labels,
    metrics.REQUEST_LABELS,
)


@lru_cache(maxsize=8)
def segment_bounds_seconds(layout: Layout) -> tuple[float, ...]:
    """Return the bounds of the classic buckets of segments."""
    return tuple(map(seconds, layout.segment_bounds_ns))


@lru_cache(maxsize=8)
def wait_bounds_seconds(layout: Layout) -> tuple[float, ...]:
    """Return the bounds of the classic buckets of waits."""
    return tuple(map(seconds, layout.wait_bounds_ns))


def exemplar_buckets(records: Records, layout: Layout) -> list[tuple[int, Exemplar]]:
    """Return the exemplars, each with the number of the bucket that it is in."""
    segments, waits = segment_bounds_seconds(layout), wait_bounds_seconds(layout)
    return [
        (bisect_left(segments if kind == SEGMENT else waits, seconds(exemplar.value_ns)), exemplar)
        for kind, exemplar in records.exemplars
    ]
