"""Tells which suspensions are stuck, in the words of the alert ``AsyncioAwaitStuck``.

The live page and ``top`` judge as the alert does, but look from the first seconds on: it waits for
five minutes before it wakes somebody.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cached_property

from aiometrics.base.clock import SECOND_NS
from aiometrics.exposition.idle_waits import waits_for_work
from aiometrics.pages.snapshot import Snapshot, YieldPoint

#: A suspension that is younger is never stuck.
MIN_AGE_NS = 5 * SECOND_NS
#: It has lasted for so many times the mean and the longest of the waits that ended there.
TIMES_MEAN, TIMES_LONGEST = 20, 2
#: So many waits have ended there, of so many traced tasks, and so many of the coroutine have ended.
#: Fewer waits may all be of one task; a server such as aiohttp has one coroutine for all handlers.
ENDED_WAITS, ENDED_TASKS = 100, 100
#: What other tasks have to give back is stuck however few tasks have waited there.
_HELD_BY_OTHERS = ".acquire"
#: A timer ends these, however long they last.
_SLEEPS = ("asyncio.sleep", "anyio.sleep")


class Judge:
    """Judges the oldest suspensions of a snapshot by the waits and tasks in it."""

    def __init__(self, snapshot: Snapshot, of_library: Callable[[str], bool]) -> None:
        self._snapshot = snapshot
        self._of_library = of_library

    def is_unusual(self, point: YieldPoint) -> bool:
        """Return whether a task waits far longer there than others did; they may be few."""
        since_ns, waits = point.oldest_suspension_ns, point.waits
        if not since_ns or not waits.count or point.awaits.startswith(_SLEEPS):
            return False
        if waits_for_work(point, self._of_library):
            return False
        age_ns = self._snapshot.taken_ns - since_ns
        usual_ns = max(TIMES_MEAN * waits.mean_ns, TIMES_LONGEST * point.wait_max_ns)
        return age_ns >= MIN_AGE_NS and age_ns > usual_ns

    def is_stuck(self, point: YieldPoint) -> bool:
        """Return whether the alert would say so, once the task has waited for five minutes."""
        return (
            self.is_unusual(point)
            and point.waits.count >= ENDED_WAITS
            and (
                point.awaits.endswith(_HELD_BY_OTHERS)
                or min(
                    point.wait_tasks * self._snapshot.sample_ratio,
                    self._ended.get(point.coroutine, 0),
                )
                >= ENDED_TASKS
            )
        )

    @cached_property
    def _ended(self) -> Mapping[str, int]:
        coroutines = self._snapshot.coroutines
        return {one.coroutine: sum(w.count for w in one.wall.values()) for one in coroutines}
