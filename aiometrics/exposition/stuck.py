"""Tells which suspensions are stuck, in the words of the alert ``AsyncioAwaitStuck``.

The live page and ``top`` judge as the alert does, but look from the first seconds on: it waits for
five minutes before it wakes somebody.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from aiometrics.base.clock import SECOND_NS
from aiometrics.exposition.idle_waits import waits_for_work
from aiometrics.pages.snapshot import Coroutine, YieldPoint

#: A suspension that is younger is never stuck.
MIN_AGE_NS = 5 * SECOND_NS
#: It has lasted for so many times the mean and the longest of the waits that ended there.
TIMES_MEAN, TIMES_LONGEST = 20, 2
#: So many waits have ended there, and so many tasks of the coroutine: fewer may all be of one task.
ENDED_WAITS, ENDED_TASKS = 100, 100
#: What other tasks have to give back is stuck however few tasks have ended.
_HELD_BY_OTHERS = ".acquire"


class Judge:
    """Judges the oldest suspensions of a snapshot, taken at ``now_ns``, by its ``coroutines``."""

    def __init__(
        self, now_ns: int, coroutines: Iterable[Coroutine], of_library: Callable[[str], bool]
    ) -> None:
        self._now_ns = now_ns
        self._ended = {one.coroutine: sum(w.count for w in one.wall.values()) for one in coroutines}
        self._of_library = of_library

    def is_unusual(self, point: YieldPoint) -> bool:
        """Return whether a task waits far longer there than others did; they may be few."""
        since_ns, waits = point.oldest_suspension_ns, point.waits
        if not since_ns or not waits.count or waits_for_work(point, self._of_library):
            return False
        age_ns = self._now_ns - since_ns
        usual_ns = max(TIMES_MEAN * waits.mean_ns, TIMES_LONGEST * point.wait_max_ns)
        return age_ns >= MIN_AGE_NS and age_ns > usual_ns

    def is_stuck(self, point: YieldPoint) -> bool:
        """Return whether the alert would say so, once the task has waited for five minutes."""
        return (
            self.is_unusual(point)
            and point.waits.count >= ENDED_WAITS
            and (
                point.awaits.endswith(_HELD_BY_OTHERS)
                or self._ended.get(point.coroutine, 0) >= ENDED_TASKS
            )
        )
