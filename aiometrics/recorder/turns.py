"""Turns of an event loop: how long it was in its selector, and how long outside, by timing the selector.

A turn is one pass of the loop: the selector is asked for events, which is idle time, then what is ready runs, which is active time.
"""

from __future__ import annotations

import functools
from bisect import bisect_left
from collections.abc import Callable
from typing import Any

from aiometrics.base.clock import Clock
from aiometrics.base.internal_errors import OFF_FOR_LOOP, InternalErrors
from aiometrics.pages.layout import LOOP
from aiometrics.pages.page import Page

PROBE = "turns"
#: A selector that comes back sooner did not wait: waiting takes a switch to another thread and back.
WAITED_NS = 20_000

Select = Callable[..., Any]


class Turns:
    """Writes the turns of one loop into its page. Used by the loop's thread only; an error in here switches it off."""

    def __init__(self, page: Page, clock: Clock, internal_errors: InternalErrors) -> None:
        self._page = page
        self._words = page.words
        self._loop = page.layout.loop
        self._clock = clock
        self._internal_errors = internal_errors
        self.retired = False

    def start(self) -> None:
        """The loop begins to run, with the active part of a turn."""
        now_ns = self._now()
        if now_ns is not None:
            self._set("timed", 1)
            self._set("turn_since_ns", now_ns)

    def stop(self) -> None:
        """The loop stops running, after the active part of a turn."""
        now_ns = self._now()
        if now_ns is not None:
            with self._page.writing:
                self._end_turn(self._boundary(now_ns))

    def retire(self) -> None:
        """Write no more."""
        self.retired = True

    def timed(self, select: Select) -> Select:
        """``select``, timed."""

        @functools.wraps(select)
        def timed_select(*args: Any, **kwargs: Any) -> Any:
            self._enter()
            try:
                events = select(*args, **kwargs)
            except BaseException:
                self._leave(0, waiting=False)
                raise
            count = len(events) if isinstance(events, list) else 0
            self._leave(count, waiting=args == (0,))
            return events

        return timed_select

    def _now(self) -> int | None:
        """The clock, or ``None`` if nothing is to be written any more."""
        if self.retired:
            return None
        try:
            return self._clock()
        except Exception as error:  # noqa: BLE001 - never the application's problem
            self.retire()
            # Nothing is in progress that anybody would end.
            self._set("turn_since_ns", 0)
            self._set("poll_since_ns", 0)
            self._internal_errors.report(PROBE, error, OFF_FOR_LOOP)
            return None

    def _enter(self) -> None:
        now_ns = self._now()
        if now_ns is not None:
            with self._page.writing:
                now_ns = self._boundary(now_ns)
                self._end_turn(now_ns)
                self._set("poll_since_ns", now_ns)

    def _leave(self, events: int, *, waiting: bool) -> None:
        since_ns, now_ns = self._get("poll_since_ns"), self._now()
        if not since_ns or now_ns is None:
            return
        with self._page.writing:
            now_ns = self._boundary(now_ns)
            self._add("idle_ns", now_ns - since_ns)
            self._add("events", events)
            if waiting or now_ns - since_ns < WAITED_NS:
                self._add("events_waiting", events)
            self._set("poll_since_ns", 0)
            self._set("turn_since_ns", now_ns)

    def _boundary(self, now_ns: int) -> int:
        """Between two parts of a turn: now, unless a reader in another process has counted the part that ends beyond that."""
        return max(now_ns, self._get("seen_ns"))

    def _end_turn(self, now_ns: int) -> None:
        since_ns = self._get("turn_since_ns")
        if not since_ns:
            return
        active_ns, layout = now_ns - since_ns, self._page.layout
        self._add("active_ns", active_ns)
        self._words[layout.iterations] += active_ns
        self._words[layout.iterations + 1 + bisect_left(layout.segment_bounds_ns, active_ns)] += 1
        self._set("turn_since_ns", 0)

    def _get(self, field: str) -> int:
        return self._words[self._loop + LOOP[field]]

    def _set(self, field: str, value: int) -> None:
        self._words[self._loop + LOOP[field]] = value

    def _add(self, field: str, value: int) -> None:
        self._words[self._loop + LOOP[field]] += value
