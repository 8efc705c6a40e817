"""Snapshots of all pages, and the refresh that brings the pages up to date."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from aiometrics.base.clock import Clock
from aiometrics.base.internal_errors import InternalErrors
from aiometrics.base.work_queue import WorkQueue
from aiometrics.base.yielding import Pause, no_pause
from aiometrics.instrumentation.process_stats import ProcessStats
from aiometrics.instrumentation.slots import SlotPool
from aiometrics.instrumentation.traced_loops import TracedLoops
from aiometrics.instrumentation.untraced import untraced_tasks
from aiometrics.pages.merge import merged
from aiometrics.pages.records import Records
from aiometrics.pages.snapshot import Snapshot
from aiometrics.requests.binding import BINDINGS

UNTRACED_PROBE, LOOPS_PROBE = "untraced", "loops"


class Snapshots:
    """Takes snapshots.

    ``follows`` tells of the coroutine of a task whether it is traced; ``weight`` is the inverse of
    the sample ratio.
    """

    def __init__(
        self,
        loops: TracedLoops,
        slot_pool: SlotPool,
        work_queue: WorkQueue,
        internal_errors: InternalErrors,
        *,
        follows: Callable[[Any], bool],
        weight: int,
        clock: Clock,
        unix_clock: Clock,
    ) -> None:
        self._loops = loops
        self._slot_pool = slot_pool
        self._work_queue = work_queue
        self._internal_errors = internal_errors
        self._follows = follows
        self._weight = weight
        self._clock = clock
        self._unix_clock = unix_clock
        self._process_stats = self._new_process_stats()

    def take(self, pause: Pause = no_pause, records: Records | None = None) -> Snapshot:
        """All numbers now; with a shared directory, those of all its processes.

        ``pause`` is called now and then. What :class:`Records` can keep is there, if they are given
        and filled.
        """
        self.refresh(pause)
        pause()
        now_ns, unix_ns = self._clock(), self._unix_clock()
        pages, skipped = self._slot_pool.views(now_ns, unix_ns, pause, records)
        pause()
        if records is not None and records.declined:
            pages, skipped = self._slot_pool.views(now_ns, unix_ns, pause)
        return merged(
            pages,
            taken_ns=unix_ns,
            errors=self._process_stats.errors(),
            untraced_tasks=self._process_stats.untraced_tasks,
            sample_ratio=1 / self._weight,
            skipped_pages=skipped,
            pause=pause,
        )

    def refresh(self, pause: Pause = no_pause) -> None:
        """Write into the pages what is not written there as it happens.

        An error in one part, of an odd loop or task, costs only that part.
        """
        contained, untraced = self._internal_errors.contained, 0
        with contained(UNTRACED_PROBE):
            untraced = untraced_tasks(self._follows, self._loops.alive())
        pause()
        with self._loops.lock:
            with contained(LOOPS_PROBE):
                self._loops.sweep()
            slots = self._slot_pool.all()
            for slot in slots:
                with contained(LOOPS_PROBE):
                    slot.observe()
                    slot.page.mark_turn_observed(self._clock())
                    slot.loop_stats.refresh()
                    slot.objectives.count_overdue(self._clock())
            self._process_stats.write(slots, untraced)

    def forget(self) -> None:
        """In a forked child, count from 0: what was counted before is the parent's."""
        self._process_stats = self._new_process_stats()

    def _new_process_stats(self) -> ProcessStats:
        return ProcessStats(
            self._internal_errors, lambda: BINDINGS.outside_loop, self._work_queue.counts
        )
