"""Finds the line that blocks a loop.

A thread looks at each loop's segment in progress and, once it reaches the threshold, at its stack.
What is said of it is the business of ``block_log``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from aiometrics.base.background import Background
from aiometrics.base.clock import SECOND_NS, Clock, monotonic
from aiometrics.base.internal_errors import InternalErrors
from aiometrics.instrumentation.block_log import Block, BlockLog
from aiometrics.instrumentation.slots import Slot
from aiometrics.instrumentation.thread_times import Usage
from aiometrics.pages.layout import COROUTINE, LOOP
from aiometrics.pages.page import Page
from aiometrics.recorder.implementation import DEFAULT_IMPLEMENTATION
from aiometrics.recorder.places import Places
from aiometrics.recorder.stack import (
    UNKNOWN,
    Call,
    Frame,
    blocked_at,
    calls,
    shortened,
)

PROBE = "watchdog"
#: An incident that lasts this long is told before its end, which may never come.
LASTING_NS = 5 * SECOND_NS
MIN_PAUSE_NS = 1_000_000
_SINCE = LOOP["segment_since_ns"]


def blocked_ns(since_ns: int, now_ns: int, threshold_ns: int) -> int:
    """Return how long the segment in progress since ``since_ns`` has blocked the loop.

    0 if there is no segment in progress, or it is shorter than the threshold.
    """
    elapsed_ns = now_ns - since_ns
    return elapsed_ns if since_ns and elapsed_ns >= threshold_ns else 0


def pause_ns(since_ns: int, now_ns: int, threshold_ns: int, interval_ns: int) -> int:
    """Return how long the watchdog can sleep.

    That is until the segment in progress, or one that begins now, can reach the threshold. A
    segment that blocks is sampled every ``interval_ns``; if the threshold is shorter than that,
    every loop is looked at that often.
    """
    elapsed_ns = max(0, now_ns - since_ns) if since_ns else 0
    if elapsed_ns >= threshold_ns or threshold_ns <= interval_ns:
        return interval_ns
    return max(threshold_ns - elapsed_ns, MIN_PAUSE_NS)


@dataclass(slots=True)
class Incident:
    """One segment that blocks its loop, as the watchdog has seen it."""

    since_ns: int
    coroutine: str
    #: Blocking time of the loop before this segment. The growth until its end is how long it was.
    before_ns: int
    #: What the loop's thread had used when the segment was not yet a block.
    usage: Usage
    seen_ns: int = 0
    places: Counter[str] = field(default_factory=Counter)
    stacks: dict[str, str] = field(default_factory=dict)
    told: bool = False

    def lasted_ns(self, blocking_ns: int, now_ns: int) -> int:
        """Return the length of the segment, from the loop's blocking time at the next look."""
        counted_ns = min(blocking_ns - self.before_ns, now_ns - self.since_ns)
        return max(self.seen_ns, counted_ns)

    def block(self, loop: str, lasted_ns: int, usage: Usage, *, over: bool) -> Block:
        """Return what there is to tell, given what the thread has used by now."""
        used = usage.since(self.usage)
        ((place, _),) = self.places.most_common(1)
        return Block(
            loop,
            self.coroutine,
            place,
            self.stacks[place],
            lasted_ns,
            _at_most(used.cpu_ns, lasted_ns),
            _at_most(used.runqueue_ns, lasted_ns),
            over,
        )


def _at_most(ns: int | None, limit_ns: int) -> int | None:
    """The share of a segment: what was counted began with the look before it."""
    return None if ns is None else min(ns, limit_ns)


class Watchdog(Background):
    """Looks at the pages of ``slots()`` whenever a segment can have reached the threshold.

    From then on it looks every ``interval`` seconds. Each look at a loop that is blocked counts one
    sample at the place where its thread is. Each incident is told to the ``log``, at its end or
    after 5 seconds. An internal error counts for the probe ``watchdog``, and ends the thread.
    """

    def __init__(
        self,
        slots: Callable[[], Iterable[Slot]],
        places: Places,
        internal_errors: InternalErrors,
        *,
        threshold_ns: int,
        interval: float,
        stack_of_thread: Callable[[int], Sequence[Frame]] = DEFAULT_IMPLEMENTATION.stack_of_thread,
        clock: Clock = monotonic,
    ) -> None:
        self._slots = slots
        self._places = places
        self._internal_errors = internal_errors
        self._threshold_ns = threshold_ns
        self._interval_ns = round(interval * SECOND_NS)
        self._stack_of_thread = stack_of_thread
        self._clock = clock
        #: When the look is due that waits for the GIL, or for that moment.
        self._due_ns = clock()
        self._incidents: dict[Slot, Incident] = {}
        #: What the threads of loops without an incident had used at the last look.
        self._usages: dict[Slot, Usage] = {}
        self._log = BlockLog()
        super().__init__("aiometrics-watchdog")

    def look(self) -> int:
        """Look at every loop once, and return after how many ns to look again."""
        pause = min(map(self._look_at, self._slots()), default=self._interval_ns)
        now_ns = self._clock()
        self._log.catch_up(now_ns)
        self._due_ns = now_ns + pause
        return pause

    def _run(self) -> None:
        try:
            while not self._stopping.wait(self.look() / SECOND_NS):
                pass
        except Exception as error:  # noqa: BLE001 - never the application's problem
            self._internal_errors.report(PROBE, error)

    def _look_at(self, slot: Slot) -> int:
        slot.observe()
        since_ns, now_ns = _since_ns(slot.page), self._clock()
        # Callbacks of the collector are where a thread gives up the GIL. If a collection began
        # while this look was waiting for that, it is not what took the time.
        collecting = slot.loop_stats.collecting(self._due_ns)
        # Before anything else, because the thread may go on at any moment.
        stack = (
            self._stack(slot, since_ns)
            if blocked_ns(since_ns, now_ns, self._threshold_ns)
            else None
        )
        incident = self._incidents.get(slot)
        if incident is not None and incident.since_ns != since_ns:
            del self._incidents[slot]
            self._end(slot, incident, now_ns)
        if stack is not None:
            self._sample(slot, since_ns, stack, collecting, now_ns)
        if slot not in self._incidents:
            self._usages[slot] = slot.loop_stats.thread_usage()
        return pause_ns(since_ns, now_ns, self._threshold_ns, self._interval_ns)

    def _stack(self, slot: Slot, since_ns: int) -> list[Call] | None:
        """The calls of the loop's thread; ``None`` if they may belong to the next segment."""
        ident = slot.loop_stats.thread_ident
        stack = [] if ident is None else calls(self._stack_of_thread(ident))
        return stack if _since_ns(slot.page) == since_ns else None

    def _sample(
        self, slot: Slot, since_ns: int, stack: list[Call], collecting: int, now_ns: int
    ) -> None:
        incident = self._incidents.get(slot)
        if incident is None:
            before_ns = _word(slot.page, "blocking_ns") - _word(slot.page, "segment_counted_ns")
            usage = self._usages.pop(slot, None) or slot.loop_stats.thread_usage()
            incident = self._incidents[slot] = Incident(
                since_ns, _coroutine_name(slot.page), before_ns, usage
            )
        place = blocked_at(stack, self._places, collecting)
        slot.loop_stats.count_block_sample(place)
        incident.places[place] += 1
        incident.stacks[place] = shortened(stack) or UNKNOWN
        incident.seen_ns = now_ns - since_ns
        if incident.seen_ns >= LASTING_NS:
            self._tell(slot, incident, incident.seen_ns, now_ns, over=False)

    def _end(self, slot: Slot, incident: Incident, now_ns: int) -> None:
        lasted_ns = incident.lasted_ns(_word(slot.page, "blocking_ns"), now_ns)
        self._tell(slot, incident, lasted_ns, now_ns, over=True)

    def _tell(
        self, slot: Slot, incident: Incident, lasted_ns: int, now_ns: int, *, over: bool
    ) -> None:
        if incident.told:
            return
        incident.told = True
        usage = slot.loop_stats.thread_usage()
        self._log.tell(incident.block(slot.name, lasted_ns, usage, over=over), now_ns)


def _word(page: Page, field: str) -> int:
    return page.words[page.layout.loop + LOOP[field]]


def _since_ns(page: Page) -> int:
    """Return when the segment in progress began; 0 if there is none, or if it was overwritten.

    If it is the same before and after other values are read, they belong to one segment.
    """
    since_ns = page.words[page.layout.loop + _SINCE]
    return since_ns if page.intact else 0


def _coroutine_name(page: Page) -> str:
    number = _word(page, "segment_coroutine")
    return page.text(page.words[page.layout.coroutine(number) + COROUTINE["name"]])
