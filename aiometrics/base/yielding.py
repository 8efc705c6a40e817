"""Splits long work into short slices, between which the event loops of the process can run."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

#: Called now and then during long work.
Pause = Callable[[], None]
T = TypeVar("T")

#: Records that are decoded or added up in one slice: about 0.1 ms of work.
_SLICE = 4
_MOMENT_SECONDS = 50e-6
#: Lateness of a pause that is not counted, the total that is tolerated in a window, and its length.
_PROMPT_SECONDS, _PATIENCE_SECONDS, _WINDOW_SECONDS = 1e-3, 1.0, 10.0


def no_pause() -> None:
    """Do nothing: the pause for callers that must not wait, such as an event loop."""


class CooperativeYield:
    """Lets another thread run each time it is called, unless that has cost too much time lately.

    Where no processor is free, or a busy loop takes the GIL again before this thread wakes up, each
    pause is long. A scrape has hundreds of them, and would not be answered when it is needed most.
    So after a second of lateness within ten seconds, there are no more pauses until these ten
    seconds are over.
    """

    def __init__(
        self,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], object] = time.sleep,
    ) -> None:
        self._clock = clock
        self._sleep = sleep
        self._patience = 0.0
        self._renewed_at = -math.inf

    def __call__(self) -> None:
        """Sleep long enough for a waiting thread to take the GIL.

        Not ``sleep(0)``, because its effect depends on the platform.
        """
        began = self._clock()
        if began - self._renewed_at >= _WINDOW_SECONDS:
            self._patience, self._renewed_at = _PATIENCE_SECONDS, began
        if self._patience <= 0:
            return
        self._sleep(_MOMENT_SECONDS)
        self._patience -= max(0.0, self._clock() - began - _PROMPT_SECONDS)


def in_slices(items: Iterable[T], pause: Pause) -> Iterator[T]:
    """Yield the items, with a pause after every few."""
    for number, item in enumerate(items, 1):
        yield item
        if number % _SLICE == 0:
            pause()
