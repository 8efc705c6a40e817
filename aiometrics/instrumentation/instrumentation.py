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
from aiometrics.base.internal_errors import OFF_FOR_LOOP, Faults
from aiometrics.base.work_queue import Outbox
from aiometrics.base.yielding import Pause, no_pause
from aiometrics.exposition.metrics import RECORD_KINDS
from aiometrics.instrumentation.hooks.exception_handler import ExceptionHandlerSeam
from aiometrics.instrumentation.hooks.gc import GarbageCollectionSeam
from aiometrics.instrumentation.hooks.handles import PROBE as CALLBACKS_PROBE
from aiometrics.instrumentation.hooks.handles import HandleSeam
from aiometrics.instrumentation.hooks.selector import LoopTiming, RunningLoopSeam, time_turns
from aiometrics.instrumentation.hooks.tasks import CreateTaskSeam, Seam, c_seams, python_seams
from aiometrics.instrumentation.loop_stats import Vitals
from aiometrics.instrumentation.process_stats import Account
from aiometrics.instrumentation.slots import Pages, Slot
from aiometrics.instrumentation.untraced import untraced_tasks
from aiometrics.options import Options
from aiometrics.pages.exemplar_table import SEGMENT
from aiometrics.pages.header import Terms
from aiometrics.pages.layout import YIELD_POINT, of_seconds
from aiometrics.pages.merge import merged
from aiometrics.pages.multiprocess.directory import Shelf
from aiometrics.pages.snapshot import Snapshot
from aiometrics.recorder.implementation import CHOSEN, Implementation
from aiometrics.recorder.places import Places
from aiometrics.requests.binding import HOMES, Home
from aiometrics.requests.exemplars import Exemplars
from aiometrics.requests.finished import Observers
from aiometrics.requests.request import kind_of_request
from aiometrics.requests.slow_log import SlowRequests

PROBE = "instrumentation"


@dataclass(slots=True, eq=False)
class _Tenant:
    """A loop that was seen: its recorder and page, or neither if it is not to be, or cannot be, instrumented."""

    loop: Callable[[], Any]
    recorder: Any
    slot: Slot | None
    timing: LoopTiming | None = None
    home: Home | None = None


class Instrumentation:
    """Traces the tasks of chosen loops, or of every loop of the process, while it is installed.

    ``clock`` times everything and ``unix_clock`` turns its readings into times of day; both are ns. With a ``shelf``, which must have been
    prepared, pages are shared there.
    """

    def __init__(
        self,
        options: Options,
        *,
        clock: Clock = monotonic,
        unix_clock: Clock = time.time_ns,
        faults: Faults | None = None,
        implementation: Implementation = CHOSEN,
        shelf: Shelf | None = None,
    ) -> None:
        self.options = options
        self.faults = Faults() if faults is None else faults
        self._implementation = implementation
        self.clock = clock
        self._unix_clock = unix_clock
        self.places = Places(options.application, options.library)
        self._pages = Pages(
            _terms(options),
            options.max_loops,
            places=self.places,
            objectives=options.objectives,
            faults=self.faults,
            shelf=shelf,
        )
        #: Writes records of single requests.
        self.outbox = Outbox(RECORD_KINDS, self.faults)
        self._account = self._new_account()
        self._exemplars = Exemplars(unix_clock, self.faults)
        slow_ns = options.slow_request_ns or options.blocking_threshold_ns
        #: Whom to tell of requests that are over.
        self.request_observers = Observers(slow_ns, self.faults)
        self.request_observers.slow += [self._exemplars.keep_wall, SlowRequests(self.outbox, options.slow_request_ns)]
        #: Called with each loop that is about to be traced.
        self.on_loop: Callable[[], None] = _nothing
        #: Garbage collection may take one out at any moment: what goes through them goes through a copy.
        self._tenants: dict[int, _Tenant] = {}
        self._departed: deque[_Tenant] = deque()
        self._chosen: weakref.WeakSet[Any] = weakref.WeakSet()
        self._every_loop = False
        self._seams: list[Seam] = []
        self._handlers = ExceptionHandlerSeam(self._unhandled)
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
            tenant = self._tenants.get(id(loop))
            if tenant is not None:
                self._evict(tenant)
                self._tenants[id(loop)] = _Tenant(tenant.loop, None, None)

    @property
    def idle(self) -> bool:
        """Whether no loop is chosen."""
        return not self._every_loop and not len(self._chosen)

    def remove(self) -> None:
        """Put everything back as it was; tasks that are traced run on untimed."""
        with self._lock:
            self._every_loop = False
            self._chosen.clear()
            HOMES.disconnect(self._home_of)
            while self._seams:
                self._seams.pop().remove()
            for number in list(self._tenants):
                self._gone(number)
            self._sweep()
            self._pages.leave()
        self.outbox.stop()

    def forget(self) -> None:
        """As :meth:`remove`, in a forked child: without the locks, which other threads may have held, and with nothing measured yet."""
        self._lock = threading.RLock()
        self.faults.forget()
        self._every_loop = False
        self._chosen.clear()
        HOMES.disconnect(self._home_of)
        while self._seams:
            self._seams.pop().remove()
        for tenant in list(self._tenants.values()):
            if tenant.recorder is not None:
                tenant.recorder.retire()
            if tenant.timing is not None:
                tenant.timing.remove()
        self._tenants.clear()
        self._departed.clear()
        self._pages.forget()
        self.outbox.forget()
        self._account = self._new_account()

    def trace(self, loop: Any, coro: Any) -> Any:
        """What a new task of ``loop`` shall run instead of ``coro``: itself, if it is not to be traced."""
        if type(coro) is self._implementation.traced:
            return coro
        recorder = self.recorder_of(loop)
        return coro if recorder is None else recorder.trace(coro)

    def recorder_of(self, loop: Any) -> Any:
        """The recorder of ``loop``, or ``None`` if it is not to be traced. Never raises."""
        return (self._tenants.get(id(loop)) or self._adopt(loop)).recorder

    def _new_account(self) -> Account:
        return Account(self.faults, lambda: HOMES.missed, self.outbox.counts)

    def snapshot(self, pause: Pause = no_pause) -> Snapshot:
        """What all pages say now; with a directory, those of all its processes. ``pause`` is called now and then."""
        self.refresh()
        unix_ns = self._unix_clock()
        pages, skipped = self._pages.views(self.clock(), unix_ns, pause)
        return merged(
            pages,
            taken_ns=unix_ns,
            errors=self._account.errors(),
            untraced_tasks=self._account.untraced_tasks,
            sample_ratio=1 / self.options.weight,
            skipped_pages=skipped,
            pause=pause,
        )

    def refresh(self) -> None:
        """Write into the pages what nobody writes there as it happens."""
        untraced = untraced_tasks(self._implementation.traced)
        with self._lock:
            self._sweep()
            slots = self._pages.all()
            for slot in slots:
                slot.page.see(self.clock())
                slot.vitals.refresh()
                slot.ledger.count_overdue(self.clock())
            self._account.write(slots, untraced)

    def beat(self) -> None:
        """What is due every second where pages are shared."""
        self.refresh()
        self._pages.check()

    def slots(self) -> list[Slot]:
        """Every page that a loop ever wrote to."""
        return self._pages.all()

    def _install(self) -> None:
        if self._seams:
            return
        HOMES.connect(self._home_of)
        core = self._implementation.core
        tasks = c_seams(core, self.recorder_of) or python_seams(self.trace)
        running = RunningLoopSeam(self._loop_started, self._loop_stopped)
        collections = GarbageCollectionSeam(self._vitals_of, self.clock, self.faults)
        for seam in (*tasks, *self._handle_seams(), running, collections, self._handlers):
            self._put(seam)

    def _handle_seams(self) -> list[Seam]:
        """None where the source of asyncio is missing, as in frozen programs, or says something else: then callbacks are not timed."""
        try:
            return [HandleSeam(self._implementation.core, self.recorder_of)]
        except Exception as error:  # noqa: BLE001 - tasks are traced without it
            self.faults.report(CALLBACKS_PROBE, error)
            return []

    def _put(self, seam: Seam) -> None:
        seam.install()
        self._seams.append(seam)

    def _vitals_of(self, loop: Any) -> Vitals | None:
        """What to add to that is known of ``loop``, if it is traced."""
        tenant = self._tenants.get(id(loop))
        return None if tenant is None or tenant.slot is None else tenant.slot.vitals

    def _unhandled(self, loop: Any) -> None:
        vitals = self._vitals_of(loop)
        if vitals is not None:
            vitals.unhandled()

    def _cover(self, loop_class: type) -> None:
        """Reach a loop of a class that inherits ``create_task`` from nothing known."""
        covered = tuple(seam.loop_class for seam in self._seams if isinstance(seam, CreateTaskSeam))
        if not covered or issubclass(loop_class, covered):
            return
        self._put(CreateTaskSeam(loop_class, self.trace))

    def _adopt(self, loop: Any) -> _Tenant:
        with self._lock:
            number = id(loop)
            tenant = self._tenants[number] = _Tenant(_reference(loop, lambda _: self._gone(number)), None, None)
            try:
                self._sweep()
                if self._wanted(loop):
                    self._house(tenant, loop)
            except Exception as error:  # noqa: BLE001 - the task must be created whatever happens here
                self.faults.report(PROBE, error, OFF_FOR_LOOP)
            return tenant

    def _house(self, tenant: _Tenant, loop: Any) -> None:
        self._cover(type(loop))
        tenant.slot = self._pages.claim(threading.current_thread().name)
        self.on_loop()
        if tenant.slot is not None:
            tenant.slot.vitals.begin(tenant.loop)
            self._handlers.cover(type(loop))
            tenant.recorder = self._recorder(loop, tenant.slot)
            tenant.timing = self._timing(loop, tenant.slot)
            tenant.home = self._home(tenant.recorder, tenant.slot)

    def _wanted(self, loop: Any) -> bool:
        return (self._every_loop or loop in self._chosen) and not loop.is_closed()

    def _recorder(self, loop: Any, slot: Slot) -> Any:
        blocked = _harm(weakref.ref(loop), slot, self._exemplars)
        return self._implementation.recorder(slot.page, slot.directory, self.faults, clock=self.clock, blocked=blocked)

    def _home(self, recorder: Any, slot: Slot) -> Home:
        return Home(
            recorder,
            slot.directory,
            slot.ledger,
            kind_of_request(self._implementation.scope),
            self.clock,
            self._unix_clock,
            self.faults,
            self.request_observers,
            self.outbox,
            slot.marks,
            self.options.request_id,
        )

    def _home_of(self, loop: Any) -> Home | None:
        """Where requests on ``loop`` are recorded; ``None`` if it is not traced."""
        return (self._tenants.get(id(loop)) or self._adopt(loop)).home

    def _timing(self, loop: Any, slot: Slot) -> LoopTiming | None:
        return time_turns(loop, lambda: self._implementation.turns(slot.page, self.clock, self.faults))

    def _loop_started(self, loop: Any) -> None:
        vitals = self._vitals_of(loop)
        if vitals is not None:
            vitals.seen_here()
        tenant = self._tenants.get(id(loop))
        if tenant is not None and tenant.timing is not None:
            tenant.timing.started()

    def _loop_stopped(self, loop: Any) -> None:
        tenant = self._tenants.get(id(loop))
        if tenant is not None and tenant.timing is not None:
            tenant.timing.stopped()

    def _gone(self, number: int) -> None:
        """The loop was collected. Garbage collection may run anywhere, so this takes no lock; the next sweep does the rest."""
        tenant = self._tenants.pop(number, None)
        if tenant is None:
            return
        if tenant.recorder is not None:
            tenant.recorder.retire()
        self._departed.append(tenant)

    def _sweep(self) -> None:
        """Free the pages of loops that were collected or closed."""
        with self._lock:
            for number, tenant in self._tenants.copy().items():
                loop = tenant.loop() if tenant.slot is not None else None
                if loop is not None and loop.is_closed():
                    self._gone(number)
            while self._departed:
                self._evict(self._departed.pop())

    def _evict(self, tenant: _Tenant) -> None:
        if tenant.recorder is not None:
            tenant.recorder.retire()
        if tenant.timing is not None:
            tenant.timing.remove()
        if tenant.slot is not None:
            self._pages.release(tenant.slot)

    def _forget_refusals(self) -> None:
        for number, tenant in self._tenants.copy().items():
            if tenant.recorder is None:
                self._tenants.pop(number, None)


def _nothing() -> None:
    """Nobody wants to know."""


def _terms(options: Options) -> Terms:
    layout = of_seconds(
        options.segment_buckets, options.wait_buckets, options.max_coroutines, options.max_yield_points, options.max_requests
    )
    return Terms(layout, options.blocking_threshold_ns, options.weight)


def _reference(loop: Any, gone: Callable[[Any], None]) -> Callable[[], Any]:
    try:
        return weakref.ref(loop, gone)
    except TypeError:
        return lambda: loop


def _harm(loop: Callable[[], Any], slot: Slot, exemplars: Exemplars) -> Callable[[int, int], None]:
    """Charges a blocking segment with the time that it cost the handles that were ready behind it, where the loop shows them.

    Called in the context of its task: if that leads to a request or a trace, the segment is kept as the exemplar of its yield point.
    """
    page = slot.page

    def blocked(record: int, segment_ns: int) -> None:
        slot.vitals.seen_here()
        ready = len(getattr(loop(), "_ready", ()))
        page.words[page.layout.yield_point(record) + YIELD_POINT["inflicted_wait_ns"]] += segment_ns * ready
        exemplar = exemplars.of_segment(segment_ns)
        if exemplar is not None:
            slot.marks.put(SEGMENT, record, exemplar)

    return blocked
