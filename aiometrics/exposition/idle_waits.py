"""Tells where tasks wait because there is nothing to do."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from aiometrics.pages.snapshot import PATIENT

#: What workers await until there is something to do.
_QUEUES = frozenset({"asyncio.LifoQueue.get", "asyncio.PriorityQueue.get", "asyncio.Queue.get"})


class Place(Protocol):
    """A yield point, and what is awaited there."""

    @property
    def yield_point(self) -> str:
        """The name of the yield point."""

    @property
    def awaits(self) -> str:
        """The callee that is awaited."""


def of_no_library(_yield_point: str) -> bool:
    """Return False: where the files of libraries are is not known."""
    return False


def waits_for_work(place: Place, of_library: Callable[[str], bool]) -> bool:
    """Return whether tasks wait there because there is nothing to do."""
    return (
        place.awaits in _QUEUES or place.awaits.endswith(PATIENT) or of_library(place.yield_point)
    )
