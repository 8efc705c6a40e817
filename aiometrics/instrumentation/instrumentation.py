"""The instrumentation of a process: traces loops, and takes snapshots of what was measured."""

from __future__ import annotations

import threading
import time
import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from aiometrics.base import fork
from aiometrics.base.clock import Clock, monotonic
from aiometrics.base.internal_errors import InternalErrors
from aiometrics.base.options import RecordingOptions
from aiometrics.base.work_queue import WorkQueue
from aiometrics.base.yielding import Pause, no_pause
from aiometrics.instrumentation.hooks import libuv
from aiometrics.instrumentation.hooks.selector import time_iterations
from aiometrics.instrumentation.hooks.timing import LoopTiming
from aiometrics.instrumentation.installed_hooks import InstalledHooks
from aiometrics.instrumentation.loop_internals import is_uvloop, ready_handles
from aiometrics.instrumentation.slots import Slot, SlotPool
from aiometrics.instrumentation.snapshots import Snapshots
from aiometrics.instrumentation.traced_loops import KnownLoop, TracedLoops
from aiometrics.pages.exemplar_table import SEGMENT
from aiometrics.pages.header import PageFormat
from aiometrics.pages.layout import RECORD_KINDS, YIELD_POINT, from_seconds
from aiometrics.pages.multiprocess.directory import SharedDirectory
from aiometrics.pages.records import Records
from aiometrics.pages.snapshot import Snapshot
from aiometrics.recorder.implementation import DEFAULT_IMPLEMENTATION, Implementation
from aiometrics.recorder.places import Places
from aiometrics.recorder.recorder import random_seed
from aiometrics.requests.binding import LoopBinding
from aiometrics.requests.exemplars import Exemplars
from aiometrics.requests.finished import Observers
from aiometrics.requests.request import request_class
from aiometrics.requests.slow_log import SlowRequestLog

if TYPE_CHECKING:
    from aiometrics.instrumentation.live_tasks import LiveTasks


class Instrumentation:
    """Traces the tasks of chosen loops, or of every loop of the process, until :meth:`remove`.

    ``clock`` times everything and ``unix_clock`` turns its readings into times of day; both return
    ns. With a shared ``directory``, which must have been prepared, the pages are there, unless they
    are ``private``. ``seed`` returns where the recorder of a loop begins to draw its sample of
    tasks.
    """

    def __init__(
        self,
        options: RecordingOptions,
        *,
        clock: Clock = monotonic,
        unix_clock: Clock = time.time_ns,
        internal_errors: InternalErrors | None = None,
        implementation: Implementation = DEFAULT_IMPLEMENTATION,
        directory: SharedDirectory | None = None,
        private: bool = False,
        seed: Callable[[], int] = random_seed,
    ) -> None:
        self.options = options
        self.internal_errors = InternalErrors() if internal_errors is None else internal_errors
        self._implementation = implementation
        self.stack_of_thread = implementation.stack_of_thread
        #: Knows which loops to sample; somebody must run it.
        self.sampler = self._new_sampler()
        self.clock = clock
        self._unix_clock = unix_clock
        self._seed = seed
        self.places = Places(
            options.application,
            options.library,
            include=options.include,
            exclude=options.exclude,
            patient=options.patient,
        )
        self._slot_pool = SlotPool(
            _page_format(options),
            options.max_loops,
            places=self.places,
            objectives=options.objectives,
            internal_errors=self.internal_errors,
            directory=directory,
            guard=implementation.guard,
            copying=implementation.copying,
            private=private,
        )
        #: Writes the records of single requests: lines of the slow log, and traces.
        self.work_queue = WorkQueue(RECORD_KINDS, self.internal_errors)
        self._exemplars = Exemplars(unix_clock, self.internal_errors)
        slow_ns = options.slow_request_ns or options.blocking_threshold_ns
        #: Called with requests that are over.
        self.request_observers = Observers(slow_ns, self.internal_errors)
        self.request_observers.slow += [
            self._exemplars.keep_for_wall_time,
            SlowRequestLog(self.work_queue, options.slow_request_ns),
        ]
        #: Called when a loop is about to be traced.
        self.on_loop: Callable[[], None] = _do_nothing
        self._loops = TracedLoops(
            self._slot_pool, self.internal_errors, self._attach, implementation.deferring
        )
        self._hooks = InstalledHooks(self._loops, implementation, clock, self.internal_errors)
        self._snapshots = Snapshots(
            self._loops,
            self._slot_pool,
            self.work_queue,
            self.internal_errors,
            follows=implementation.follows,
            weight=options.weight,
            clock=clock,
            unix_clock=unix_clock,
        )
        self._implementation = implementation
        self._unix_clock = unix_clock
        fork.forget_in_child(self, fork.Stage.RECORDING, Instrumentation._stop_in_child)

    @property
    def live_tasks(self) -> LiveTasks:
        """The lister of live tasks."""
        with fork.creation_lock:  # so that no child inherits a module that is half imported
            from aiometrics.instrumentation.live_tasks import LiveTasks  # noqa: PLC0415 - few ask

        return LiveTasks(
            self._loops, self.places, self._implementation, self.clock, self._unix_clock
        )

    def instrument_every_loop(self) -> None:
        """Trace the tasks that any loop creates from now on."""
        with self._loops.lock:
            self._loops.choose_every_loop()
            self._hooks.install()

    def instrument(self, loop: Any) -> None:
        """Trace the tasks that ``loop`` creates from now on."""
        with self._loops.lock:
            self._loops.choose(loop)
            self._hooks.install()
            self._hooks.cover(type(loop))

    def uninstrument(self, loop: Any) -> None:
        """Stop tracing ``loop``; its tasks run on untimed.

        Does nothing if the loop is not traced.
        """
        self._loops.drop(loop)

    @property
    def shares_pages(self) -> bool:
        """Whether other processes read the pages of this one."""
        return self._slot_pool.shared

    def share_pages(self) -> None:
        """Let the pages of all loops from now on be in the shared directory."""
        self._slot_pool.private = False

    @property
    def idle(self) -> bool:
        """Whether no loop is chosen."""
        return self._loops.idle

    def remove(self) -> None:
        """Restore everything that was patched. Traced tasks run on untimed."""
        with self._loops.lock:
            self._hooks.remove()
            self._loops.drop_all()
            self._slot_pool.release_all()
        self.work_queue.stop()

    def _stop_in_child(self) -> None:
        """In a forked child, do as :meth:`remove`, and count from 0."""
        self._loops.forget()
        self._hooks.remove()
        self._snapshots.forget()
        self.sampler = self._new_sampler()

    def snapshot(self, pause: Pause = no_pause, records: Records | None = None) -> Snapshot:
        """All numbers now; with a shared directory, those of all its processes.

        ``pause`` is called now and then. What :class:`Records` can keep is there, if they are given
        and filled.
        """
        return self._snapshots.take(pause, records)

    def refresh(self) -> None:
        """Write into the pages what is not written there as it happens."""
        self._snapshots.refresh()

    def maintain(self) -> None:
        """Refresh the pages, replace damaged ones, and log it if they were deleted.

        To be called every second where pages are shared.
        """
        self._implementation.renew_guard()
        for slot in self._slot_pool.damaged():
            self._loops.restart(slot)
        self.refresh()
        self._slot_pool.warn_if_deleted()

    def slots(self) -> list[Slot]:
        """Every slot that a loop has ever used."""
        return self._slot_pool.all()

    def _attach(self, known: KnownLoop, loop: Any) -> None:
        """Give a loop that is to be traced the objects that measure it, if it gets a slot."""
        self._hooks.cover(type(loop))
        known.slot = slot = self._slot_pool.claim(threading.current_thread().name)
        self.on_loop()
        if slot is None:
            return
        slot.loop_stats.attach(known.loop)
        known.recorder = self._recorder(loop, slot)
        self.sampler.watch(known.recorder, slot.held)
        known.timing = self._timing(loop, slot, known.recorder)
        if known.timing is not None:
            slot.observe = known.timing.observe
        known.binding = self._binding(known.recorder, slot)

    def _new_sampler(self) -> Any:
        return self._implementation.sampler(threading.main_thread().ident)

    def _recorder(self, loop: Any, slot: Slot) -> Any:
        blocked = _inflicted_wait(weakref.ref(loop), slot, self._exemplars)
        return self._implementation.recorder(
            slot.page,
            slot.labels,
            self.internal_errors,
            clock=self.clock,
            blocked=blocked,
            seed=self._seed(),
        )

    def _timing(self, loop: Any, slot: Slot, recorder: Any) -> LoopTiming | None:
        def turns() -> Any:
            return self._implementation.turns(slot.page, self.clock, self.internal_errors)

        if is_uvloop(loop):
            core = self._implementation.core
            return libuv.time_turns(loop, core, turns, recorder, slot.labels)
        return time_iterations(loop, turns)

    def _binding(self, recorder: Any, slot: Slot) -> LoopBinding:
        return LoopBinding(
            recorder,
            slot.labels,
            slot.objectives,
            request_class(self._implementation),
            self.clock,
            self._unix_clock,
            self.internal_errors,
            self.request_observers,
            self.work_queue,
            slot.exemplars,
            self.options.request_id,
        )


def _do_nothing() -> None:
    """Default of :attr:`Instrumentation.on_loop`."""


def _page_format(options: RecordingOptions) -> PageFormat:
    layout = from_seconds(
        options.segment_buckets,
        options.wait_buckets,
        options.max_coroutines,
        options.max_yield_points,
        options.max_requests,
        native=options.native_histograms,
    )
    return PageFormat(layout, options.blocking_threshold_ns, options.weight)


def _inflicted_wait(
    loop: Callable[[], Any], slot: Slot, exemplars: Exemplars
) -> Callable[[int, int], None]:
    """Return a callback that counts the wait that a blocking segment inflicts on others.

    That is the time of the segment once for each handle that was ready behind it, where the loop
    shows them. The callback runs in the context of the segment's task: if a request or a trace is
    known there, the segment becomes the exemplar of its yield point.
    """
    page = slot.page

    def blocked(record: int, segment_ns: int) -> None:
        slot.loop_stats.note_thread()
        ready = ready_handles(loop()) or 0
        page.words[page.layout.yield_point(record) + YIELD_POINT["inflicted_wait_ns"]] += (
            segment_ns * ready
        )
        exemplar = exemplars.of_segment(segment_ns)
        if exemplar is not None:
            slot.exemplars.put(SEGMENT, record, exemplar)

    return blocked
