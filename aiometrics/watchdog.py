"""Names the line that blocks a loop: a thread that looks at each loop's segment in progress and, past the threshold, at its stack."""

from __future__ import annotations

import logging
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

from aiometrics.clock import SECOND_NS, Clock, monotonic
from aiometrics.faults import Faults
from aiometrics.layout import COROUTINE, HEADER, LOOP, WORD
from aiometrics.page import Page
from aiometrics.pages import Slot
from aiometrics.places import Places
from aiometrics.stack import UNKNOWN, Call, blocked_at, calls, shortened

logger = logging.getLogger("aiometrics.blocked")

PROBE = "watchdog"
#: An incident that lasts as long is logged then, because its end may never come.
LASTING_NS = 5 * SECOND_NS
#: Lines that are logged within a minute, at most.
LINES, MINUTE_NS = 10, 60 * SECOND_NS
_STOP_SECONDS = 5.0


class Reading(NamedTuple):
    """What a page says of the segment in progress, in ns."""

    since_ns: int
    coroutine: int
    counted_ns: int
    loop_blocking_ns: int
    threshold_ns: int


def reading(page: Page) -> Reading:
    """What ``page`` says now. The words are read one by one: who looks again and finds the same ``since_ns`` has read one segment."""
    words, loop = page.words, page.layout.loop
    fields = ("segment_since_ns", "segment_coroutine", "segment_counted_ns", "blocking_ns")
    since, coroutine, counted, blocking = (words[loop + LOOP[name]] for name in fields)
    return Reading(since, coroutine, counted, blocking, words[HEADER["blocking_threshold_ns"]])


def blocked_ns(seen: Reading, now_ns: int) -> int:
    """For how long the segment in progress has blocked the loop; 0 if there is none, or it is under the threshold."""
    elapsed_ns = now_ns - seen.since_ns
    return elapsed_ns if seen.since_ns and elapsed_ns >= seen.threshold_ns else 0


@dataclass(slots=True)
class Incident:
    """One segment that blocks, as far as it was seen."""

    since_ns: int
    coroutine: str
    #: Blocking time of the loop before this segment: what it is more at the end is how long the segment was.
    before_ns: int
    seen_ns: int = 0
    places: Counter[str] = field(default_factory=Counter)
    stacks: dict[str, str] = field(default_factory=dict)
    logged: bool = False

    def lasted_ns(self, end: Reading, now_ns: int) -> int:
        """How long it was, seen from the first look at which it is over."""
        counted_ns = min(end.loop_blocking_ns - self.before_ns, now_ns - self.since_ns)
        return max(self.seen_ns, counted_ns)


class Ration:
    """Lets at most ``LINES`` of each minute through."""

    def __init__(self) -> None:
        self._minute_ns: int | None = None
        self._taken = 0
        self._withheld = 0

    def take(self, now_ns: int) -> int | None:
        """How many were withheld since the last that was let through, or ``None``: this one is withheld too."""
        if self._minute_ns is None or now_ns - self._minute_ns >= MINUTE_NS:
            self._minute_ns, self._taken = now_ns, 0
        if self._taken >= LINES:
            self._withheld += 1
            return None
        self._taken += 1
        withheld, self._withheld = self._withheld, 0
        return withheld


class Watchdog:
    """Looks at the pages of ``slots()`` every ``interval`` seconds once it is started.

    Each look at a loop that blocks counts one sample at the place where its thread is, and each incident is one line to the logger
    ``aiometrics.blocked``: at its end, or after 5 seconds. An internal error counts as one of the probe ``watchdog`` and ends it.
    """

    def __init__(
        self, slots: Callable[[], Iterable[Slot]], places: Places, faults: Faults, *, interval: float, clock: Clock = monotonic
    ) -> None:
        self._slots = slots
        self._places = places
        self._faults = faults
        self._interval = interval
        self._clock = clock
        self._incidents: dict[Slot, Incident] = {}
        self._ration = Ration()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="aiometrics-watchdog", daemon=True)

    def start(self) -> None:
        """Begin to look."""
        self._thread.start()

    def stop(self) -> None:
        """Look no more. Waits for a look in progress, unless it is the one that calls."""
        self._stopping.set()
        if self._thread.is_alive() and self._thread is not threading.current_thread():
            self._thread.join(_STOP_SECONDS)

    def look(self) -> None:
        """Look at every loop once."""
        for slot in self._slots():
            self._look_at(slot)

    def _run(self) -> None:
        try:
            while not self._stopping.wait(self._interval):
                self.look()
        except Exception as error:  # noqa: BLE001 - never the application's problem
            self._faults.report(PROBE, error)

    def _look_at(self, slot: Slot) -> None:
        seen, now_ns = reading(slot.page), self._clock()
        elapsed_ns = blocked_ns(seen, now_ns)
        stack = self._stack(slot, seen) if elapsed_ns else None
        incident = self._incidents.get(slot)
        if incident is not None and incident.since_ns != seen.since_ns:
            del self._incidents[slot]
            self._end(slot, incident, seen, now_ns)
            incident = None
        if stack is None:
            return
        if incident is None:
            coroutine = _coroutine_name(slot.page, seen.coroutine)
            incident = self._incidents[slot] = Incident(seen.since_ns, coroutine, seen.loop_blocking_ns - seen.counted_ns)
        incident.seen_ns = elapsed_ns
        self._count(slot, incident, stack)
        if elapsed_ns >= LASTING_NS and not incident.logged:
            self._log(slot, incident, now_ns, f"has been blocked for {_text(elapsed_ns)} and still is,")

    @staticmethod
    def _stack(slot: Slot, seen: Reading) -> list[Call] | None:
        """What the loop's thread is executing, or ``None`` if that may be the next segment's already."""
        ident = slot.vitals.ident
        frame = None if ident is None else sys._current_frames().get(ident)  # noqa: SLF001 - the documented way, for debuggers
        stack = [] if frame is None else calls(frame)
        return stack if reading(slot.page).since_ns == seen.since_ns else None

    def _count(self, slot: Slot, incident: Incident, stack: list[Call]) -> None:
        place = blocked_at(stack, self._places)
        slot.vitals.sampled(place)
        incident.places[place] += 1
        incident.stacks[place] = shortened(stack) or UNKNOWN

    def _end(self, slot: Slot, incident: Incident, seen: Reading, now_ns: int) -> None:
        if not incident.logged:
            self._log(slot, incident, now_ns, f"was blocked for {_text(incident.lasted_ns(seen, now_ns))}")

    def _log(self, slot: Slot, incident: Incident, now_ns: int, blocked: str) -> None:
        incident.logged = True
        withheld = self._ration.take(now_ns)
        if withheld is None:
            return
        ((place, samples),) = incident.places.most_common(1)
        more = f" ({withheld} earlier incidents were not logged)" if withheld else ""
        logger.warning(
            "loop %s %s by %s at %s (%d of %d samples): %s%s",
            slot.name,
            blocked,
            incident.coroutine,
            place,
            samples,
            incident.places.total(),
            incident.stacks[place],
            more,
        )


def _text(ns: int) -> str:
    return f"{ns / SECOND_NS:.3f} s"


def _coroutine_name(page: Page, number: int) -> str:
    ref = page.words[page.layout.coroutine(number) + COROUTINE["name"]]
    start = page.layout.strings * WORD + (ref >> 32)
    return page.memory[start : start + (ref & 0xFFFF_FFFF)].decode("utf-8", "replace")
