"""The sampler in Python: the twin of ``csrc/sampler.c``, its specification and its fallback.

It finds out which lines take the active time of loops. At random moments it looks which loops are
active, and notes for each the line that holds it. The C one lets a loop's thread note that itself,
at its next instruction that may be interrupted. This one must wait for the GIL, which takes 5 ms
where the loop computes; of a segment that has ended by then it knows only where it ended.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from aiometrics.base.unpatched import Flag, monotonic_ns
from aiometrics.pages.layout import LOOP, NO_COROUTINE
from aiometrics.pages.page import Page
from aiometrics.recorder.held import LATER, HeldPlaces
from aiometrics.recorder.stack import stack_of_thread

#: In mean pauses: the longest pause, and where the turns of a loop are not known, the most that one
#: sample can stand for unless one segment lasted all the time.
MAX_PAUSES = 5
#: Not the one of the module, whose numbers a program may have chosen by a seed.
_RANDOM = random.SystemRandom()


@dataclass(slots=True)
class _Target:
    """A loop's page, its recorder, and the time since the last sample that was noted."""

    page: Page
    places: HeldPlaces
    recorder: Any
    samples: int = 0
    owed_ns: int = 0
    #: The active time of the loop for which samples stand so far.
    sampled_ns: int = 0
    #: The segment in progress at the last look: when it began, 0 if none, and its coroutine.
    since_ns: int = 0
    record: int = NO_COROUTINE

    def word(self, name: str) -> int:
        return self.page.words[self.page.layout.loop + LOOP[name]]


class Sampler:
    """Samples the loops that it watches; all its methods may be called by any thread."""

    def __init__(self, main_thread: int) -> None:
        self._main_thread = main_thread
        self._targets: list[_Target] = []
        self._stopping = Flag()

    def watch(self, recorder: Any, places: HeldPlaces) -> None:
        """Sample the loop of ``recorder`` from now on, instead of an earlier one on its page."""
        page = recorder.page
        self._targets = [found for found in self._targets if found.page is not page]
        target = _Target(page, places, recorder)
        target.sampled_ns = target.word("active_ns")
        self._targets.append(target)

    def run(self, interval_ns: int) -> None:
        """Sample at random moments, ``interval_ns`` apart on average, until :meth:`stop`."""
        looked_ns = monotonic_ns()
        for target in self._targets:
            target.sampled_ns += _active_since_sample(target, looked_ns)
        while not self._stopping.wait(_pause_ns(interval_ns) / 1e9):
            now_ns = monotonic_ns()
            self._look(now_ns - looked_ns, now_ns, MAX_PAUSES * interval_ns)
            looked_ns = now_ns

    def stop(self) -> None:
        """Make :meth:`run` return."""
        self._stopping.set()

    def tick(self, elapsed_ns: int, now_ns: int = 0) -> None:
        """Take one sample of each active loop, which stands for ``elapsed_ns``.

        With ``now_ns`` it is taken as in :meth:`run`: where turns are known, it stands for the
        active time since the last sample.
        """
        self._look(elapsed_ns, now_ns, elapsed_ns)

    def _look(self, elapsed_ns: int, now_ns: int, most_ns: int) -> None:
        for target in self._targets:
            since_ns = target.word("segment_since_ns")
            if not since_ns and not target.word("turn_since_ns"):
                continue
            target.since_ns = since_ns
            target.record = target.word("segment_coroutine") if since_ns else NO_COROUTINE
            if now_ns and target.word("timed"):
                passed_ns = _active_since_sample(target, now_ns)
            else:
                lasted_ns = now_ns - since_ns if since_ns else 0
                passed_ns = min(elapsed_ns, max(most_ns, lasted_ns))
            target.sampled_ns += passed_ns
            target.owed_ns += passed_ns
            target.samples += 1
            _note(target)


def _active_since_sample(target: _Target, now_ns: int) -> int:
    """Return how long a loop was active since its last sample, for which the next one stands.

    So all samples add up to the active time, and each active moment is as likely to be counted as
    any other, however late the thread looks because the machine is busy.
    """
    since_ns = target.word("turn_since_ns")
    active_ns = target.word("active_ns") + (now_ns - since_ns if since_ns else 0)
    return max(active_ns - target.sampled_ns, 0)


def _note(target: _Target) -> None:
    number = _number(target)
    if number == LATER:
        return
    target.places.table.add(number, target.samples, target.owed_ns)
    target.samples = target.owed_ns = 0


def _number(target: _Target) -> int:
    recorder = target.recorder
    if target.since_ns == target.word("segment_since_ns"):
        stack = stack_of_thread(recorder._thread)  # noqa: SLF001 - the recorder is its twin's struct
        return target.places.stack(target.record, stack, target.word("collecting"))
    ended_since_ns, point = recorder._ended  # noqa: SLF001 - as above
    if target.since_ns and target.since_ns == ended_since_ns:
        return target.places.point(target.record, point)
    return target.places.unknown(target.record)


def _pause_ns(interval_ns: int, draw: Callable[[float], float] = _RANDOM.expovariate) -> float:
    return min(draw(1 / interval_ns), MAX_PAUSES * interval_ns)
