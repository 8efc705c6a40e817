"""The content of pages at one moment.

Immutable values in integer nanoseconds for readers and reports. Small ones are named tuples, which
take a quarter of the time to import.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from operator import add
from typing import NamedTuple

#: Pseudo yield points, for segments and waits that end without an await of the application.
RETURN, RAISE, EAGER_CHILD, RUNNING = "(return)", "(raise)", "(eager child)", "(running)"
OTHER = "(other)"
#: Ends the name of what is awaited on purpose, however long it takes.
PATIENT = " (patient)"
#: Where the first segment of a task begins, and all of a callback.
START = "(start)"
#: In place of the middle of a chain of many frames.
LEFT_OUT = "(...)"
#: The pseudo coroutine of callbacks that are not steps of tasks.
CALLBACK = "(callback)"
#: The pseudo coroutine of the loop's own work between segments.
ITSELF = "(loop)"
#: The part of a segment that belongs to a request whose scope was entered or left during it.
IN_REQUEST = "(request)"


@dataclass(frozen=True, slots=True)
class Histogram:
    """Durations in ns.

    ``counts[i]`` of them were at most ``bounds_ns[i]`` and over the bound before; the last count
    has no bound.
    """

    bounds_ns: tuple[int, ...]
    counts: tuple[int, ...]
    sum_ns: int
    #: The counts of the native buckets that are not empty, by index; None if there are none.
    native: Mapping[int, int] | None = None

    @property
    def count(self) -> int:
        """The number of durations.

        It is derived from the buckets, so that it never disagrees with them.
        """
        return sum(self.counts)

    @property
    def mean_ns(self) -> float:
        """The mean duration in ns; 0.0 if there are no durations."""
        count = self.count
        return self.sum_ns / count if count else 0.0

    def __add__(self, other: Histogram) -> Histogram:
        if self.bounds_ns != other.bounds_ns:
            raise ValueError(
                f"histograms with bounds {self.bounds_ns} and {other.bounds_ns} cannot be added: "
                "use the same buckets"
            )
        return Histogram(
            self.bounds_ns,
            tuple(map(add, self.counts, other.counts)),
            self.sum_ns + other.sum_ns,
            _added(self.native, other.native),
        )


class Exemplar(NamedTuple):
    """One slow sample: labels that lead to its origin, its duration, and its Unix time in ns."""

    labels: tuple[tuple[str, str], ...]
    value_ns: int
    unix_ns: int


@dataclass(frozen=True, slots=True)
class YieldPoint:
    """One place where segments of one coroutine end; see docs/metrics.md for each number."""

    coroutine: str
    yield_point: str
    awaits: str
    segments: Histogram
    waits: Histogram
    blocking_ns: int
    inflicted_wait_ns: int
    suspended: int
    #: Unix time in ns, 0 if no task is suspended here.
    oldest_suspension_ns: int
    #: The latest blocking segment that ended here in a request or in a trace.
    exemplar: Exemplar | None = None
    #: The longest segment and the longest wait that ended here, of all that the pages have.
    segment_max_ns: int = 0
    wait_max_ns: int = 0
    #: The sum of the squares of the segments.
    segment_squares_ns2: int = 0
    #: The tasks whose waits ended here, each counted once.
    wait_tasks: int = 0

    @property
    def labels(self) -> tuple[str, str, str]:
        """``(coroutine, yield_point, awaits)``."""
        return (self.coroutine, self.yield_point, self.awaits)


class Coroutine(NamedTuple):
    """All tasks whose root coroutine has one name; ``wall`` and ``active`` are keyed by status."""

    coroutine: str
    created: int
    live: int
    destroyed_pending: int
    wall: Mapping[str, Histogram]
    active: Mapping[str, Histogram]


@dataclass(frozen=True, slots=True)
class RequestType:
    """All requests of one type.

    ``wall`` is keyed by status. ``objective_ns`` is ``None`` if there is no objective.
    """

    request: str
    wall: Mapping[str, Histogram]
    active: Histogram
    background_ns: int
    in_progress: int
    objective_ns: int | None
    violations: int
    #: The latest slow request, by status.
    exemplars: Mapping[str, Exemplar] = field(default_factory=dict)


class RequestWait(NamedTuple):
    """Time that the requests of one type waited for one thing."""

    request: str
    awaits: str
    wait_ns: int

    @property
    def labels(self) -> tuple[str, str]:
        """``(request, awaits)``."""
        return (self.request, self.awaits)


class Held(NamedTuple):
    """A line that held a loop in tasks of one coroutine.

    The samples that were taken of it, and the time that they stand for.
    """

    coroutine: str
    held_at: str
    samples: int
    active_ns: int

    @property
    def labels(self) -> tuple[str, str]:
        """``(coroutine, held_at)``."""
        return (self.coroutine, self.held_at)


class SegmentPath(NamedTuple):
    """The segments of one coroutine that began at one place and ended at another.

    ``began_at`` is the yield point where the task was suspended before, or ``(start)``. A page has
    room for a number of paths; the rest is a path of ``(other)``.
    """

    coroutine: str
    began_at: str
    ended_at: str
    segments: int
    active_ns: int

    @property
    def labels(self) -> tuple[str, str, str]:
        """``(coroutine, began_at, ended_at)``."""
        return (self.coroutine, self.began_at, self.ended_at)


class Chain(NamedTuple):
    """The tasks of one coroutine that waited by one chain of awaits, a branch of the tree.

    ``frames`` are the places of the chain, outermost first. Of more than 64 those in the middle are
    ``(...)``. There are none where no await is: for the pseudo yield points, for callbacks, and for
    what has no room, which is ``(other)``.
    """

    coroutine: str
    frames: tuple[str, ...]
    #: The yield point, which is one of the frames, and what it awaits.
    yield_point: str
    awaits: str
    #: Waits at the end of the chain, and their time; and that of the segments that ended there.
    waits: int
    wait_ns: int
    active_ns: int

    @property
    def labels(self) -> tuple[str, tuple[str, ...], str, str]:
        """``(coroutine, frames, yield_point, awaits)``."""
        return (self.coroutine, self.frames, self.yield_point, self.awaits)


class Running(NamedTuple):
    """The segment in progress: its coroutine, and how long it has lasted so far.

    It ``blocks`` if that is at or over the blocking threshold of its page.
    """

    coroutine: str
    elapsed_ns: int
    blocks: bool = False


@dataclass(frozen=True, slots=True)
class Loop:
    """One event loop.

    ``blocking_ns`` includes the segment in progress if it is over the threshold.
    """

    loop: str
    start_delay: Histogram
    blocking_ns: int
    #: Unix time in ns, 0 if the loop does not run.
    heartbeat_ns: int
    running: Running | None
    #: The active parts of the turns; empty on a loop whose selector cannot be timed (uvloop).
    iterations: Histogram
    #: Time outside and inside the selector, including the part in progress. If the selector cannot
    #: be timed: the time of all segments, and None.
    active_ns: int
    idle_ns: int | None
    #: Events that the selector returned, and those of them that had been waiting; None if it cannot
    #: be timed.
    events: int | None
    events_waiting: int | None
    #: Handles ready to run, and timers set; None if the loop does not expose them, or is gone.
    ready_handles: int | None = None
    scheduled_timers: int | None = None
    #: Times of the thread that runs the loop; None if the system does not report them.
    thread_cpu_ns: int | None = None
    thread_runqueue_ns: int | None = None
    #: Pauses by garbage collection, by generation.
    gc_pauses_ns: tuple[int, ...] = (0, 0, 0)
    unhandled_exceptions: int = 0
    #: Sizes of the default executor; None if the loop does not expose it, or is gone.
    executor_threads: int | None = None
    executor_queue_items: int | None = None
    #: Samples of the watchdog, by place.
    block_samples: Mapping[str, int] = field(default_factory=dict)
    #: The process that runs the loop; 0 once the loop or its process is gone.
    process_id: int = 0


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The content of all pages at one moment.

    Records of the same name on several loops are merged.
    """

    #: Unix time in ns.
    taken_ns: int
    loops: tuple[Loop, ...] = ()
    coroutines: tuple[Coroutine, ...] = ()
    yield_points: tuple[YieldPoint, ...] = ()
    requests: tuple[RequestType, ...] = ()
    request_waits: tuple[RequestWait, ...] = ()
    #: Which lines held the loops, by sampling.
    held: tuple[Held, ...] = ()
    #: Where segments began and ended.
    segment_paths: tuple[SegmentPath, ...] = ()
    #: The tree of awaits by its branches. Their numbers add up to those of the yield points.
    chains: tuple[Chain, ...] = ()
    #: Misuses of request scopes, by kind.
    scope_errors: Mapping[str, int] = field(default_factory=dict)
    #: Names for which there was no room, by kind.
    overflow: Mapping[str, int] = field(default_factory=dict)
    #: Internal errors, by probe.
    errors: Mapping[str, int] = field(default_factory=dict)
    #: Records of single requests, by kind and outcome.
    records: Mapping[tuple[str, str], int] = field(default_factory=dict)
    untraced_tasks: int = 0
    sample_ratio: float = 1.0
    #: Page files of the shared directory that were left out, by reason; empty without one.
    skipped_pages: Mapping[str, int] = field(default_factory=dict)

    def coroutine(self, name: str) -> Coroutine:
        """Return the record of one coroutine.

        Raises ``KeyError`` naming the known coroutines if there is none of that name.
        """
        for entry in self.coroutines:
            if entry.coroutine == name:
                return entry
        raise KeyError(
            f"no coroutine {name!r}; known: {sorted(entry.coroutine for entry in self.coroutines)}"
        )

    def request(self, name: str) -> RequestType:
        """Return the record of one request type.

        Raises ``KeyError`` naming the known types if there is none of that name.
        """
        for entry in self.requests:
            if entry.request == name:
                return entry
        raise KeyError(
            f"no request {name!r}; known: {sorted(entry.request for entry in self.requests)}"
        )

    def yield_points_of(self, coroutine: str) -> tuple[YieldPoint, ...]:
        """Return the yield points of one coroutine, in the order in which they were reached."""
        return tuple(entry for entry in self.yield_points if entry.coroutine == coroutine)


def _added(
    one: Mapping[int, int] | None, two: Mapping[int, int] | None
) -> Mapping[int, int] | None:
    """Return the sums of native buckets, if both histograms have them."""
    if one is None or two is None:
        return None
    return {index: one.get(index, 0) + two.get(index, 0) for index in {*one, *two}}


def total(histograms: Iterable[Histogram]) -> Histogram:
    """Return the sum of one or more histograms."""
    first, *rest = histograms
    for histogram in rest:
        first = first + histogram
    return first


def encodable(label: str) -> str:
    """Return a label value that can be encoded as UTF-8.

    Lone surrogates, as in file names that are not UTF-8, are escaped.
    """
    return label if label.isascii() else label.encode(errors="backslashreplace").decode()
