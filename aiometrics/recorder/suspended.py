"""Tasks that are suspended now, by yield point, in the order in which they began to wait."""

from __future__ import annotations

from collections import OrderedDict

from aiometrics.pages.layout import YIELD_POINT
from aiometrics.pages.page import Page


class SuspendedTasks:
    """Shows in the page how many tasks are suspended at each point, and since when the oldest is. Keeps none of them alive."""

    def __init__(self, page: Page) -> None:
        self._page = page
        #: When each task began to wait, by its identity, oldest first.
        self._since: dict[int, OrderedDict[int, int]] = {}

    def add(self, point: int, task: int, now: int) -> None:
        """The task of that identity is suspended."""
        waiting = self._since.setdefault(point, OrderedDict())
        waiting[task] = now
        self._show(point, waiting)

    def remove(self, point: int, task: int) -> None:
        """It is not any more."""
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
        except (
            RuntimeError
        ):  # garbage collection came between, and a task with it that was waiting here
            continue
