"""Times the turns of a loop at its selector, and calls back when loops start and stop."""

from __future__ import annotations

import asyncio
import weakref
from asyncio import events
from collections.abc import Callable
from typing import Any

from aiometrics.base.unpatched import getpid
from aiometrics.recorder.deferred import Notify
from aiometrics.recorder.turns import Turns


class SelectorTiming:
    """Replaces ``select`` of one loop's selector by a timed one.

    A selector refers to its loop through what it waits for, so it is only referred to weakly here:
    a loop that was not closed can be collected as before, and the selector of one that was closed
    is gone at once.
    """

    def __init__(self, loop: asyncio.BaseEventLoop, turns: Turns) -> None:
        self._turns = turns
        selector: Any = loop._selector  # type: ignore[attr-defined]
        self._had_own = "select" in vars(selector)
        own = selector.select if self._had_own or not hasattr(type(selector), "select") else None
        timed: Any = turns.timed(selector, own)
        self._selector, self._timed = weakref.ref(selector), weakref.ref(timed)
        selector.select = timed
        if loop.is_running():
            turns.start()

    def started(self) -> None:
        """Called when the loop starts to run."""
        self._turns.start()

    def stopped(self) -> None:
        """Called when the loop stops; the time until it starts is neither active nor idle."""
        self._turns.stop()

    def observe(self) -> None:
        """Do nothing: the page always shows whether the loop is in its selector."""

    def remove(self) -> None:
        """Stop timing, and restore ``select`` unless something else has replaced it since."""
        self._turns.retire()
        selector, timed = self._selector(), self._timed()
        if selector is None or timed is None or vars(selector).get("select") is not timed:
            return
        if self._had_own:
            selector.select = timed.__wrapped__
        else:
            del selector.select


def time_iterations(loop: Any, turns: Callable[[], Turns]) -> SelectorTiming | None:
    """Time the iterations of ``loop``. ``None`` if it has no selector to hook."""
    selector = getattr(loop, "_selector", None) if isinstance(loop, asyncio.BaseEventLoop) else None
    if not hasattr(selector, "__dict__") or not hasattr(selector, "select"):
        return None
    return SelectorTiming(loop, turns())


class RunningLoopHook:
    """Replaces the function that asyncio's loops call when they start or stop running in a thread.

    ``started(loop)`` and ``stopped(loop)`` are called for each loop, before the function itself:
    asyncio is not prepared for exceptions there, so nothing of ours may run between what the
    function does and its return. They must not raise, and may be called again for the same event.
    """

    def __init__(
        self,
        started: Notify,
        stopped: Notify,
        telling: Callable[[Notify, Notify], Notify],
    ) -> None:
        self._started = started
        self._stopped = stopped
        self._pid = getpid()
        self._original = events._set_running_loop
        self._wrapper = telling(self._tell, self._original)

    def _tell(self, loop: Any) -> None:
        before = events._get_running_loop()
        if getpid() != self._pid:
            # In a forked child asyncio says that the parent's loop does not run there. The parent's
            # page must not show that.
            return
        if before is not None and before is not loop:
            self._stopped(before)
        if loop is not None and loop is not before:
            self._started(loop)

    def install(self) -> None:
        """Replace the function."""
        events._set_running_loop = self._wrapper

    def remove(self) -> None:
        """Restore the function. Does nothing if something else has replaced ours since."""
        if events._set_running_loop is self._wrapper:
            events._set_running_loop = self._original
