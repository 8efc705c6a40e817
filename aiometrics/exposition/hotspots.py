"""The report for an engineer on call, computed from a snapshot.

It shows what takes the loop's time, what waits longest, what is stuck and what fails.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

from aiometrics.exposition.gains import gain
from aiometrics.exposition.idle_waits import of_no_library, waits_for_work
from aiometrics.exposition.last_awaits import last_awaits
from aiometrics.exposition.stuck import Judge
from aiometrics.exposition.text_table import GAP, NameColumn, NumberColumn, ascii_name, format_table
from aiometrics.pages.layout import STATUSES
from aiometrics.pages.snapshot import (
    Coroutine,
    Held,
    Loop,
    Running,
    Snapshot,
    YieldPoint,
)

#: Suspensions younger than this are not stuck and not listed.
STUCK_AGE_NS = 1_000_000_000

#: Columns of the table: the fewest, those without a terminal, and the most.
_MIN_WIDTH, _DEFAULT_WIDTH, _MAX_WIDTH = 80, 120, 140

Row = TypeVar("Row")


@dataclass(frozen=True, slots=True)
class LoopState:
    """The state of one loop; times are in ns.

    ``blocking_share`` is the share of the interval, or ``None`` without one.
    """

    loop: str
    blocking_ns: int
    blocking_share: float | None
    start_delay_mean_ns: float
    #: The segment in progress if it is at or over the blocking threshold, else ``None``.
    blocked: Running | None


@dataclass(frozen=True, slots=True)
class Place:
    """The labels of a yield point."""

    coroutine: str
    yield_point: str
    awaits: str


@dataclass(frozen=True, slots=True)
class Holder:
    """A line that held the loops in tasks of one coroutine, as samples found it.

    ``share`` is the share of the time of all loops, or ``None`` without an interval.
    """

    coroutine: str
    held_at: str
    active_ns: int
    share: float | None
    samples: int


@dataclass(frozen=True, slots=True)
class Burner(Place):
    """The loop time of segments that ended at one yield point.

    ``share`` is the share of the time of all loops, or ``None`` without an interval. The longest
    segment, ``max_ns``, is that since the start.
    """

    active_ns: int
    share: float | None
    mean_ns: float
    count: int
    blocking_ns: int
    max_ns: int = 0


@dataclass(frozen=True, slots=True)
class Waiter(Place):
    """The waits that ended at one yield point, and the tasks that are suspended there now.

    The longest wait, ``max_ns``, is that since the start.
    """

    mean_ns: float
    count: int
    suspended: int
    max_ns: int = 0


@dataclass(frozen=True, slots=True)
class Stuck(Place):
    """The oldest suspension at one yield point.

    ``ratio`` is its age over the mean of all waits that ended there, or ``None`` if none did. It is
    ``stuck`` as the alert ``AsyncioAwaitStuck`` means it, or at least ``unusual``, or merely old.
    """

    age_ns: int
    mean_ns: float
    ratio: float | None
    suspended: int
    unusual: bool = False
    stuck: bool = False


@dataclass(frozen=True, slots=True)
class Endings:
    """The numbers of tasks of one coroutine, by how they ended.

    Most of those that failed or were cancelled had waited last at ``after``: a yield point,
    ``(start)`` if they had not waited, or an empty string if that is not known.
    """

    coroutine: str
    failed: int
    cancelled: int
    destroyed_pending: int
    completed: int
    after: str = ""


class Section(NamedTuple):
    """A table: its title, its rows, its columns, and the text in place of no rows."""

    title: str
    rows: Sequence[object]
    numbers: tuple[NumberColumn, ...]
    names: tuple[NameColumn, ...]
    empty: str


@dataclass(frozen=True, slots=True)
class Hotspots:
    """The worst rows of each kind, worst first, with durations in ns.

    ``str()`` is a table as wide as the terminal, between 80 and 140 columns.
    """

    #: The length of the interval, or ``None`` if the numbers count from the start.
    interval_ns: int | None
    loops: tuple[LoopState, ...]
    burners: tuple[Burner, ...]
    waiters: tuple[Waiter, ...]
    stuck: tuple[Stuck, ...]
    endings: tuple[Endings, ...]
    #: Live tasks that are in none of the rows, because they were created before the start.
    untraced_tasks: int = 0
    #: Empty without samples.
    holders: tuple[Holder, ...] = ()

    def table(self, width: int = _DEFAULT_WIDTH) -> str:
        """Return the report as lines of ASCII of at most ``width`` columns.

        Where room is short, names are on a line of their own.
        """
        lines = self.head()
        for title, rows, numbers, names, empty in self.sections():
            lines += ["", title] if rows else ["", f"{title}: {empty}"]
            lines += format_table(rows, numbers, names, width) if rows else []
        return "\n".join(lines)

    def head(self) -> list[str]:
        """Return the lines above the tables: the interval, and the state of each loop."""
        span = (
            "since the start"
            if self.interval_ns is None
            else f"in the last {_seconds(self.interval_ns, 1)} s"
        )
        lines = [f"HOTSPOTS {span}", *(line for loop in self.loops for line in _loop_lines(loop))]
        if len(self.loops) > 1 and self.interval_ns is not None:
            lines.append("share %: of the time of all loops that ran, together")
        return lines

    def sections(self) -> tuple[Section, ...]:
        """Return the tables, in the order in which they are shown."""
        nobody = self._why_empty()
        return (
            Section(
                "WHICH LINES HOLD THE LOOP", self.holders, _HOLDER_COLUMNS, _HELD, "no samples"
            ),
            Section("WHO BURNS THE LOOP", self.burners, _BURNER_COLUMNS, _PLACE, nobody),
            Section("WHO WAITS LONGEST", self.waiters, _WAITER_COLUMNS, _PLACE, nobody),
            Section("WHO IS STUCK", self.stuck, _STUCK_COLUMNS, _PLACE, nobody),
            Section("WHO FAILS", self.endings, _ENDINGS_COLUMNS, _ENDED, nobody),
        )

    def _why_empty(self) -> str:
        if not self.untraced_tasks:
            return "nobody"
        return (
            "nobody that is traced; "
            f"tasks created before the start are not traced: {self.untraced_tasks}"
        )

    def __str__(self) -> str:
        columns = shutil.get_terminal_size((_DEFAULT_WIDTH, 0)).columns
        return self.table(max(_MIN_WIDTH, min(_MAX_WIDTH, columns)))


def find_hotspots(
    snapshot: Snapshot,
    top: int = 5,
    since: Snapshot | None = None,
    *,
    blocking_threshold_ns: int | None = 100_000_000,
    of_library: Callable[[str], bool] = of_no_library,
) -> Hotspots:
    """Return the ``top`` worst rows of each kind in ``snapshot``.

    With an earlier snapshot ``since`` the numbers are those of the interval; only what is stuck is
    still judged by the whole life of the process. A number that is smaller than in ``since`` has
    been reset and counts in full, as in ``rate()``. Shares are of the time of all loops, or of all
    segments if those took longer, because some began before the interval: they add up to at most 1.

    Waits for more work, as of a connection that is kept alive, come after all others. They are the
    waits at yield points of which ``of_library(yield_point)`` is true, and those for a queue.
    Without ``blocking_threshold_ns``, the pages say whether a segment in progress blocks. Raises
    ``ValueError`` if ``top`` is less than 1.
    """
    if top < 1:
        raise ValueError(f"top={top!r}: ask for at least 1 row")
    gained = gain(snapshot, since) if since else snapshot
    interval_ns = snapshot.taken_ns - since.taken_ns if since else 0
    loops_ns = _loops_ns(gained, interval_ns)
    judge = Judge(snapshot, of_library)
    after = last_awaits(snapshot, since)
    stuck = (
        _stuck(point, snapshot.taken_ns, judge)
        for point in snapshot.yield_points
        if point.oldest_suspension_ns
    )
    return Hotspots(
        interval_ns if interval_ns > 0 else None,
        tuple(_loop_state(loop, interval_ns, blocking_threshold_ns) for loop in gained.loops),
        _worst(
            (_burner(point, loops_ns) for point in gained.yield_points if point.segments.sum_ns),
            top,
            lambda row: row.active_ns,
        ),
        _worst(
            (_waiter(point) for point in gained.yield_points if point.waits.count),
            top,
            lambda row: (not waits_for_work(row, of_library), row.mean_ns),
        ),
        _worst((row for row in stuck if row.age_ns >= STUCK_AGE_NS), top, _suspicion),
        _worst(
            (
                row
                for row in (_endings(entry, after) for entry in gained.coroutines)
                if any(_failures(row))
            ),
            top,
            _failures,
        ),
        snapshot.untraced_tasks,
        _worst(
            (_holder(held, loops_ns) for held in gained.held if held.active_ns),
            top,
            lambda row: row.active_ns,
        ),
    )


def _loops_ns(gained: Snapshot, interval_ns: int) -> int:
    """Return what shares are of; 0 without an interval."""
    if interval_ns <= 0:
        return 0
    ran = [loop for loop in gained.loops if loop.process_id or loop.active_ns]
    segments_ns = sum(point.segments.sum_ns for point in gained.yield_points)
    sampled_ns = sum(held.active_ns for held in gained.held)
    return max(interval_ns * max(1, len(ran)), segments_ns, sampled_ns)


def _worst(
    rows: Iterable[Row], top: int, badness: Callable[[Row], float | tuple[float, ...]]
) -> tuple[Row, ...]:
    return tuple(sorted(rows, key=badness, reverse=True)[:top])


def _loop_state(loop: Loop, interval_ns: int, threshold_ns: int | None) -> LoopState:
    running = loop.running
    if running is None:
        blocks = False
    elif threshold_ns is None:
        blocks = running.blocks
    else:
        blocks = running.elapsed_ns >= threshold_ns
    return LoopState(
        loop.loop,
        loop.blocking_ns,
        _share(loop.blocking_ns, max(interval_ns, loop.blocking_ns if interval_ns > 0 else 0)),
        loop.start_delay.mean_ns,
        running if blocks else None,
    )


def _holder(held: Held, loops_ns: int) -> Holder:
    return Holder(*held.labels, held.active_ns, _share(held.active_ns, loops_ns), held.samples)


def _burner(point: YieldPoint, loops_ns: int) -> Burner:
    active = point.segments
    return Burner(
        *point.labels,
        active.sum_ns,
        _share(active.sum_ns, loops_ns),
        active.mean_ns,
        active.count,
        point.blocking_ns,
        point.segment_max_ns,
    )


def _share(part_ns: int, whole_ns: int) -> float | None:
    return part_ns / whole_ns if whole_ns > 0 else None


def _waiter(point: YieldPoint) -> Waiter:
    waits = point.waits
    return Waiter(*point.labels, waits.mean_ns, waits.count, point.suspended, point.wait_max_ns)


def _stuck(point: YieldPoint, now_ns: int, judge: Judge) -> Stuck:
    age_ns, mean_ns = now_ns - point.oldest_suspension_ns, point.waits.mean_ns
    return Stuck(
        *point.labels,
        age_ns,
        mean_ns,
        age_ns / mean_ns if mean_ns else None,
        point.suspended,
        judge.is_unusual(point),
        judge.is_stuck(point),
    )


def _suspicion(row: Stuck) -> tuple[float, ...]:
    return (row.stuck, row.unusual, row.age_ns)


def _endings(entry: Coroutine, after: Mapping[str, str]) -> Endings:
    completed, failed, cancelled = (entry.wall[status].count for status in STATUSES)
    return Endings(
        entry.coroutine,
        failed,
        cancelled,
        entry.destroyed_pending,
        completed,
        after.get(entry.coroutine, ""),
    )


def _failures(row: Endings) -> tuple[float, ...]:
    return (row.failed, row.destroyed_pending, row.cancelled)


def _seconds(ns: float, digits: int = 3) -> str:
    return f"{ns / 1e9:.{digits}f}"


def _milliseconds(ns: float) -> str:
    return f"{ns / 1e6:.3f}"


def _one_digit(value: float | None, scale: float = 1.0) -> str:
    return "-" if value is None else f"{value * scale:.1f}"


_COROUTINE = NameColumn("coroutine", lambda row: row.coroutine)
_PLACE = (
    NameColumn("yield point", lambda row: row.yield_point),
    NameColumn("awaits", lambda row: row.awaits),
    _COROUTINE,
)
_HELD = (NameColumn("held at", lambda row: row.held_at), _COROUTINE)
_ENDED = (NameColumn("mostly after", lambda row: row.after), _COROUTINE)
_HOLDER_COLUMNS = (
    NumberColumn("active s", lambda row: _seconds(row.active_ns)),
    NumberColumn("share %", lambda row: _one_digit(row.share, 100)),
    NumberColumn("samples", lambda row: str(row.samples)),
)
_BURNER_COLUMNS = (
    NumberColumn("active s", lambda row: _seconds(row.active_ns)),
    NumberColumn("share %", lambda row: _one_digit(row.share, 100)),
    NumberColumn("mean ms", lambda row: _milliseconds(row.mean_ns)),
    NumberColumn("max ms", lambda row: _milliseconds(row.max_ns)),
    NumberColumn("count", lambda row: str(row.count)),
    NumberColumn("block s", lambda row: _seconds(row.blocking_ns)),
)
_WAITER_COLUMNS = (
    NumberColumn("mean ms", lambda row: _milliseconds(row.mean_ns)),
    NumberColumn("max ms", lambda row: _milliseconds(row.max_ns)),
    NumberColumn("count", lambda row: str(row.count)),
    NumberColumn("parked", lambda row: str(row.suspended)),
)
_STUCK_COLUMNS = (
    NumberColumn("age s", lambda row: _seconds(row.age_ns, 1)),
    NumberColumn("x mean", lambda row: _one_digit(row.ratio)),
    NumberColumn("mean ms", lambda row: "-" if row.ratio is None else _milliseconds(row.mean_ns)),
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
        f"{_seconds(loop.blocking_ns)} s"
        if loop.blocking_share is None
        else f"{_one_digit(loop.blocking_share, 100)} % of the time"
    )
    yield (
        f"loop {ascii_name(loop.loop)}: {blocking} in blocking segments, "
        f"mean start delay {_milliseconds(loop.start_delay_mean_ns)} ms"
    )
    if loop.blocked:
        elapsed, coroutine = (
            _seconds(loop.blocked.elapsed_ns, 1),
            ascii_name(loop.blocked.coroutine),
        )
        yield f"{GAP}BLOCKED NOW, for {elapsed} s, by {coroutine}"
