"""Long work of a thread in short pieces, between which the loops of the process may run."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

#: Called now and then during work that is long.
Pause = Callable[[], None]
T = TypeVar("T")

#: Records that are decoded or added up in one piece: about 0.1 ms of work.
_PIECE = 4


def no_pause() -> None:
    """For those who may not wait, such as a loop itself."""


def give_way() -> None:
    """Let another thread of the process run: sleep long enough for one that waits to wake up and take the interpreter.

    How long ``time.sleep(0)`` takes is up to the platform.
    """
    time.sleep(50e-6)


def paced(items: Iterable[T], pause: Pause) -> Iterator[T]:
    """The items, with a pause after every few."""
    for number, item in enumerate(items, 1):
        yield item
        if number % _PIECE == 0:
            pause()
