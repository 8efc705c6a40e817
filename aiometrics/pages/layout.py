"""Where each number stands in a stats page: the one declaration that both recorders and the reader share.

A page is an array of 8-byte signed words in native byte order, followed by the bytes of its strings::

    header | segment bounds | wait bounds | loop record | vitals | block samples | errors | exemplars
        | coroutine records | yield point records | scope errors | request records | request wait records | strings

Record 0 of each kind is ``(other)``, and coroutine record 1 is ``(callback)``. A histogram is its sum in ns, then one count per bucket,
the last one unbounded. Block samples and errors are tables of notes: a count, and the name that is counted, in place; exemplars are notes
without a count. Scope errors are one count for each kind. A string is one word: its offset in the string area, shifted left by 32, plus its
length in bytes. The string area begins with room for the loop's name, the only string that may change.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

MAGIC = int.from_bytes(b"aiometr\0", "little")
VERSION = 2
WORD = 8
STRING_BYTES_PER_NAME = 128
#: Of a longer name the rest is cut: what one reference to it can make a reader write must have a bound.
NAME_BYTES = 1024
LOOP_NAME_BYTES = STRING_BYTES_PER_NAME
#: Room that no option exceeds: bucket bounds of a histogram, and records of a kind.
MAX_BOUNDS, MAX_RECORDS = 64, 1_000_000
#: What is not known, where 0 would be a number like any other.
UNKNOWN = -1

#: How a task's coroutine can end, in the order in which pages store it.
STATUSES = ("completed", "failed", "cancelled")
COMPLETED, FAILED, CANCELLED = range(len(STATUSES))
#: What can be wrong with the use of request scopes, in the order in which pages store it.
SCOPE_ERRORS = (
    "abandoned",
    "out_of_order",
    "foreign_task",
    "foreign_loop",
    "invalid",
    "outside_loop",
)
#: What is written of single requests, and what can become of it, in the order in which pages store the counts.
RECORD_KINDS = ("slow_request", "trace")
RECORD_OUTCOMES = ("written", "dropped")

#: Coroutine records of our own, beside which there is room for max_coroutines: (other) and (callback).
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
    "opened_unix_ns",  # when the latest loop moved in
)
LOOP = _numbered(
    "finished",  # updates of the page that are complete; the first word here, because a copy goes from the first to the last
    "segment_since_ns",  # when the segment in progress began, moved up by the time of its eager children; 0 if none
    "segment_coroutine",
    "segment_counted_ns",  # what of it was counted under (running) before an eager child interrupted it
    "looked_ns",  # when a reader last counted the segment in progress as blocking; with seen_ns all that readers write
    "blocking_ns",
    "timed",  # 1 once the loop's selector is timed; the words below stay 0 until then
    "turn_since_ns",  # when the active part of the turn in progress began, 0 in the selector
    "poll_since_ns",  # when the selector was entered, 0 outside
    "active_ns",
    "idle_ns",
    "events",
    "events_waiting",
    "seen_ns",  # when a reader last looked at all: up to then the turn or the wait in progress has been counted
    "segments_before_ns",  # segments that active_ns has already, from before this loop
    "started",  # updates that were begun: one more than are complete means that what a reader copied does not add up
)
#: What a page goes on from when another loop takes it over; everything else of the loop record is true only of the moment.
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
#: What is known of a loop without its recorder; UNKNOWN where the loop or the system does not tell.
LOOP_STATS = _numbered(
    "thread_cpu_ns",
    "thread_runqueue_ns",
    *(f"gc_pause_{generation}_ns" for generation in range(GENERATIONS)),
    "unhandled_exceptions",
    "untraced_tasks",  # as are the next, of the whole process, in one of its pages
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
#: A note: how often, and what, in so many bytes of text.
ENTRY = _numbered("count", "length")
ENTRY_BYTES = 256
ENTRY_WORDS = len(ENTRY) + ENTRY_BYTES // WORD
#: Notes in a table; the last one is (other).
MAX_PLACES, MAX_PROBES = 101, 33
#: Exemplars.
MAX_EXEMPLARS = 64
COROUTINE = _numbered("name", "created", "live", "destroyed_pending", "running_ns")
YIELD_POINT = _numbered(
    "coroutine",
    "yield_point",
    "awaits",
    "blocking_ns",
    "inflicted_wait_ns",
    "suspended",
    "oldest_ns",
)
REQUEST = _numbered(
    "name",
    "objective_ns",  # 0 if it has none
    "background_ns",
    "in_progress",
    "violations",  # found by the loop, when a scope was left
    "overdue",  # found by a reader, while it was not: only readers write this word
)
REQUEST_WAIT = _numbered("request", "awaits", "wait_ns")
SCOPE_ERROR = _numbered(*SCOPE_ERRORS)
#: Different things that are awaited, for each type of request that there is room for.
WAITS_PER_REQUEST = 8


class _Kept:
    """A property that each object works out once.

    That of functools takes a lock up to Python 3.11, the same one for all objects: in a child that was forked while another thread
    held it, nobody could ever work one out again.
    """

    def __init__(self, work_out: Callable[[Any], int]) -> None:
        self._work_out = work_out
        self.__doc__ = work_out.__doc__

    def __get__(self, instance: Any, owner: type) -> int:
        value = instance.__dict__[self._work_out.__name__] = self._work_out(instance)
        return value


@dataclass(frozen=True)
class Layout:
    """Offsets, in words, for given bucket bounds and capacities."""

    segment_bounds_ns: tuple[int, ...]
    wait_bounds_ns: tuple[int, ...]
    max_coroutines: int
    max_yield_points: int
    max_requests: int

    @_Kept
    def segment_words(self) -> int:
        """Size of a histogram of segments."""
        return len(self.segment_bounds_ns) + 2

    @_Kept
    def wait_words(self) -> int:
        """Size of a histogram of waits or of tasks."""
        return len(self.wait_bounds_ns) + 2

    @_Kept
    def bounds(self) -> int:
        """Where the bucket bounds start."""
        return len(HEADER)

    @_Kept
    def loop(self) -> int:
        """Where the loop record starts."""
        return self.bounds + len(self.segment_bounds_ns) + len(self.wait_bounds_ns)

    @_Kept
    def start_delay(self) -> int:
        """The loop's histogram of start delays, in segment buckets."""
        return self.loop + len(LOOP)

    @_Kept
    def iterations(self) -> int:
        """The loop's histogram of the active parts of its turns, in segment buckets."""
        return self.start_delay + self.segment_words

    @_Kept
    def loop_stats(self) -> int:
        """Where the vitals of the loop start."""
        return self.iterations + self.segment_words

    @_Kept
    def samples(self) -> int:
        """Where the table of block samples starts."""
        return self.loop_stats + len(LOOP_STATS)

    @_Kept
    def errors(self) -> int:
        """Where the table of internal errors starts."""
        return self.samples + MAX_PLACES * ENTRY_WORDS

    @_Kept
    def exemplars(self) -> int:
        """Where the table of exemplars starts."""
        return self.errors + MAX_PROBES * ENTRY_WORDS

    @_Kept
    def coroutines(self) -> int:
        """Where the coroutine records start."""
        return self.exemplars + MAX_EXEMPLARS * ENTRY_WORDS

    @_Kept
    def coroutine_words(self) -> int:
        """Size of a coroutine record: its scalars, then wall and then active histograms by status."""
        return len(COROUTINE) + 2 * len(STATUSES) * self.wait_words

    @_Kept
    def yield_points(self) -> int:
        """Where the yield point records start."""
        return self.coroutines + (self.max_coroutines + OWN_COROUTINES) * self.coroutine_words

    @_Kept
    def yield_point_words(self) -> int:
        """Size of a yield point record: its scalars, then the histogram of segments, then that of waits."""
        return len(YIELD_POINT) + self.segment_words + self.wait_words

    @_Kept
    def scope_errors(self) -> int:
        """Where the counts of scope errors start."""
        return self.yield_points + (self.max_yield_points + 1) * self.yield_point_words

    @_Kept
    def requests(self) -> int:
        """Where the request records start."""
        return self.scope_errors + len(SCOPE_ERRORS)

    @_Kept
    def request_words(self) -> int:
        """Size of a request record: its scalars, then the histograms of wall times by status, then that of active times."""
        return len(REQUEST) + (len(STATUSES) + 1) * self.wait_words

    @_Kept
    def request_waits(self) -> int:
        """Where the request wait records start."""
        return self.requests + (self.max_requests + 1) * self.request_words

    @property
    def max_request_waits(self) -> int:
        """How many request wait records there can be, beside (other)."""
        return WAITS_PER_REQUEST * self.max_requests

    @_Kept
    def strings(self) -> int:
        """Where the string area starts."""
        return self.request_waits + (self.max_request_waits + 1) * len(REQUEST_WAIT)

    @_Kept
    def string_bytes(self) -> int:
        """Size of the string area in bytes, a whole number of words."""
        return STRING_BYTES_PER_NAME * (
            self.max_coroutines + 2 * self.max_yield_points + self.max_requests + 4
        )

    @_Kept
    def size(self) -> int:
        """Size of the page in bytes."""
        return self.strings * WORD + self.string_bytes

    def coroutine(self, number: int) -> int:
        """Where coroutine record ``number`` starts."""
        return self.coroutines + number * self.coroutine_words

    def wall(self, number: int, status: int) -> int:
        """The histogram of wall times of a coroutine's tasks with that status."""
        return self.coroutine(number) + len(COROUTINE) + status * self.wait_words

    def active(self, number: int, status: int) -> int:
        """The histogram of active times of a coroutine's tasks with that status."""
        return self.wall(number, len(STATUSES) + status)

    def yield_point(self, number: int) -> int:
        """Where yield point record ``number`` starts."""
        return self.yield_points + number * self.yield_point_words

    def segments(self, number: int) -> int:
        """The histogram of segments of a yield point."""
        return self.yield_point(number) + len(YIELD_POINT)

    def waits(self, number: int) -> int:
        """The histogram of waits of a yield point."""
        return self.segments(number) + self.segment_words

    def request(self, number: int) -> int:
        """Where request record ``number`` starts."""
        return self.requests + number * self.request_words

    def request_wall(self, number: int, status: int) -> int:
        """The histogram of wall times of requests that were left with that status."""
        return self.request(number) + len(REQUEST) + status * self.wait_words

    def request_active(self, number: int) -> int:
        """The histogram of active times of requests."""
        return self.request_wall(number, len(STATUSES))

    def request_wait(self, number: int) -> int:
        """Where request wait record ``number`` starts."""
        return self.request_waits + number * len(REQUEST_WAIT)


def pending_ns(since_ns: int, counted_ns: int, looked_ns: int, threshold_ns: int) -> int:
    """What the last look counted as blocking of the segment in progress, and the recorder has not made final yet.

    A look from before the segment, or from within an eager child of it, may be later than ``since_ns`` but not by the threshold.
    """
    seen_ns = looked_ns - since_ns
    return max(0, seen_ns - counted_ns) if since_ns and seen_ns >= threshold_ns else 0


def elapsed_ns(since_ns: int, seen_ns: int) -> int:
    """What has been counted by the last look of a turn or a wait that began at ``since_ns``, 0 if there is none."""
    return max(0, seen_ns - since_ns) if since_ns else 0


def from_seconds(
    segment: Sequence[float],
    wait: Sequence[float],
    max_coroutines: int,
    max_yield_points: int,
    max_requests: int,
) -> Layout:
    """A layout with bucket bounds given in seconds."""
    return Layout(
        tuple(round(bound * 1_000_000_000) for bound in segment),
        tuple(round(bound * 1_000_000_000) for bound in wait),
        max_coroutines,
        max_yield_points,
        max_requests,
    )
