"""Tells which suspensions are stuck, in the words of the alert ``AsyncioAwaitStuck``.

The live page and ``top`` judge as the alert does, but look from the first seconds on: it waits for
five minutes before it wakes somebody. They also see more: which tasks have been at the place. The
metrics say only how many tasks of the coroutine have ended, and a server such as aiohttp has one
coroutine for all of its handlers.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property

from aiometrics.base.clock import SECOND_NS
from aiometrics.exposition.idle_waits import waits_for_work
from aiometrics.pages.snapshot import OTHER, SegmentPath, Snapshot, YieldPoint

#: A suspension that is younger is never stuck.
MIN_AGE_NS = 5 * SECOND_NS
#: It has lasted for so many times the mean and the longest of the waits that ended there.
TIMES_MEAN, TIMES_LONGEST = 20, 2
#: So many waits have ended there, and so many tasks have been there: fewer may all be of one task.
ENDED_WAITS, ENDED_TASKS = 100, 100
#: What other tasks have to give back is stuck however few tasks have been there.
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
                point.awaits.endswith(_HELD_BY_OTHERS) or self._tasks_gone_on(point) >= ENDED_TASKS
            )
        )

    def _tasks_gone_on(self, point: YieldPoint) -> int:
        """Return how many tasks have been there; those of the coroutine if no more is known."""
        ended, paths = self._ended.get(point.coroutine, 0), self._paths
        if OTHER in paths or point.coroutine not in paths:
            return ended
        return min(ended, leaving(point.yield_point, paths[point.coroutine]))

    @cached_property
    def _ended(self) -> Mapping[str, int]:
        coroutines = self._snapshot.coroutines
        return {one.coroutine: sum(w.count for w in one.wall.values()) for one in coroutines}

    @cached_property
    def _paths(self) -> Mapping[str, list[SegmentPath]]:
        found = defaultdict[str, list[SegmentPath]](list)
        for path in self._snapshot.segment_paths:
            found[path.coroutine].append(path)
        return found


def leaving(place: str, paths: Sequence[SegmentPath]) -> int:
    """Return how many tasks have been at ``place`` and left it for good.

    A task may come back as long as it is at a place from which a path leads there. It is counted
    when it leaves those, which it does once.
    """
    after, before = defaultdict[str, set[str]](set), defaultdict[str, set[str]](set)
    for path in paths:
        after[path.began_at].add(path.ended_at)
        before[path.ended_at].add(path.began_at)
    around = _reached(place, after) & _reached(place, before)
    return sum(
        path.segments for path in paths if path.began_at in around and path.ended_at not in around
    )


def _reached(place: str, steps: Mapping[str, set[str]]) -> set[str]:
    """Return ``place`` and what is reached from there."""
    found, new = {place}, [place]
    while new:
        more = steps.get(new.pop(), set()) - found
        found |= more
        new += more
    return found
