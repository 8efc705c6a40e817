"""The tasks that are suspended now, by yield point; the C core keeps them in ``recorder.c``."""

from __future__ import annotations

from collections import OrderedDict

from aiometrics.pages.layout import YIELD_POINT
from aiometrics.pages.page import Page


class SuspendedTasks:
    """Writes how many tasks are suspended at each yield point, and since when the oldest is.

    Tasks are known by their identity, so that none is kept alive.
    """

    def __init__(self, page: Page) -> None:
        self._page = page
        #: By yield point: when each task was suspended, oldest first.
        self._since: dict[int, OrderedDict[int, int]] = {}

    def add(self, point: int, task: int, now: int) -> None:
        """Add a task that was suspended at ``point`` at the time ``now``."""
        waiting = self._since.setdefault(point, OrderedDict())
        waiting[task] = now
        self._show(point, waiting)

    def remove(self, point: int, task: int) -> None:
        """Remove a task that was resumed, or is garbage."""
        waiting = self._since[point]
        del waiting[task]
        self._show(point, waiting)

    def _show(self, point: int, waiting: OrderedDict[int, int]) -> None:
        base = self._page.layout.yield_point(point)
        self._page.words[base + YIELD_POINT["suspended"]] = len(waiting)
        self._page.words[base + YIELD_POINT["oldest_ns"]] = _oldest(waiting)


def _oldest(waiting: OrderedDict[int, int]) -> int:
    while True:
        try:
            return next(iter(waiting.values()), 0)
        except RuntimeError:
            # A garbage collection removed a task that was suspended here: the dictionary changed.
            continue
