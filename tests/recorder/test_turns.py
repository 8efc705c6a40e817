"""Turns in which the handler of a signal raises at each moment at which Python looks for one."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from types import FrameType
from typing import Any

from aiometrics.base.internal_errors import InternalErrors
from aiometrics.pages.layout import LOOP, from_seconds
from aiometrics.pages.page import Page
from aiometrics.recorder.implementation import IMPLEMENTATIONS
from aiometrics.testing import ManualClock

STEP_NS = 1_000_000
OURS = ("aiometrics.recorder.", "aiometrics.pages.")


class Interrupt(BaseException):
    """Raised by the handler of a signal."""


class Selector:
    """Waits in the time of a clock."""

    def __init__(self, clock: ManualClock) -> None:
        self._clock = clock

    def select(self, timeout: float | None = None) -> list[Any]:
        del timeout
        self._clock.advance_ns(STEP_NS)
        return []


class Service:
    """A page, and the turns of a loop, which is run again and again."""

    def __init__(self, implementation: str) -> None:
        self.page = Page(from_seconds((0.1,), (1.0, 2.0), 2, 3, 4), blocking_threshold_ns=1)
        self.clock = ManualClock()
        self.turns = IMPLEMENTATIONS[implementation].turns(self.page, self.clock, InternalErrors())
        self.selector = Selector(self.clock)
        self.select = self.turns.timed(self.selector, None)

    def run(self) -> None:
        """Start, turn twice and stop."""
        self.turns.start()
        try:
            for _ in range(2):
                self.clock.advance_ns(STEP_NS)
                self.select(0)
            self.clock.advance_ns(STEP_NS)
        finally:
            self._stop()

    def _stop(self) -> None:
        """As the hook does, whose end of a run is told again."""
        try:
            self.turns.stop()
        except Interrupt:
            self.turns.stop()
            raise

    def word(self, field: str) -> int:
        """A number of the page."""
        return self.page.words[self.page.layout.loop + LOOP[field]]


@contextmanager
def signal_at(moment: int) -> Iterator[list[None]]:
    """Raise ``Interrupt`` at one of the calls and returns of calls that our code makes.

    The list has an item once that was done.
    """
    arrived: list[None] = []
    moments = count()

    def arrive(frame: FrameType, event: str, _: object) -> None:
        looks = event in ("call", "c_return")
        ours = frame.f_globals.get("__name__", "").startswith(OURS)
        if looks and ours and next(moments) == moment:
            arrived.append(None)
            raise Interrupt

    sys.setprofile(arrive)
    try:
        yield arrived
    except Interrupt:
        pass
    finally:
        sys.setprofile(None)


def test_no_signal_leaves_an_update_unfinished_or_a_part_of_a_turn_in_progress(
    implementation: str,
) -> None:
    """Whenever it comes, the page can be copied, nothing is counted twice, and turns go on."""
    for moment in count():
        service = Service(implementation)
        service.run()
        with signal_at(moment) as arrived:
            service.run()
        assert service.word("started") == service.word("finished")
        assert 0 == service.word("turn_since_ns")
        assert 0 == service.word("poll_since_ns")
        since_ns = service.clock()
        counted_ns = service.word("active_ns") + service.word("idle_ns")
        assert counted_ns <= since_ns - ManualClock()()
        service.run()
        assert service.word("started") == service.word("finished")
        gained_ns = service.word("active_ns") + service.word("idle_ns") - counted_ns
        assert gained_ns == service.clock() - since_ns
        if not arrived:
            break
    assert moment > 0 or implementation == "c"
