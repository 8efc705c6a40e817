"""Splits long work into short slices, between which the event loops of the process can run."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

#: Called now and then during long work.
Pause = Callable[[], None]
T = TypeVar("T")

#: How long a slice is at least, and for how long the thread sleeps after it.
_SLICE_SECONDS, _MOMENT_SECONDS = 75e-6, 50e-6
#: Lateness of a pause that is not counted, the total that is tolerated, and for how long.
_PROMPT_SECONDS, _PATIENCE_SECONDS, _WINDOW_SECONDS = 1e-3, 0.12, 10.0


def no_pause() -> None:
    """Do nothing: the pause for callers that must not wait, such as an event loop."""


class CooperativeYield:
    """Lets another thread run when it is called, unless it did so just now or lost much time by it.

    What takes less than a slice between two calls costs no pause, so it can be called often.

    Where no processor is free, or a busy loop takes the GIL again before this thread wakes up, each
    pause is long. A scrape has dozens of them, and would not be answered when it is needed most. So
    after 0.12 s of lateness there are no more pauses, until :meth:`renew` is called, as each answer
    does at its beginning, or ten seconds are over.
    """

    def __init__(
        self,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], object] = time.sleep,
    ) -> None:
        self._clock = clock
        self._sleep = sleep
        self._patience = 0.0
        self._renewed_at = self._paused_at = -math.inf

    def __call__(self) -> None:
        """Sleep long enough for a waiting thread to take the GIL.

        Not ``sleep(0)``, because its effect depends on the platform.
        """
        began = self._clock()
        if 0 <= began - self._paused_at < _SLICE_SECONDS:
            return
        if began - self._renewed_at >= _WINDOW_SECONDS:
            self.renew()
        if self._patience <= 0:
            return
        self._sleep(_MOMENT_SECONDS)
        self._paused_at = self._clock()
        self._patience -= max(0.0, self._paused_at - began - _PROMPT_SECONDS)

    def renew(self) -> None:
        """Tolerate lateness anew."""
        self._patience, self._renewed_at = _PATIENCE_SECONDS, self._clock()


def in_slices(items: Iterable[T], pause: Pause) -> Iterator[T]:
    """Yield the items, with a pause after each, which is for the pause to leave out."""
    for item in items:
        yield item
        pause()
