"""Times the turns of an event loop at its selector: the twin of ``csrc/turns.c``.

A turn is one pass of the loop. First it asks the selector for events, which is idle time; then it
runs the handles that are ready, which is active time.
"""

from __future__ import annotations

import weakref
from bisect import bisect_left
from collections.abc import Callable
from typing import Any

from aiometrics.base.clock import Clock
from aiometrics.base.handover import HAND_OVER
from aiometrics.base.internal_errors import OFF_FOR_LOOP, InternalErrors, is_interrupt
from aiometrics.pages.layout import LOOP, TIMED
from aiometrics.pages.page import Page

PROBE = "turns"
#: A selector that returns sooner did not wait, which takes a switch to another thread and back.
WAITED_NS = 20_000
#: A shorter wait does not let a thread that answers a scrape have the interpreter: it must wake up.
GAVE_NS = 100_000

Select = Callable[..., Any]


class Turns:
    """Writes the turns of one loop into its page. Only the loop's thread may use it.

    Python looks for signals at calls and jumps back, so words that belong together are written
    without either, and what a handler of a signal raises leaves no part of them unwritten.

    An error in here counts as an internal error of the probe ``turns`` and switches it off.
    """

    def __init__(self, page: Page, clock: Clock, internal_errors: InternalErrors) -> None:
        self._page = page
        self._words = page.words
        self._loop = page.layout.loop
        self._clock = clock
        self._internal_errors = internal_errors
        #: When a loop started that has not asked its selector yet; 0 if there is none.
        self._began_ns = 0
        #: Whether the selector left it to others to wait since the loop started.
        self._left = False
        self.retired = False

    def start(self) -> None:
        """Begin the active part of a turn: the loop starts running.

        Whether its turns can be timed is not known until it asks its selector, so the page does not
        show this turn before. Some loops have a selector that they never ask.
        """
        self._left = False
        now_ns = self._now()
        if now_ns is None:
            return
        if self._get("timed"):
            self._set("turn_since_ns", now_ns)
        else:
            self._began_ns = now_ns

    def stop(self) -> None:
        """End the active part of a turn: the loop stops running."""
        now_ns = self._now()
        if now_ns is not None:
            self._began_ns = 0
            self._page.update(self._end, now_ns)

    def retire(self) -> None:
        """Stop writing for good."""
        self.retired = True

    def timed(self, selector: Any, own: Select | None) -> Select:
        """Return a function that calls the ``select`` of a selector and times it.

        That is the function ``own`` if it is given, else the method that the selector's class has
        at that moment. The function does not keep the selector alive.
        """
        reference = weakref.ref(selector)

        def timed_select(*args: Any, **kwargs: Any) -> Any:
            select = own or _method(reference, "select")
            self._enter()
            try:
                events = select(*args, **kwargs)
            except BaseException as error:
                self._leave(0, waiting=False)
                if not isinstance(error, KeyboardInterrupt):
                    self._leave_to_others()
                raise
            count = len(events) if isinstance(events, list) else 0
            self._leave(count, waiting=args == (0,))
            return events

        timed_select.__wrapped__ = own  # type: ignore[attr-defined]
        return timed_select

    def _now(self) -> int | None:
        """Return the time, or ``None`` if nothing must be written any more."""
        if self.retired:
            return None
        try:
            return self._clock()
        except Exception as error:
            if is_interrupt(error):
                raise
            self.retire()
            # The part in progress would never end.
            self._set("turn_since_ns", 0)
            self._set("poll_since_ns", 0)
            self._internal_errors.report(PROBE, error, OFF_FOR_LOOP)
            return None

    def _enter(self) -> None:
        now_ns = self._now()
        if now_ns is not None:
            self._page.update(self._begin_wait, now_ns)

    def _begin_wait(self, now_ns: int) -> None:
        self._show_timed()
        now_ns = self._boundary(now_ns)
        self._end_turn(now_ns)
        self._set("poll_since_ns", now_ns)

    def _show_timed(self) -> None:
        if self._began_ns:
            self._words[self._loop + LOOP["timed"]] = TIMED
            self._words[self._loop + LOOP["turn_since_ns"]] = self._began_ns
            self._began_ns = 0

    def _leave(self, events: int, *, waiting: bool) -> None:
        since_ns, now_ns = self._get("poll_since_ns"), self._now()
        if not since_ns or now_ns is None:
            return
        rested = now_ns - since_ns >= WAITED_NS
        if now_ns - since_ns < GAVE_NS and HAND_OVER.asked:
            HAND_OVER.give()
            now_ns = self._now()
            if now_ns is None:
                return
        self._page.update(self._begin_turn, now_ns, events, events if waiting or not rested else 0)

    def _begin_turn(self, now_ns: int, events: int, events_waiting: int) -> None:
        now_ns = self._boundary(now_ns)
        words, loop = self._words, self._loop
        words[loop + LOOP["idle_ns"]] += now_ns - words[loop + LOOP["poll_since_ns"]]
        words[loop + LOOP["events"]] += events
        words[loop + LOOP["events_waiting"]] += events_waiting
        words[loop + LOOP["poll_since_ns"]] = 0
        words[loop + LOOP["turn_since_ns"]] = now_ns

    def _leave_to_others(self) -> None:
        """The selector raised, so what the loop does until it asks again is not known.

        That of a loop which is the guest of another one, which waits for it, does so instead of
        waiting (qtinter). At the second time in a run, its turns are given up.
        """
        since_ns = self._get("turn_since_ns")
        if self.retired or not since_ns:
            return
        self._page.update(self._end, since_ns)
        if self._left:
            self.retire()
            self._page.forget_turns()
        self._left = True

    def _boundary(self, now_ns: int) -> int:
        """Return where one part of a turn ends and the next begins.

        That is ``now_ns``, unless a reader in another process has counted the part beyond it.
        """
        return max(now_ns, self._get("seen_ns"))

    def _end(self, now_ns: int) -> None:
        """End the turn, after the wait in which the handler of a signal may have raised."""
        now_ns = self._boundary(now_ns)
        if self._get("poll_since_ns"):
            self._begin_turn(now_ns, 0, 0)
        self._end_turn(now_ns)

    def _end_turn(self, now_ns: int) -> None:
        since_ns = self._get("turn_since_ns")
        if not since_ns:
            return
        active_ns, layout, words = now_ns - since_ns, self._page.layout, self._words
        iterations, loop = layout.iterations, self._loop
        slot = iterations + 1 + bisect_left(layout.segment_pieces_ns, active_ns)
        words[loop + LOOP["active_ns"]] += active_ns
        words[iterations] += active_ns
        words[slot] += 1
        words[loop + LOOP["turn_since_ns"]] = 0

    def _get(self, field: str) -> int:
        return self._words[self._loop + LOOP[field]]

    def _set(self, field: str, value: int) -> None:
        self._words[self._loop + LOOP[field]] = value


def _method(reference: weakref.ref[Any], name: str) -> Any:
    """Return a method of an object as its class has it, whatever attribute the object has."""
    obj = reference()
    if obj is None:
        raise ReferenceError("the selector is gone")
    for base in type(obj).__mro__:  # no generator, in whose end an exception would be dropped
        if name in vars(base):
            found = vars(base)[name]
            return found.__get__(obj, type(obj)) if hasattr(found, "__get__") else found
    raise AttributeError(name)
