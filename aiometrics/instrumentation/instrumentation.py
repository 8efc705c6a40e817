"""Puts a recorder into every loop, and answers what their pages say."""

from __future__ import annotations

import threading
import time
import weakref
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from aiometrics.base.clock import Clock, monotonic
from aiometrics.base.internal_errors import OFF_FOR_LOOP, InternalErrors
from aiometrics.base.work_queue import WorkQueue
from aiometrics.base.yielding import Pause, no_pause
from aiometrics.instrumentation.hooks.exception_handler import ExceptionHandlerHook
from aiometrics.instrumentation.hooks.gc import GarbageCollectionHook
from aiometrics.instrumentation.hooks.handles import PROBE as CALLBACKS_PROBE
from aiometrics.instrumentation.hooks.handles import HandleHook
from aiometrics.instrumentation.hooks.selector import LoopTiming, RunningLoopHook, time_iterations
from aiometrics.instrumentation.hooks.tasks import CreateTaskHook, Hook, c_hooks, python_hooks
from aiometrics.instrumentation.loop_stats import LoopStats
from aiometrics.instrumentation.process_stats import ProcessStats
from aiometrics.instrumentation.slots import Slot, SlotPool
from aiometrics.instrumentation.untraced import untraced_tasks
from aiometrics.options import RecordingOptions
from aiometrics.pages.exemplar_table import SEGMENT
from aiometrics.pages.header import PageFormat
from aiometrics.pages.layout import RECORD_KINDS, YIELD_POINT, from_seconds
from aiometrics.pages.merge import merged
from aiometrics.pages.multiprocess.directory import SharedDirectory
from aiometrics.pages.snapshot import Snapshot
from aiometrics.recorder.implementation import DEFAULT_IMPLEMENTATION, Implementation
from aiometrics.recorder.places import Places
from aiometrics.requests.binding import BINDINGS, LoopBinding
from aiometrics.requests.exemplars import Exemplars
from aiometrics.requests.finished import Observers
from aiometrics.requests.request import request_class
from aiometrics.requests.slow_log import SlowRequestLog

PROBE = "instrumentation"


@dataclass(slots=True, eq=False)
class _TracedLoop:
    """A loop that was seen: its recorder and page, or neither if it is not to be, or cannot be, instrumented."""

    loop: Callable[[], Any]
    recorder: Any
    slot: Slot | None
    timing: LoopTiming | None = None
    binding: LoopBinding | None = None


class Instrumentation:
    """Traces the tasks of chosen loops, or of every loop of the process, while it is installed.

    ``clock`` times everything and ``unix_clock`` turns its readings into times of day; both are ns. With a ``shelf``, which must have been
    prepared, pages are shared there.
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
    ) -> None:
        self.options = options
        self.internal_errors = InternalErrors() if internal_errors is None else internal_errors
        self._implementation = implementation
        self.clock = clock
        self._unix_clock = unix_clock
        self.places = Places(options.application, options.library)
        self._slot_pool = SlotPool(
            _page_format(options),
            options.max_loops,
            places=self.places,
            objectives=options.objectives,
            internal_errors=self.internal_errors,
            directory=directory,
        )
        #: Writes records of single requests.
        self.work_queue = WorkQueue(RECORD_KINDS, self.internal_errors)
        self._process_stats = self._new_process_stats()
        self._exemplars = Exemplars(unix_clock, self.internal_errors)
        slow_ns = options.slow_request_ns or options.blocking_threshold_ns
        #: Whom to tell of requests that are over.
        self.request_observers = Observers(slow_ns, self.internal_errors)
        self.request_observers.slow += [
            self._exemplars.keep_for_wall_time,
            SlowRequestLog(self.work_queue, options.slow_request_ns),
        ]
        #: Called with each loop that is about to be traced.
        self.on_loop: Callable[[], None] = _nothing
        #: Garbage collection may take one out at any moment: what goes through them goes through a copy.
        self._traced_loops: dict[int, _TracedLoop] = {}
        self._gone_loops: deque[_TracedLoop] = deque()
        self._chosen: weakref.WeakSet[Any] = weakref.WeakSet()
        self._every_loop = False
        self._hooks: list[Hook] = []
        self._handlers = ExceptionHandlerHook(self._count_unhandled_exception)
        self._lock = threading.RLock()

    def instrument_every_loop(self) -> None:
        """Trace the tasks that any loop creates from now on."""
        with self._lock:
            self._every_loop = True
            self._forget_refusals()
            self._install()

    def instrument(self, loop: Any) -> None:
        """Trace the tasks that ``loop`` creates from now on."""
        with self._lock:
            self._chosen.add(loop)
            self._forget_refusals()
            self._install()
            self._cover(type(loop))

    def uninstrument(self, loop: Any) -> None:
        """Stop tracing ``loop``; its tasks run on untimed. Without effect on a loop that is not traced."""
        with self._lock:
            self._chosen.discard(loop)
            traced_loop = self._traced_loops.get(id(loop))
            if traced_loop is not None:
                self._evict(traced_loop)
                self._traced_loops[id(loop)] = _TracedLoop(traced_loop.loop, None, None)

    @property
    def idle(self) -> bool:
        """Whether no loop is chosen."""
        return not self._every_loop and not len(self._chosen)

    def remove(self) -> None:
        """Put everything back as it was; tasks that are traced run on untimed."""
        with self._lock:
            self._every_loop = False
            self._chosen.clear()
            BINDINGS.disconnect(self._binding_of)
            while self._hooks:
                self._hooks.pop().remove()
            for number in list(self._traced_loops):
                self._gone(number)
            self._sweep()
            self._slot_pool.release_all()
        self.work_queue.stop()

    def forget(self) -> None:
        """As :meth:`remove`, in a forked child: without the locks, which other threads may have held, and with nothing measured yet."""
        self._lock = threading.RLock()
        self.internal_errors.forget()
        self._every_loop = False
        self._chosen.clear()
        BINDINGS.disconnect(self._binding_of)
        while self._hooks:
            self._hooks.pop().remove()
        for traced_loop in list(self._traced_loops.values()):
            if traced_loop.recorder is not None:
                traced_loop.recorder.retire()
            if traced_loop.timing is not None:
                traced_loop.timing.remove()
        self._traced_loops.clear()
        self._gone_loops.clear()
        self._slot_pool.forget()
        self.work_queue.forget()
        self._process_stats = self._new_process_stats()

    def trace(self, loop: Any, coro: Any) -> Any:
        """What a new task of ``loop`` shall run instead of ``coro``: itself, if it is not to be traced."""
        if type(coro) is self._implementation.traced:
            return coro
        recorder = self.recorder_of(loop)
        return coro if recorder is None else recorder.trace(coro)

    def recorder_of(self, loop: Any) -> Any:
        """The recorder of ``loop``, or ``None`` if it is not to be traced. Never raises."""
        return (self._traced_loops.get(id(loop)) or self._adopt(loop)).recorder

    def _new_process_stats(self) -> ProcessStats:
        return ProcessStats(
            self.internal_errors, lambda: BINDINGS.outside_loop, self.work_queue.counts
        )

    def snapshot(self, pause: Pause = no_pause) -> Snapshot:
        """What all pages say now; with a directory, those of all its processes. ``pause`` is called now and then."""
        self.refresh()
        unix_ns = self._unix_clock()
        pages, skipped = self._slot_pool.views(self.clock(), unix_ns, pause)
        return merged(
            pages,
            taken_ns=unix_ns,
            errors=self._process_stats.errors(),
            untraced_tasks=self._process_stats.untraced_tasks,
            sample_ratio=1 / self.options.weight,
            skipped_pages=skipped,
            pause=pause,
        )

    def refresh(self) -> None:
        """Write into the pages what nobody writes there as it happens."""
        untraced = untraced_tasks(self._implementation.traced)
        with self._lock:
            self._sweep()
            slots = self._slot_pool.all()
            for slot in slots:
                slot.page.see(self.clock())
                slot.loop_stats.refresh()
                slot.objectives.count_overdue(self.clock())
            self._process_stats.write(slots, untraced)

    def beat(self) -> None:
        """What is due every second where pages are shared."""
        self.refresh()
        self._slot_pool.warn_if_deleted()

    def slots(self) -> list[Slot]:
        """Every page that a loop ever wrote to."""
        return self._slot_pool.all()

    def _install(self) -> None:
        if self._hooks:
            return
        BINDINGS.connect(self._binding_of)
        core = self._implementation.core
        tasks = c_hooks(core, self.recorder_of) or python_hooks(self.trace)
        running = RunningLoopHook(self._loop_started, self._loop_stopped)
        collections = GarbageCollectionHook(self._stats_of, self.clock, self.internal_errors)
        for hook in (*tasks, *self._handle_hooks(), running, collections, self._handlers):
            self._put(hook)

    def _handle_hooks(self) -> list[Hook]:
        """None where the source of asyncio is missing, as in frozen programs, or says something else: then callbacks are not timed."""
        try:
            return [HandleHook(self._implementation.core, self.recorder_of)]
        except Exception as error:  # noqa: BLE001 - tasks are traced without it
            self.internal_errors.report(CALLBACKS_PROBE, error)
            return []

    def _put(self, hook: Hook) -> None:
        hook.install()
        self._hooks.append(hook)

    def _stats_of(self, loop: Any) -> LoopStats | None:
        """What to add to that is known of ``loop``, if it is traced."""
        traced_loop = self._traced_loops.get(id(loop))
        return (
            None if traced_loop is None or traced_loop.slot is None else traced_loop.slot.loop_stats
        )

    def _count_unhandled_exception(self, loop: Any) -> None:
        loop_stats = self._stats_of(loop)
        if loop_stats is not None:
            loop_stats.count_unhandled_exception()

    def _cover(self, loop_class: type) -> None:
        """Reach a loop of a class that inherits ``create_task`` from nothing known."""
        covered = tuple(hook.loop_class for hook in self._hooks if isinstance(hook, CreateTaskHook))
        if not covered or issubclass(loop_class, covered):
            return
        self._put(CreateTaskHook(loop_class, self.trace))

    def _adopt(self, loop: Any) -> _TracedLoop:
        with self._lock:
            number = id(loop)
            traced_loop = self._traced_loops[number] = _TracedLoop(
                _reference(loop, lambda _: self._gone(number)), None, None
            )
            try:
                self._sweep()
                if self._wanted(loop):
                    self._attach(traced_loop, loop)
            except Exception as error:  # noqa: BLE001 - the task must be created whatever happens here
                self.internal_errors.report(PROBE, error, OFF_FOR_LOOP)
            return traced_loop

    def _attach(self, traced_loop: _TracedLoop, loop: Any) -> None:
        self._cover(type(loop))
        traced_loop.slot = self._slot_pool.claim(threading.current_thread().name)
        self.on_loop()
        if traced_loop.slot is not None:
            traced_loop.slot.loop_stats.attach(traced_loop.loop)
            self._handlers.cover(type(loop))
            traced_loop.recorder = self._recorder(loop, traced_loop.slot)
            traced_loop.timing = self._timing(loop, traced_loop.slot)
            traced_loop.binding = self._binding(traced_loop.recorder, traced_loop.slot)

    def _wanted(self, loop: Any) -> bool:
        return (self._every_loop or loop in self._chosen) and not loop.is_closed()

    def _recorder(self, loop: Any, slot: Slot) -> Any:
        blocked = _inflicted_wait(weakref.ref(loop), slot, self._exemplars)
        return self._implementation.recorder(
            slot.page, slot.labels, self.internal_errors, clock=self.clock, blocked=blocked
        )

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

    def _binding_of(self, loop: Any) -> LoopBinding | None:
        """Where requests on ``loop`` are recorded; ``None`` if it is not traced."""
        return (self._traced_loops.get(id(loop)) or self._adopt(loop)).binding

    def _timing(self, loop: Any, slot: Slot) -> LoopTiming | None:
        return time_iterations(
            loop, lambda: self._implementation.turns(slot.page, self.clock, self.internal_errors)
        )

    def _loop_started(self, loop: Any) -> None:
        loop_stats = self._stats_of(loop)
        if loop_stats is not None:
            loop_stats.note_thread()
        traced_loop = self._traced_loops.get(id(loop))
        if traced_loop is not None and traced_loop.timing is not None:
            traced_loop.timing.started()

    def _loop_stopped(self, loop: Any) -> None:
        traced_loop = self._traced_loops.get(id(loop))
        if traced_loop is not None and traced_loop.timing is not None:
            traced_loop.timing.stopped()

    def _gone(self, number: int) -> None:
        """The loop was collected. Garbage collection may run anywhere, so this takes no lock; the next sweep does the rest."""
        traced_loop = self._traced_loops.pop(number, None)
        if traced_loop is None:
            return
        if traced_loop.recorder is not None:
            traced_loop.recorder.retire()
        self._gone_loops.append(traced_loop)

    def _sweep(self) -> None:
        """Free the pages of loops that were collected or closed."""
        with self._lock:
            for number, traced_loop in self._traced_loops.copy().items():
                loop = traced_loop.loop() if traced_loop.slot is not None else None
                if loop is not None and loop.is_closed():
                    self._gone(number)
            while self._gone_loops:
                self._evict(self._gone_loops.pop())

    def _evict(self, traced_loop: _TracedLoop) -> None:
        if traced_loop.recorder is not None:
            traced_loop.recorder.retire()
        if traced_loop.timing is not None:
            traced_loop.timing.remove()
        if traced_loop.slot is not None:
            self._slot_pool.release(traced_loop.slot)

    def _forget_refusals(self) -> None:
        for number, traced_loop in self._traced_loops.copy().items():
            if traced_loop.recorder is None:
                self._traced_loops.pop(number, None)


def _nothing() -> None:
    """Nobody wants to know."""


def _page_format(options: RecordingOptions) -> PageFormat:
    layout = from_seconds(
        options.segment_buckets,
        options.wait_buckets,
        options.max_coroutines,
        options.max_yield_points,
        options.max_requests,
    )
    return PageFormat(layout, options.blocking_threshold_ns, options.weight)


def _reference(loop: Any, gone: Callable[[Any], None]) -> Callable[[], Any]:
    try:
        return weakref.ref(loop, gone)
    except TypeError:
        return lambda: loop


def _inflicted_wait(
    loop: Callable[[], Any], slot: Slot, exemplars: Exemplars
) -> Callable[[int, int], None]:
    """Charges a blocking segment with the time that it cost the handles that were ready behind it, where the loop shows them.

    Called in the context of its task: if that leads to a request or a trace, the segment is kept as the exemplar of its yield point.
    """
    page = slot.page

    def blocked(record: int, segment_ns: int) -> None:
        slot.loop_stats.note_thread()
        ready = len(getattr(loop(), "_ready", ()))
        page.words[page.layout.yield_point(record) + YIELD_POINT["inflicted_wait_ns"]] += (
            segment_ns * ready
        )
        exemplar = exemplars.of_segment(segment_ns)
        if exemplar is not None:
            slot.exemplars.put(SEGMENT, record, exemplar)

    return blocked
