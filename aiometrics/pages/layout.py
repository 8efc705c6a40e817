"""Offsets of all numbers in a stats page, declared once for both recorders and the reader.

A page is an array of 8-byte signed words in native byte order, followed by the bytes of its
strings::

    header | segment bounds | wait bounds | loop record | loop statistics
        | block samples | errors | exemplars | held | coroutine records | yield point records
        | scope errors | request records | request wait records | chain nodes | segment paths
        | strings

Record 0 of each kind is ``(other)``, and coroutine record 1 is ``(callback)``. A histogram is its
sum in ns, then one count per piece, the last one unbounded; see :mod:`aiometrics.pages.buckets`.
Block samples and errors are tables of entries, each a count and the name that is counted; exemplars
are entries without a count. Scope errors are one count for each kind. Held are samples by the line
that held the loop and the coroutine. Chain nodes are the tree of awaits: each is a place below its
parent, and one where a chain ends has the yield point and the times of the tasks that waited there
by that chain. Segment paths say how many segments went from which yield
point to which; their place is a hash of both, and the last one is (other). A string is one word:
its offset in the string area, shifted left by 32, plus its length in bytes. The string area begins
with room for the loop's name, the only string that may change.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from aiometrics.base.clock import SECOND_NS
from aiometrics.pages.buckets import Buckets, buckets

T = TypeVar("T")

MAGIC = int.from_bytes(b"aiometr\0", "little")
VERSION = 5
WORD = 8
STRING_BYTES_PER_NAME = 128
#: Longer names are cut, to limit the bytes that one reference to a name can make a reader write.
NAME_BYTES = 1024
LOOP_NAME_BYTES = STRING_BYTES_PER_NAME
#: Limits that no option exceeds: bucket bounds of a histogram, and records of a kind.
MAX_BOUNDS, MAX_RECORDS = 64, 1_000_000
#: Marks a value as unknown, where 0 would be a valid value.
UNKNOWN = -1
#: Values of the word ``timed``: whether a loop's turns are known, and with them its events.
UNTIMED, TIMED, TIMED_WITHOUT_EVENTS = range(3)

#: How the coroutine of a task can end, in the order in which pages store it.
STATUSES = ("completed", "failed", "cancelled")
COMPLETED, FAILED, CANCELLED = range(len(STATUSES))
#: Misuses of request scopes, in the order in which pages store their counts.
SCOPE_ERRORS = (
    "abandoned",
    "out_of_order",
    "foreign_task",
    "foreign_loop",
    "invalid",
    "outside_loop",
)
#: Kinds and outcomes of the records of single requests, in the order in which pages store their
#: counts.
RECORD_KINDS = ("slow_request", "trace")
RECORD_OUTCOMES = ("written", "dropped")

#: The coroutine records (other) and (callback), which do not count towards max_coroutines.
OWN_COROUTINES = 2
CALLBACKS = 1


def _numbered(*names: str) -> dict[str, int]:
    return {name: number for number, name in enumerate(names)}


HEADER = _numbered(
    "magic",
    "version",
    "size",
    "pid",
    "live",
    "segment_bounds",
    "wait_bounds",
    "max_coroutines",
    "max_yield_points",
    "string_bytes",
    "coroutines",
    "yield_points",
    "strings_used",
    "weight",
    "blocking_threshold_ns",
    "loop_name",
    "overflow_coroutine",
    "overflow_yield_point",
    "overflow_string",
    "overflow_loop",
    "max_requests",
    "requests",
    "request_waits",
    "overflow_request",
    "overflow_request_wait",
    "opened_unix_ns",  # when the latest loop began to write
    "native",  # whether there are native histograms
    "chain_nodes",
    "chain_bytes",  # of the strings in use, those that only chain nodes refer to
    "chains_full",  # whether there was no room for a chain; then no others are added
)
LOOP = _numbered(
    # complete updates of the page; the first word, because a page is copied from the first word to
    # the last
    "finished",
    # when the segment in progress began, moved up by the time of its eager children; 0 if none
    "segment_since_ns",
    "segment_coroutine",
    # the part of it that was counted under (running) before an eager child interrupted it
    "segment_counted_ns",
    # when a reader last counted the segment in progress as blocking; readers write only this and
    # seen_ns
    "looked_ns",
    "blocking_ns",
    "timed",  # TIMED once the loop asked a timed selector; the words below stay 0 until then
    "turn_since_ns",  # when the active part of the turn in progress began, 0 in the selector
    "poll_since_ns",  # when the selector was entered, 0 outside
    "active_ns",
    "idle_ns",
    "events",
    "events_waiting",
    # when a reader last observed the page: up to then the turn or the wait in progress has been
    # counted
    "seen_ns",
    # time of segments from before this loop, which active_ns includes already
    "segments_before_ns",
    "collecting",  # the generation of the garbage that is being collected, plus 1; 0 if none is
    # updates that were begun: one more than are complete if a copy of the page is inconsistent
    "started",
)
#: Words that are continued when another loop takes over the page; all others of the loop record
#: are momentary.
LOOP_COUNTERS = frozenset(
    {
        "finished",
        "blocking_ns",
        "active_ns",
        "idle_ns",
        "events",
        "events_waiting",
        "segments_before_ns",
        "started",
    }
)
GENERATIONS = 3
#: Statistics of a loop that its recorder does not write; UNKNOWN if the loop or the system does not
#: provide them.
LOOP_STATS = _numbered(
    "thread_cpu_ns",
    "thread_runqueue_ns",
    *(f"gc_pause_{generation}_ns" for generation in range(GENERATIONS)),
    "unhandled_exceptions",
    # this and the next words describe the whole process, and are kept in one of its pages
    "untraced_tasks",
    *(f"{kind}_{outcome}" for kind in RECORD_KINDS for outcome in RECORD_OUTCOMES),
    "ready_handles",
    "scheduled_timers",
    "executor_threads",
    "executor_queue_items",
)
#: The gauges among them.
LOOP_STATS_GAUGES = (
    "ready_handles",
    "scheduled_timers",
    "executor_threads",
    "executor_queue_items",
)
#: An entry of a table: a count, the length of a text, and room for ENTRY_BYTES of text.
ENTRY = _numbered("count", "length")
ENTRY_BYTES = 256
ENTRY_WORDS = len(ENTRY) + ENTRY_BYTES // WORD
#: Entries in the tables of block samples and of errors; the last one is (other).
MAX_PLACES, MAX_PROBES = 101, 33
#: Entries in the table of exemplars.
MAX_EXEMPLARS = 64
#: An entry of the table of lines that held the loop: samples, the time that they stand for, the
#: coroutine record, or NO_COROUTINE outside of segments, and a text as in other tables.
HELD = _numbered("samples", "active_ns", "coroutine", "length")
HELD_WORDS = len(HELD) + ENTRY_BYTES // WORD
#: Entries in that table; the last one is (other).
MAX_HELD = 513
NO_COROUTINE = -1
COROUTINE = _numbered("name", "created", "live", "destroyed_pending", "running_ns")
YIELD_POINT = _numbered(
    "coroutine",
    "yield_point",
    "awaits",
    "blocking_ns",
    "inflicted_wait_ns",
    "suspended",
    "oldest_ns",
    "segment_max_ns",
    "wait_max_ns",
    # the sum of the squares of the segments: s², and beyond that ns², less than one s²
    "square_s2",
    "square_ns2",
    "wait_tasks",
)
#: How many ns² are one s².
SQUARE_NS2 = SECOND_NS * SECOND_NS
REQUEST = _numbered(
    "name",
    "objective_ns",  # 0 if it has none
    "background_ns",
    "in_progress",
    "violations",  # counted by the loop, when a scope is left
    "overdue",  # counted by a reader, while the scope is open: only readers write this word
)
REQUEST_WAIT = _numbered("request", "awaits", "wait_ns")
#: Segments by the yield points where they began, or AT_START, and where they ended.
SEGMENT_PATH = _numbered("began", "ended", "segments", "active_ns")
AT_START = -1
#: Where a path is looked for, from the place that its hash says.
PATH_PROBES = 8
PATH_HASH = 0x9E37_79B1
#: A node of the tree of awaits: the number of its parent, or NO_NODE; a string, the place; and
#: where a chain ends, its yield point, else NO_POINT. Nodes come after their parents.
CHAIN_NODE = _numbered("parent", "place", "point", "active_ns", "wait_ns", "waits")
NO_NODE = NO_POINT = -1
#: The nodes without a place. What is recorded at the yield point (other) goes to the first one,
#: which is not read, since the yield point has it all. The second is for chains without room.
OTHER_POINT_NODE, OTHER_NODE = range(2)
OWN_CHAIN_NODES = 2
NODES_PER_YIELD_POINT = 4
#: Of a chain with more frames, those in the middle are left out.
MAX_CHAIN_FRAMES = 64
SCOPE_ERROR = _numbered(*SCOPE_ERRORS)
#: Room for request wait records per request type.
WAITS_PER_REQUEST = 8


class _CachedProperty(Generic[T]):
    """A property that each object computes once.

    The one in functools takes a lock up to Python 3.11, the same lock for all objects: in a child
    that was forked while another thread held it, no such property could ever be computed again.
    """

    def __init__(self, compute: Callable[[Any], T]) -> None:
        self._compute = compute
        self.__doc__ = compute.__doc__

    def __get__(self, instance: Any, owner: type) -> T:
        value = instance.__dict__[self._compute.__name__] = self._compute(instance)
        return value


@dataclass(frozen=True)
class Layout:
    """Offsets, in words, for given bucket bounds and capacities."""

    segment_bounds_ns: tuple[int, ...]
    wait_bounds_ns: tuple[int, ...]
    max_coroutines: int
    max_yield_points: int
    max_requests: int
    #: Whether the histograms have native buckets, too.
    native: bool = field(default=False, kw_only=True)

    @property
    def segment_buckets(self) -> Buckets:
        """The buckets of segments, of start delays and of turns."""
        return buckets(self.segment_bounds_ns, native=self.native)

    @property
    def wait_buckets(self) -> Buckets:
        """The buckets of waits, of tasks and of requests."""
        return buckets(self.wait_bounds_ns, native=self.native)

    @_CachedProperty
    def segment_pieces_ns(self) -> tuple[int, ...]:
        """Upper bounds of the counts in a histogram of segments."""
        return self.segment_buckets.pieces_ns

    @_CachedProperty
    def wait_pieces_ns(self) -> tuple[int, ...]:
        """Upper bounds of the counts in a histogram of waits or of tasks."""
        return self.wait_buckets.pieces_ns

    @_CachedProperty
    def segment_words(self) -> int:
        """Size of a histogram of segments."""
        return len(self.segment_pieces_ns) + 2

    @_CachedProperty
    def wait_words(self) -> int:
        """Size of a histogram of waits or of tasks."""
        return len(self.wait_pieces_ns) + 2

    @_CachedProperty
    def bounds(self) -> int:
        """Start of the bucket bounds."""
        return len(HEADER)

    @_CachedProperty
    def loop(self) -> int:
        """Start of the loop record."""
        return self.bounds + len(self.segment_bounds_ns) + len(self.wait_bounds_ns)

    @_CachedProperty
    def start_delay(self) -> int:
        """Start of the loop's histogram of start delays, in segment buckets."""
        return self.loop + len(LOOP)

    @_CachedProperty
    def iterations(self) -> int:
        """Start of the loop's histogram of the active parts of its turns, in segment buckets."""
        return self.start_delay + self.segment_words

    @_CachedProperty
    def loop_stats(self) -> int:
        """Start of the loop statistics."""
        return self.iterations + self.segment_words

    @_CachedProperty
    def samples(self) -> int:
        """Start of the table of block samples."""
        return self.loop_stats + len(LOOP_STATS)

    @_CachedProperty
    def errors(self) -> int:
        """Start of the table of internal errors."""
        return self.samples + MAX_PLACES * ENTRY_WORDS

    @_CachedProperty
    def exemplars(self) -> int:
        """Start of the table of exemplars."""
        return self.errors + MAX_PROBES * ENTRY_WORDS

    @_CachedProperty
    def held(self) -> int:
        """Start of the table of lines that held the loop."""
        return self.exemplars + MAX_EXEMPLARS * ENTRY_WORDS

    @_CachedProperty
    def coroutines(self) -> int:
        """Start of the coroutine records."""
        return self.held + MAX_HELD * HELD_WORDS

    @_CachedProperty
    def coroutine_words(self) -> int:
        """Size of a coroutine record.

        The record has scalars, then histograms of wall and then of active times, by status.
        """
        return len(COROUTINE) + 2 * len(STATUSES) * self.wait_words

    @_CachedProperty
    def yield_points(self) -> int:
        """Start of the yield point records."""
        return self.coroutines + (self.max_coroutines + OWN_COROUTINES) * self.coroutine_words

    @_CachedProperty
    def yield_point_words(self) -> int:
        """Size of a yield point record.

        The record has scalars, then a histogram of segments, then one of waits.
        """
        return len(YIELD_POINT) + self.segment_words + self.wait_words

    @_CachedProperty
    def scope_errors(self) -> int:
        """Start of the counts of scope errors."""
        return self.yield_points + (self.max_yield_points + 1) * self.yield_point_words

    @_CachedProperty
    def requests(self) -> int:
        """Start of the request records."""
        return self.scope_errors + len(SCOPE_ERRORS)

    @_CachedProperty
    def request_words(self) -> int:
        """Size of a request record.

        The record has scalars, then histograms of wall times by status, then one of active times.
        """
        return len(REQUEST) + (len(STATUSES) + 1) * self.wait_words

    @_CachedProperty
    def request_waits(self) -> int:
        """Start of the request wait records."""
        return self.requests + (self.max_requests + 1) * self.request_words

    @property
    def max_request_waits(self) -> int:
        """The largest number of request wait records besides ``(other)``."""
        return WAITS_PER_REQUEST * self.max_requests

    @_CachedProperty
    def chain_nodes(self) -> int:
        """Start of the chain nodes."""
        return self.request_waits + (self.max_request_waits + 1) * len(REQUEST_WAIT)

    @property
    def max_chain_nodes(self) -> int:
        """The largest number of chain nodes besides those without a place."""
        return NODES_PER_YIELD_POINT * self.max_yield_points

    @property
    def max_chain_bytes(self) -> int:
        """The largest number of bytes of strings that only chain nodes refer to."""
        return STRING_BYTES_PER_NAME * self.max_yield_points

    @_CachedProperty
    def segment_paths(self) -> int:
        """Start of the segment paths."""
        return self.chain_node(self.max_chain_nodes + OWN_CHAIN_NODES)

    @_CachedProperty
    def max_segment_paths(self) -> int:
        """The number of segment paths besides ``(other)``, a power of two."""
        return 1 << (2 * self.max_yield_points - 1).bit_length()

    @_CachedProperty
    def strings(self) -> int:
        """Start of the string area."""
        return self.segment_paths + (self.max_segment_paths + 1) * len(SEGMENT_PATH)

    @_CachedProperty
    def string_bytes(self) -> int:
        """Size of the string area in bytes, a whole number of words."""
        # The last two are the loop's name, and the page's own: (other) and (callback).
        names = self.max_coroutines + 2 * self.max_yield_points + self.max_requests + 2
        return STRING_BYTES_PER_NAME * names + self.max_chain_bytes

    @_CachedProperty
    def size(self) -> int:
        """Size of the page in bytes."""
        return self.strings * WORD + self.string_bytes

    def in_use(self, header: Sequence[int]) -> tuple[tuple[int, int], ...]:
        """Return start and end of the parts of a page with that header that are in use.

        Counts are limited to the room for them, because anybody may have written the header.
        """
        coroutines, yield_points, requests, request_waits, chain_nodes, string_bytes = (
            min(max(header[HEADER[name]], 0), most)
            for name, most in (
                ("coroutines", self.max_coroutines + OWN_COROUTINES),
                ("yield_points", self.max_yield_points + 1),
                ("requests", self.max_requests + 1),
                ("request_waits", self.max_request_waits + 1),
                ("chain_nodes", self.max_chain_nodes + OWN_CHAIN_NODES),
                ("strings_used", self.string_bytes),
            )
        )
        return (
            (0, self.coroutine(coroutines)),
            (self.yield_points, self.yield_point(yield_points)),
            (self.scope_errors, self.request(requests)),
            (self.request_waits, self.request_wait(request_waits)),
            (self.chain_nodes, self.chain_node(chain_nodes)),
            # The strings follow the segment paths, which may be anywhere in their table.
            (self.segment_paths, self.strings + -(-string_bytes // WORD)),
        )

    def coroutine(self, number: int) -> int:
        """Start of coroutine record ``number``."""
        return self.coroutines + number * self.coroutine_words

    def wall(self, number: int, status: int) -> int:
        """Start of the histogram of wall times of a coroutine's tasks with that status."""
        return self.coroutine(number) + len(COROUTINE) + status * self.wait_words

    def active(self, number: int, status: int) -> int:
        """Start of the histogram of active times of a coroutine's tasks with that status."""
        return self.wall(number, len(STATUSES) + status)

    def yield_point(self, number: int) -> int:
        """Start of yield point record ``number``."""
        return self.yield_points + number * self.yield_point_words

    def segments(self, number: int) -> int:
        """Start of the histogram of segments of a yield point."""
        return self.yield_point(number) + len(YIELD_POINT)

    def waits(self, number: int) -> int:
        """Start of the histogram of waits of a yield point."""
        return self.segments(number) + self.segment_words

    def request(self, number: int) -> int:
        """Start of request record ``number``."""
        return self.requests + number * self.request_words

    def request_wall(self, number: int, status: int) -> int:
        """Start of the histogram of wall times of requests that were left with that status."""
        return self.request(number) + len(REQUEST) + status * self.wait_words

    def request_active(self, number: int) -> int:
        """Start of the histogram of active times of requests."""
        return self.request_wall(number, len(STATUSES))

    def request_wait(self, number: int) -> int:
        """Start of request wait record ``number``."""
        return self.request_waits + number * len(REQUEST_WAIT)

    def chain_node(self, number: int) -> int:
        """Start of chain node ``number``."""
        return self.chain_nodes + number * len(CHAIN_NODE)

    def held_entry(self, number: int) -> int:
        """Start of entry ``number`` of the table of lines that held the loop."""
        return self.held + number * HELD_WORDS

    def segment_path(self, number: int) -> int:
        """Start of segment path ``number``."""
        return self.segment_paths + number * len(SEGMENT_PATH)


def pending_ns(since_ns: int, counted_ns: int, looked_ns: int, threshold_ns: int) -> int:
    """Return the blocking time that readers counted of the segment in progress, if not yet final.

    A reader that observed the page before the segment began, or during an eager child of it, may
    have done so later than ``since_ns``, but by less than the threshold.
    """
    seen_ns = looked_ns - since_ns
    return max(0, seen_ns - counted_ns) if since_ns and seen_ns >= threshold_ns else 0


def elapsed_ns(since_ns: int, seen_ns: int) -> int:
    """Return the time that readers counted of a turn or wait that began at ``since_ns``, else 0."""
    return max(0, seen_ns - since_ns) if since_ns else 0


def from_seconds(
    segment: Sequence[float],
    wait: Sequence[float],
    max_coroutines: int,
    max_yield_points: int,
    max_requests: int,
    *,
    native: bool = False,
) -> Layout:
    """Return a layout with bucket bounds given in seconds."""
    return Layout(
        tuple(round(bound * SECOND_NS) for bound in segment),
        tuple(round(bound * SECOND_NS) for bound in wait),
        max_coroutines,
        max_yield_points,
        max_requests,
        native=native,
    )
