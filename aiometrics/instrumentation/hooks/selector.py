"""Puts the timing of turns into a loop that shows its selector, and takes it out again."""

from __future__ import annotations

import asyncio
import os
import weakref
from asyncio import events
from collections.abc import Callable
from typing import Any

from aiometrics.recorder.turns import Turns


class LoopTiming:
    """The timed ``select`` of one loop's selector; :meth:`remove` puts the loop's own back, unless somebody has replaced it since.

    A selector refers to its loop by what it waits for, so nothing here keeps it: a loop that nobody closed is garbage as ever.
    """

    def __init__(self, loop: asyncio.BaseEventLoop, turns: Turns) -> None:
        self._turns = turns
        selector: Any = loop._selector  # type: ignore[attr-defined]
        timed: Any = turns.timed(selector.select)
        self._selector, self._timed = weakref.ref(selector), weakref.ref(timed)
        self._had_own = "select" in vars(selector)
        selector.select = timed
        if loop.is_running():
            turns.start()

    def started(self) -> None:
        """The loop begins to run."""
        self._turns.start()

    def stopped(self) -> None:
        """The loop stops running, and may do so for long: that is neither active nor idle."""
        self._turns.stop()

    def remove(self) -> None:
        """Time no more."""
        self._turns.retire()
        selector, timed = self._selector(), self._timed()
        if selector is None or timed is None or vars(selector).get("select") is not timed:
            return
        if self._had_own:
            selector.select = timed.__wrapped__
        else:
            del selector.select


def time_iterations(loop: Any, turns: Callable[[], Turns]) -> LoopTiming | None:
    """Time the turns of ``loop`` if it is one of asyncio's, whose selector can be got at; uvloop has none."""
    selector = getattr(loop, "_selector", None) if isinstance(loop, asyncio.BaseEventLoop) else None
    if not hasattr(selector, "__dict__") or not hasattr(selector, "select"):
        return None
    return LoopTiming(loop, turns())


class RunningLoopHook:
    """The function by which asyncio's loops say that they begin, or stop, to run in a thread.

    ``started`` and ``stopped`` are told of each loop; they must not raise.
    """

    def __init__(self, started: Callable[[Any], None], stopped: Callable[[Any], None]) -> None:
        self._started = started
        self._stopped = stopped
        self._pid = os.getpid()
        self._original = events._set_running_loop
        self._wrapper = self._set_running_loop

    def _set_running_loop(self, loop: Any, /) -> None:
        before = events._get_running_loop()
        self._original(loop)
        if os.getpid() != self._pid:
            # asyncio says in a forked child that the parent's loop does not run there, which the parent's page must not know.
            return
        if before is not None and before is not loop:
            self._stopped(before)
        if loop is not None and loop is not before:
            self._started(loop)

    def install(self) -> None:
        """Put it in place."""
        events._set_running_loop = self._wrapper

    def remove(self) -> None:
        """Restore the function; where somebody has since replaced it in turn, leave this one, without effect."""
        if events._set_running_loop is self._wrapper:
            events._set_running_loop = self._original
