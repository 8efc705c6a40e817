"""Keeps the rows of the yield points with the most loop time, and adds up the others.

Of each coroutine, the others are one row, whose yield point is ``(other)``; so no sum changes, and
that over a coroutine neither. A counter must not fall from one scrape to the next: a yield point
that was shown stays, and one that is shown later begins at 0, as what it had counted before stays
in the row of the others.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from operator import sub

from aiometrics.base.yielding import Pause, in_slices, no_pause
from aiometrics.pages.layout import SQUARE_NS2, YIELD_POINT, Layout
from aiometrics.pages.merge import add_yield_points
from aiometrics.pages.records import Labels, Records
from aiometrics.pages.snapshot import EAGER_CHILD, OTHER, RUNNING, Histogram, YieldPoint

#: Never summed up: they are no place, and have few rows.
_ALWAYS = frozenset({EAGER_CHILD, RUNNING, OTHER})
#: So many times as many as are kept at a time may have been shown in all.
_EVER = 2


class Detail:
    """Keeps the ``count`` yield points with the most loop time, and those that it kept before.

    These are never more than twice as many. It remembers what was shown, and so stands for one
    target of Prometheus. Not for several threads at a time.
    """

    def __init__(self, count: int) -> None:
        self.count = count
        #: The yield points that are shown, and what each had counted before, if anything: a record
        #: of a page from the C core, or a value.
        self._shown: dict[Labels, bytes | YieldPoint | None] = {}
        #: The coroutines of which others have been shown.
        self._summed: dict[str, None] = {}

    def of(
        self, points: Sequence[YieldPoint], layout: Layout | None = None, pause: Pause = no_pause
    ) -> tuple[YieldPoint, ...]:
        """Return the yield points that are kept, and the sums of the others.

        ``layout`` is that of the records that the C core has summed up before, if any.
        """
        shown = self._values(layout)
        ranked = sorted(
            (point for point in points if point.yield_point not in _ALWAYS),
            key=lambda point: -point.segments.sum_ns,
        )
        for point in ranked[: self.count]:
            if point.labels not in shown and len(shown) < _EVER * self.count:
                before = _counters(point) if point.coroutine in self._summed else None
                shown[point.labels] = self._shown[point.labels] = before
        rows: dict[Labels, YieldPoint] = {}
        others: list[YieldPoint] = []
        for point in in_slices(points, pause):
            before = shown.get(point.labels)
            if point.labels not in shown and point.yield_point not in _ALWAYS:
                others.append(point)
            elif before is not None and _covers(point, before):
                others.append(before)
                rows[point.labels] = _less(point, before)
            else:
                rows[point.labels] = point
        for point in in_slices(others, pause):
            self._summed[point.coroutine] = None
            other = replace(point, yield_point=OTHER, awaits=OTHER)
            known = rows.get(other.labels)
            rows[other.labels] = other if known is None else add_yield_points(known, other)
        return tuple(rows.values())

    def fold(self, records: Records) -> bool:
        """Do the same with records; False if Python has to do it, with the values."""
        if any(isinstance(before, YieldPoint) for before in self._shown.values()):
            return False
        found = records.fold(self.count, _EVER * self.count, self._shown, self._summed)
        if found is None:
            return False
        shown, summed = found
        self._shown.update(shown)
        self._summed.update(dict.fromkeys(summed))
        return True

    def _values(self, layout: Layout | None) -> dict[Labels, YieldPoint | None]:
        return {
            labels: _value(labels, before, layout) if isinstance(before, bytes) else before
            for labels, before in self._shown.items()
        }


def _value(labels: Labels, record: bytes, layout: Layout | None) -> YieldPoint | None:
    """Return the numbers of a record; ``None`` if it is of pages that are gone."""
    words = memoryview(record).cast("q").tolist()
    if layout is None or len(words) != layout.yield_point_words:
        return None
    at, segments = YIELD_POINT, len(YIELD_POINT)
    waits = segments + layout.segment_words
    return YieldPoint(
        *labels,
        layout.segment_buckets.histogram(words[segments:waits], 1),
        layout.wait_buckets.histogram(words[waits:], 1),
        words[at["blocking_ns"]],
        words[at["inflicted_wait_ns"]],
        suspended=0,
        oldest_suspension_ns=0,
        segment_squares_ns2=words[at["square_s2"]] * SQUARE_NS2 + words[at["square_ns2"]],
        wait_tasks=words[at["wait_tasks"]],
    )


def _counters(point: YieldPoint) -> YieldPoint:
    return replace(
        point,
        suspended=0,
        oldest_suspension_ns=0,
        exemplar=None,
        segment_max_ns=0,
        wait_max_ns=0,
    )


def _covers(point: YieldPoint, before: YieldPoint) -> bool:
    """Whether no counter has fallen, as they do if a page is left out that was read before."""
    return (
        _histogram_covers(point.segments, before.segments)
        and _histogram_covers(point.waits, before.waits)
        and point.blocking_ns >= before.blocking_ns
        and point.inflicted_wait_ns >= before.inflicted_wait_ns
        and point.segment_squares_ns2 >= before.segment_squares_ns2
        and point.wait_tasks >= before.wait_tasks
    )


def _histogram_covers(now: Histogram, before: Histogram) -> bool:
    return (
        now.bounds_ns == before.bounds_ns
        and now.sum_ns >= before.sum_ns
        and all(count >= less for count, less in zip(now.counts, before.counts, strict=True))
        and all(_native(now).get(index, 0) >= less for index, less in _native(before).items())
    )


def _native(histogram: Histogram) -> Mapping[int, int]:
    return histogram.native or {}


def _less(point: YieldPoint, before: YieldPoint) -> YieldPoint:
    return replace(
        point,
        segments=_difference(point.segments, before.segments),
        waits=_difference(point.waits, before.waits),
        blocking_ns=point.blocking_ns - before.blocking_ns,
        inflicted_wait_ns=point.inflicted_wait_ns - before.inflicted_wait_ns,
        segment_squares_ns2=point.segment_squares_ns2 - before.segment_squares_ns2,
        wait_tasks=point.wait_tasks - before.wait_tasks,
    )


def _difference(now: Histogram, before: Histogram) -> Histogram:
    return Histogram(
        now.bounds_ns,
        tuple(map(sub, now.counts, before.counts)),
        now.sum_ns - before.sum_ns,
        None if now.native is None else dict(_differences(now.native, _native(before))),
    )


def _differences(now: Mapping[int, int], before: Mapping[int, int]) -> Iterator[tuple[int, int]]:
    for index, count in now.items():
        if count > before.get(index, 0):
            yield index, count - before.get(index, 0)
