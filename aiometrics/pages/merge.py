"""Merges the views of several pages into one snapshot, adding up records of the same name."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import product
from types import MappingProxyType
from typing import TypeVar

from aiometrics.base.yielding import Pause, in_slices, no_pause
from aiometrics.pages.layout import RECORD_KINDS, RECORD_OUTCOMES, SCOPE_ERRORS, STATUSES
from aiometrics.pages.reader import OVERFLOWS, PageView
from aiometrics.pages.snapshot import (
    Chain,
    Coroutine,
    Exemplar,
    Held,
    RequestType,
    RequestWait,
    SegmentPath,
    Snapshot,
    YieldPoint,
)

K = TypeVar("K")
E = TypeVar("E")
_NONE: Mapping[str, int] = MappingProxyType({})


def labelled(view: PageView, loop: str) -> PageView:
    """Return ``view`` with its loop named ``loop``."""
    return view._replace(loop=replace(view.loop, loop=loop))


def merged(
    pages: Sequence[PageView],
    *,
    taken_ns: int,
    sample_ratio: float,
    errors: Mapping[str, int] = _NONE,
    untraced_tasks: int = 0,
    skipped_pages: Mapping[str, int] = _NONE,
    pause: Pause = no_pause,
) -> Snapshot:
    """Return a snapshot of all pages, plus errors and untraced tasks that are in none of them."""
    held = merged_held(pages, pause)
    request_waits = merged_request_waits(pages, pause)
    pause()
    return Snapshot(
        taken_ns=taken_ns,
        loops=tuple(page.loop for page in pages),
        coroutines=merged_coroutines(pages, pause),
        yield_points=merged_yield_points(pages, pause),
        requests=merged_requests(pages, pause),
        request_waits=request_waits,
        held=held,
        segment_paths=merged_segment_paths(pages, pause),
        chains=merged_chains(pages, pause),
        scope_errors=merged_counts(
            (dict.fromkeys(SCOPE_ERRORS, 0), *(page.scope_errors for page in pages))
        ),
        overflow=merged_overflow(pages),
        errors=merged_counts((*(page.errors for page in pages), errors)),
        records=merged_counts(
            (
                dict.fromkeys(product(RECORD_KINDS, RECORD_OUTCOMES), 0),
                *(page.records for page in pages),
            )
        ),
        untraced_tasks=sum(page.untraced_tasks for page in pages) + untraced_tasks,
        sample_ratio=sample_ratio,
        skipped_pages=skipped_pages,
    )


def merged_coroutines(views: Iterable[PageView], pause: Pause = no_pause) -> tuple[Coroutine, ...]:
    """Return the coroutines of all pages; those of the same name are added up."""
    entries = (entry for view in views for entry in view.coroutines)
    return _added_up(in_slices(entries, pause), lambda entry: entry.coroutine, _add_coroutines)


def merged_yield_points(
    views: Iterable[PageView], pause: Pause = no_pause
) -> tuple[YieldPoint, ...]:
    """Return the yield points of all pages; those with the same labels are added up."""
    entries = (entry for view in views for entry in view.yield_points)
    return _added_up(in_slices(entries, pause), lambda entry: entry.labels, add_yield_points)


def merged_requests(views: Iterable[PageView], pause: Pause = no_pause) -> tuple[RequestType, ...]:
    """Return the request types of all pages; those of the same name are added up."""
    entries = (entry for view in views for entry in view.requests)
    return _added_up(in_slices(entries, pause), lambda entry: entry.request, _add_requests)


def _added_up(
    entries: Iterable[E], labels: Callable[[E], object], add: Callable[[E, E], E]
) -> tuple[E, ...]:
    found: dict[object, E] = {}
    for entry in entries:
        key = labels(entry)
        known = found.get(key)
        found[key] = entry if known is None else add(known, entry)
    return tuple(found.values())


def merged_request_waits(
    views: Iterable[PageView], pause: Pause = no_pause
) -> tuple[RequestWait, ...]:
    """Return the request waits of all pages; those with the same labels are added up."""
    found: dict[tuple[str, str], int] = {}
    for entry in in_slices((entry for view in views for entry in view.request_waits), pause):
        found[entry.labels] = found.get(entry.labels, 0) + entry.wait_ns
    return tuple(RequestWait(*labels, wait_ns) for labels, wait_ns in found.items())


def merged_held(views: Iterable[PageView], pause: Pause = no_pause) -> tuple[Held, ...]:
    """Return the samples of all pages; those with the same labels are added up."""
    entries = (entry for view in views for entry in view.held)
    return _added_up(in_slices(entries, pause), lambda entry: entry.labels, _add_held)


def merged_segment_paths(
    views: Iterable[PageView], pause: Pause = no_pause
) -> tuple[SegmentPath, ...]:
    """Return the segment paths of all pages; those with the same labels are added up."""
    entries = (entry for view in views for entry in view.segment_paths)
    return _added_up(in_slices(entries, pause), lambda entry: entry.labels, _add_segment_paths)


def merged_chains(views: Iterable[PageView], pause: Pause = no_pause) -> tuple[Chain, ...]:
    """Return the chains of awaits of all pages; those with the same labels are added up."""
    entries = (entry for view in views for entry in view.chains)
    return _added_up(in_slices(entries, pause), lambda entry: entry.labels, _add_chains)


def merged_overflow(views: Iterable[PageView]) -> dict[str, int]:
    """Return the number of names and loops without room, by kind, over all pages."""
    return merged_counts((dict.fromkeys(OVERFLOWS, 0), *(view.overflow for view in views)))


def merged_counts(counts: Iterable[Mapping[K, int]]) -> dict[K, int]:
    """Return the sums of counts by key."""
    found: Counter[K] = Counter()
    for more in counts:
        found.update(more)
    return dict(found)


def _add_held(one: Held, two: Held) -> Held:
    return one._replace(samples=one.samples + two.samples, active_ns=one.active_ns + two.active_ns)


def _add_segment_paths(one: SegmentPath, two: SegmentPath) -> SegmentPath:
    return one._replace(
        segments=one.segments + two.segments, active_ns=one.active_ns + two.active_ns
    )


def _add_chains(one: Chain, two: Chain) -> Chain:
    return one._replace(
        waits=one.waits + two.waits,
        wait_ns=one.wait_ns + two.wait_ns,
        active_ns=one.active_ns + two.active_ns,
    )


def _add_coroutines(one: Coroutine, two: Coroutine) -> Coroutine:
    return Coroutine(
        one.coroutine,
        one.created + two.created,
        one.live + two.live,
        one.destroyed_pending + two.destroyed_pending,
        {status: one.wall[status] + two.wall[status] for status in STATUSES},
        {status: one.active[status] + two.active[status] for status in STATUSES},
    )


def _add_requests(one: RequestType, two: RequestType) -> RequestType:
    """Return the sum; loops that have different objectives are shown with the longest one."""
    objectives_ns = [entry.objective_ns for entry in (one, two) if entry.objective_ns is not None]
    return RequestType(
        one.request,
        {status: one.wall[status] + two.wall[status] for status in STATUSES},
        one.active + two.active,
        one.background_ns + two.background_ns,
        one.in_progress + two.in_progress,
        max(objectives_ns, default=None),
        one.violations + two.violations,
        {
            status: found
            for status in STATUSES
            if (found := _newer(one.exemplars.get(status), two.exemplars.get(status))) is not None
        },
    )


def _newer(*found: Exemplar | None) -> Exemplar | None:
    return max(
        (exemplar for exemplar in found if exemplar is not None),
        key=lambda exemplar: exemplar.unix_ns,
        default=None,
    )


def add_yield_points(one: YieldPoint, two: YieldPoint) -> YieldPoint:
    """Return the sum of two yield points, with the labels of the first."""
    oldest = [entry.oldest_suspension_ns for entry in (one, two) if entry.oldest_suspension_ns]
    return replace(
        one,
        segments=one.segments + two.segments,
        waits=one.waits + two.waits,
        blocking_ns=one.blocking_ns + two.blocking_ns,
        inflicted_wait_ns=one.inflicted_wait_ns + two.inflicted_wait_ns,
        suspended=one.suspended + two.suspended,
        oldest_suspension_ns=min(oldest, default=0),
        exemplar=_newer(one.exemplar, two.exemplar),
        segment_max_ns=max(one.segment_max_ns, two.segment_max_ns),
        wait_max_ns=max(one.wait_max_ns, two.wait_max_ns),
        segment_squares_ns2=one.segment_squares_ns2 + two.segment_squares_ns2,
        wait_tasks=one.wait_tasks + two.wait_tasks,
    )
