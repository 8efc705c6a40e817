"""Long work of a thread in short pieces, between which the loops of the process may run."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

#: Called now and then during work that is long.
Pause = Callable[[], None]
T = TypeVar("T")

#: Records that are decoded or added up in one piece: about 0.1 ms of work.
_PIECE = 4
_MOMENT_SECONDS = 50e-6
#: Lateness that is let pass in a pause, and that is borne in all within a window.
_PROMPT_SECONDS, _PATIENCE_SECONDS, _WINDOW_SECONDS = 1e-3, 1.0, 10.0


def no_pause() -> None:
    """For those who may not wait, such as a loop itself."""


class CooperativeYield:
    """Lets another thread of the process run, each time it is called, as long as that is a matter of a moment.

    Where no processor is free, or a loop that never rests takes the interpreter again before anybody else wakes up, each pause is long, and
    a scrape has hundreds of them: it would not be answered when it is needed most. So after a second of lateness within ten there are no
    pauses until these are over.
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
        """Sleep long enough for a thread that waits to wake up and take the interpreter; ``sleep(0)`` is what the platform makes of it."""
        began = self._clock()
        if began - self._renewed_at >= _WINDOW_SECONDS:
            self._patience, self._renewed_at = _PATIENCE_SECONDS, began
        if self._patience <= 0:
            return
        self._sleep(_MOMENT_SECONDS)
        self._patience -= max(0.0, self._clock() - began - _PROMPT_SECONDS)


#: Of this process, whichever threads work.
give_way = CooperativeYield()


def in_slices(items: Iterable[T], pause: Pause) -> Iterator[T]:
    """The items, with a pause after every few."""
    for number, item in enumerate(items, 1):
        yield item
        if number % _PIECE == 0:
            pause()
