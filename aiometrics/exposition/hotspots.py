"""Who burns the loop, who waits, who is stuck, who fails: the first page for an engineer on call, worked out from a snapshot."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from operator import lt, sub
from typing import TypeVar

from aiometrics.exposition.text_table import GAP, NameColumn, NumberColumn, ascii_name, format_table
from aiometrics.pages.layout import STATUSES
from aiometrics.pages.snapshot import Coroutine, Histogram, Loop, Running, Snapshot, YieldPoint

#: A suspension younger than this is nobody's idea of stuck and is not listed.
STUCK_AGE_NS = 1_000_000_000
#: A suspension this many times older than the mean wait of its own yield point is listed before those that are merely old.
SUSPECT_RATIO = 20.0

_NARROW, _USUAL, _WIDE = 80, 120, 140

Row = TypeVar("Row")


@dataclass(frozen=True, slots=True)
class LoopState:
    """One loop: time in blocking segments, its share of the interval, mean start delay, and the segment in progress if it blocks."""

    loop: str
    blocking_ns: int
    blocking_share: float | None
    start_delay_mean_ns: float
    #: The segment in progress, if it is at or over the blocking threshold.
    blocked: Running | None


@dataclass(frozen=True, slots=True)
class Place:
    """The labels of a yield point."""

    coroutine: str
    yield_point: str
    awaits: str


@dataclass(frozen=True, slots=True)
class Burner(Place):
    """Loop time of the segments that ended at one yield point; ``share`` is of one loop's time, None without an interval."""

    active_ns: int
    share: float | None
    mean_ns: float
    count: int
    blocking_ns: int


@dataclass(frozen=True, slots=True)
class Waiter(Place):
    """Waits that ended at one yield point, and the tasks parked there now."""

    mean_ns: float
    count: int
    suspended: int


@dataclass(frozen=True, slots=True)
class Stuck(Place):
    """The oldest suspension at one yield point; ``ratio`` is its age over the mean of all waits that ended there, None if none did."""

    age_ns: int
    mean_ns: float
    ratio: float | None
    suspended: int


@dataclass(frozen=True, slots=True)
class Endings:
    """How many tasks of one coroutine failed, were cancelled, were destroyed pending, and completed."""

    coroutine: str
    failed: int
    cancelled: int
    destroyed_pending: int
    completed: int


@dataclass(frozen=True, slots=True)
class Hotspots:
    """The worst rows of each kind, worst first; durations in ns. ``str()`` is a table as wide as the terminal (80 to 140 columns)."""

    #: None if the numbers run from the start.
    interval_ns: int | None
    loops: tuple[LoopState, ...]
    burners: tuple[Burner, ...]
    waiters: tuple[Waiter, ...]
    stuck: tuple[Stuck, ...]
    endings: tuple[Endings, ...]

    def table(self, width: int = _USUAL) -> str:
        """The report as lines of ASCII at most ``width`` columns long; where room is short, names lose their left part or their column."""
        span = (
            "since the start"
            if self.interval_ns is None
            else f"in the last {_s(self.interval_ns, 1)} s"
        )
        lines = [f"HOTSPOTS {span}", *(line for loop in self.loops for line in _loop_lines(loop))]
        lines += _section("WHO BURNS THE LOOP", self.burners, _BURNER_COLUMNS, _PLACE, width)
        lines += _section("WHO WAITS LONGEST", self.waiters, _WAITER_COLUMNS, _PLACE, width)
        lines += _section("WHO IS STUCK", self.stuck, _STUCK_COLUMNS, _PLACE, width)
        lines += _section("WHO FAILS", self.endings, _ENDINGS_COLUMNS, (_COROUTINE,), width)
        return "\n".join(lines)

    def __str__(self) -> str:
        columns = shutil.get_terminal_size((_USUAL, 0)).columns
        return self.table(max(_NARROW, min(_WIDE, columns)))


def find_hotspots(
    snapshot: Snapshot,
    top: int = 5,
    since: Snapshot | None = None,
    *,
    blocking_threshold_ns: int = 100_000_000,
) -> Hotspots:
    """The ``top`` worst rows of each kind in ``snapshot``, or in the interval from the earlier snapshot ``since``.

    What is stuck is always judged by the whole life of the process. A number that is smaller than in ``since`` was started
    anew and counts in full, as ``rate()`` does it; shares are of one loop's time and may add up to more than 1 if there are
    several loops. Raises ``ValueError`` if ``top`` is less than 1.
    """
    if top < 1:
        raise ValueError(f"top={top!r}: ask for at least 1 row")
    grown = _growth(snapshot, since) if since else snapshot
    interval_ns = snapshot.taken_ns - since.taken_ns if since else 0
    stuck = (
        _stuck(point, snapshot.taken_ns)
        for point in snapshot.yield_points
        if point.oldest_suspension_ns
    )
    return Hotspots(
        interval_ns if interval_ns > 0 else None,
        tuple(_loop_state(loop, interval_ns, blocking_threshold_ns) for loop in grown.loops),
        _worst(
            (_burner(point, interval_ns) for point in grown.yield_points if point.segments.sum_ns),
            top,
            lambda row: row.active_ns,
        ),
        _worst(
            (_waiter(point) for point in grown.yield_points if point.waits.count),
            top,
            lambda row: row.mean_ns,
        ),
        _worst((row for row in stuck if row.age_ns >= STUCK_AGE_NS), top, _suspicion),
        _worst(
            (row for row in map(_endings, grown.coroutines) if any(_badness(row))), top, _badness
        ),
    )


def _worst(
    rows: Iterable[Row], top: int, badness: Callable[[Row], float | tuple[float, ...]]
) -> tuple[Row, ...]:
    return tuple(sorted(rows, key=badness, reverse=True)[:top])


def _growth(now: Snapshot, before: Snapshot) -> Snapshot:
    """``now`` with only what was added to its counters and histograms after ``before``."""
    loops = {loop.loop: loop for loop in before.loops}
    tasks = {entry.coroutine: entry for entry in before.coroutines}
    points = {point.labels: point for point in before.yield_points}
    return replace(
        now,
        loops=tuple(_loop_growth(loop, loops.get(loop.loop)) for loop in now.loops),
        coroutines=tuple(
            _task_growth(entry, tasks.get(entry.coroutine)) for entry in now.coroutines
        ),
        yield_points=tuple(
            _point_growth(point, points.get(point.labels)) for point in now.yield_points
        ),
    )


def _loop_growth(now: Loop, old: Loop | None) -> Loop:
    if old is None:
        return now
    return replace(
        now,
        start_delay=_added(now.start_delay, old.start_delay),
        blocking_ns=_more(now.blocking_ns, old.blocking_ns),
    )


def _task_growth(now: Coroutine, old: Coroutine | None) -> Coroutine:
    if old is None:
        return now
    wall = {status: _added(now.wall[status], old.wall[status]) for status in STATUSES}
    return replace(
        now, wall=wall, destroyed_pending=_more(now.destroyed_pending, old.destroyed_pending)
    )


def _point_growth(now: YieldPoint, old: YieldPoint | None) -> YieldPoint:
    if old is None:
        return now
    segments, waits = _added(now.segments, old.segments), _added(now.waits, old.waits)
    return replace(
        now, segments=segments, waits=waits, blocking_ns=_more(now.blocking_ns, old.blocking_ns)
    )


def _more(now: int, before: int) -> int:
    return now - before if now >= before else now


def _added(now: Histogram, before: Histogram) -> Histogram:
    if before.bounds_ns != now.bounds_ns or any(map(lt, now.counts, before.counts)):
        return now
    return Histogram(
        now.bounds_ns, tuple(map(sub, now.counts, before.counts)), now.sum_ns - before.sum_ns
    )


def _loop_state(loop: Loop, interval_ns: int, threshold_ns: int) -> LoopState:
    blocked = loop.running if loop.running and loop.running.elapsed_ns >= threshold_ns else None
    return LoopState(
        loop.loop,
        loop.blocking_ns,
        _share(loop.blocking_ns, interval_ns),
        loop.start_delay.mean_ns,
        blocked,
    )


def _burner(point: YieldPoint, interval_ns: int) -> Burner:
    active = point.segments
    share = _share(active.sum_ns, interval_ns)
    return Burner(
        *point.labels, active.sum_ns, share, active.mean_ns, active.count, point.blocking_ns
    )


def _share(part_ns: int, interval_ns: int) -> float | None:
    return part_ns / interval_ns if interval_ns > 0 else None


def _waiter(point: YieldPoint) -> Waiter:
    return Waiter(*point.labels, point.waits.mean_ns, point.waits.count, point.suspended)


def _stuck(point: YieldPoint, now_ns: int) -> Stuck:
    age_ns, mean_ns = now_ns - point.oldest_suspension_ns, point.waits.mean_ns
    return Stuck(
        *point.labels, age_ns, mean_ns, age_ns / mean_ns if mean_ns else None, point.suspended
    )


def _suspicion(row: Stuck) -> tuple[float, ...]:
    return (row.ratio is not None and row.ratio >= SUSPECT_RATIO, row.age_ns)


def _endings(entry: Coroutine) -> Endings:
    completed, failed, cancelled = (entry.wall[status].count for status in STATUSES)
    return Endings(entry.coroutine, failed, cancelled, entry.destroyed_pending, completed)


def _badness(row: Endings) -> tuple[float, ...]:
    return (row.failed, row.destroyed_pending, row.cancelled)


def _s(ns: float, digits: int = 3) -> str:
    return f"{ns / 1e9:.{digits}f}"


def _ms(ns: float) -> str:
    return f"{ns / 1e6:.3f}"


def _one_digit(value: float | None, scale: float = 1.0) -> str:
    return "-" if value is None else f"{value * scale:.1f}"


_COROUTINE = NameColumn("coroutine", lambda row: row.coroutine, 16)
_PLACE = (
    NameColumn("yield point", lambda row: row.yield_point, 30),
    NameColumn("awaits", lambda row: row.awaits, 12),
    _COROUTINE,
)
_BURNER_COLUMNS = (
    NumberColumn("active s", lambda row: _s(row.active_ns)),
    NumberColumn("share %", lambda row: _one_digit(row.share, 100)),
    NumberColumn("mean ms", lambda row: _ms(row.mean_ns)),
    NumberColumn("count", lambda row: str(row.count)),
    NumberColumn("block s", lambda row: _s(row.blocking_ns)),
)
_WAITER_COLUMNS = (
    NumberColumn("mean ms", lambda row: _ms(row.mean_ns)),
    NumberColumn("count", lambda row: str(row.count)),
    NumberColumn("parked", lambda row: str(row.suspended)),
)
_STUCK_COLUMNS = (
    NumberColumn("age s", lambda row: _s(row.age_ns, 1)),
    NumberColumn("x mean", lambda row: _one_digit(row.ratio)),
    NumberColumn("mean ms", lambda row: "-" if row.ratio is None else _ms(row.mean_ns)),
    NumberColumn("parked", lambda row: str(row.suspended)),
)
_ENDINGS_COLUMNS = (
    NumberColumn("failed", lambda row: str(row.failed)),
    NumberColumn("cancelled", lambda row: str(row.cancelled)),
    NumberColumn("destroyed", lambda row: str(row.destroyed_pending)),
    NumberColumn("completed", lambda row: str(row.completed)),
)


def _loop_lines(loop: LoopState) -> Iterator[str]:
    blocking = (
        f"{_s(loop.blocking_ns)} s"
        if loop.blocking_share is None
        else f"{_one_digit(loop.blocking_share, 100)} % of the time"
    )
    yield f"loop {ascii_name(loop.loop)}: {blocking} in blocking segments, mean start delay {_ms(loop.start_delay_mean_ns)} ms"
    if loop.blocked:
        yield f"{GAP}BLOCKED NOW, for {_s(loop.blocked.elapsed_ns, 1)} s, by {ascii_name(loop.blocked.coroutine)}"


def _section(
    title: str,
    rows: Sequence[object],
    numbers: Sequence[NumberColumn],
    names: Sequence[NameColumn],
    width: int,
) -> list[str]:
    return (
        ["", title, *format_table(rows, numbers, names, width)]
        if rows
        else ["", f"{title}: nobody"]
    )
