"""The recorder in pure Python: the fallback where the C core cannot run, and the readable specification of it.

A :class:`TracedCoroutine` stands between a task and its coroutine and reports each step to the :class:`Recorder` of its loop. Each
boundary between segment and wait is one reading of the clock, so that they tile a task's life without gap or overlap.
"""

from __future__ import annotations

import types
from asyncio import CancelledError, iscoroutine
from bisect import bisect_left
from collections import OrderedDict
from collections.abc import Callable, Coroutine
from typing import Any

from aiometrics import _scope
from aiometrics.callbacks import identity
from aiometrics.chain import awaited_by, code_of, frame_of, opaque
from aiometrics.clock import Clock, monotonic
from aiometrics.directory import Directory
from aiometrics.faults import OFF_FOR_LOOP, Faults
from aiometrics.layout import CALLBACKS, COROUTINE, HEADER, LOOP, YIELD_POINT
from aiometrics.page import Page
from aiometrics.snapshot import EAGER_CHILD, RAISE, RETURN

COMPLETED, FAILED, CANCELLED = range(3)
OFFERED, NEW, SUSPENDED, RUNNING, DONE = range(5)
#: Places of dead code would pile up in the caches; past this many they start anew.
CACHE_ENTRIES = 16_384
#: Links of an await chain that are followed: more than the interpreter can nest, but an end to what leads back to itself.
MAX_DEPTH = 10_000
PROBE = "recorder"
_MASK = (1 << 64) - 1
_SEED = 0x9E37_79B9_7F4A_7C15


class TracedCoroutine:
    """A coroutine as a task sees it: forwards everything, times each step."""

    __slots__ = (
        "__weakref__",
        "__wrapped__",
        "_active_ns",
        "_counted_ns",
        "_created_ns",
        "_divided_ns",
        "_outer",
        "_paused_ns",
        "_point",
        "_record",
        "_recorder",
        "_scope",
        "_since_ns",
        "_state",
        "_suspended_ns",
    )

    def __init__(self, coro: Any, recorder: Recorder, record: int, created_ns: int) -> None:
        self.__wrapped__ = coro
        self._recorder = recorder
        self._record = record
        self._created_ns = created_ns
        self._state = OFFERED
        self._active_ns = 0
        #: The segment in progress: since when, without the time of eager children; what readers counted of it; what it interrupts.
        self._since_ns = 0
        self._counted_ns = 0
        self._outer: TracedCoroutine | None = None
        #: When the eager child that runs now began.
        self._paused_ns = 0
        #: The yield point, and since when.
        self._point = 0
        self._suspended_ns = 0
        #: The request that its time belongs to, and what of the segment in progress does not: it was charged already, or to none.
        self._scope: _scope.Scope | None = None
        self._divided_ns = 0

    def send(self, value: Any) -> Any:
        """Resume the coroutine, as ``coroutine.send``."""
        timed = self._recorder.resume(self)
        try:
            yielded = self.__wrapped__.send(value)
        except BaseException as error:
            if timed:
                self._recorder.end(self, error)
            raise
        if timed:
            self._recorder.suspend(self, yielded)
        return yielded

    def throw(self, *exc_info: Any) -> Any:
        """Raise inside the coroutine, as ``coroutine.throw``."""
        timed = self._recorder.resume(self)
        try:
            yielded = self.__wrapped__.throw(*exc_info)
        except BaseException as error:
            # Its traceback refers to this frame: no cycle may come of it.
            del exc_info
            if timed:
                self._recorder.end(self, error)
            raise
        if timed:
            self._recorder.suspend(self, yielded)
        return yielded

    def close(self) -> None:
        """Close the coroutine, as ``coroutine.close``."""
        timed = self._recorder.resume(self)
        try:
            self.__wrapped__.close()
        except BaseException as error:
            if timed:
                self._recorder.end(self, error)
            raise
        if timed:
            self._recorder.end(self, GeneratorExit())

    def admit(self) -> None:
        """There is a task for this coroutine."""
        self._recorder.admit(self)

    def abandon(self) -> None:
        """There will be no task for this coroutine."""
        self._recorder.abandon(self)

    def __await__(self) -> Any:
        return self.__wrapped__.__await__()

    def __del__(self) -> None:
        if self._state in (NEW, SUSPENDED):
            self._recorder.lose(self)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__wrapped__, name)

    def __repr__(self) -> str:
        return repr(self.__wrapped__)

    @property
    def __name__(self) -> str:
        name: str = self.__wrapped__.__name__
        return name

    @__name__.setter
    def __name__(self, name: str) -> None:
        self.__wrapped__.__name__ = name

    @property  # type: ignore[misc]  # what isinstance() and inspect ask; type() still tells the truth
    def __class__(self) -> type:
        return type(self.__wrapped__)


Coroutine.register(TracedCoroutine)


class Recorder:
    """Writes what happens to one loop's tasks into its page. Used by the loop's thread only.

    ``blocked(record, segment_ns)`` is called after each segment of the blocking threshold or more. An error in here counts as one
    of the probe ``recorder`` and retires the recorder: tasks run on, untimed.
    """

    def __init__(
        self,
        page: Page,
        directory: Directory,
        faults: Faults,
        *,
        clock: Clock = monotonic,
        blocked: Callable[[int, int], None] | None = None,
    ) -> None:
        self.page = page
        self.retired = False
        self._directory = directory
        self._faults = faults
        self._clock = clock
        self._blocked = blocked
        self._words = page.words
        self._layout = page.layout
        self._loop = page.layout.loop
        self._threshold_ns = page.words[HEADER["blocking_threshold_ns"]]
        self._weight = page.words[HEADER["weight"]]
        self._draw = _SEED
        self._current: TracedCoroutine | None = None
        self._records: dict[types.CodeType, int] = {}
        self._kinds: dict[types.CodeType, int] = {}
        self._points: dict[tuple[Any, ...], int] = {}
        #: Per yield point, when each task suspended there began to wait, oldest first. Tasks by identity: nothing is kept alive.
        self._waiting: dict[int, OrderedDict[int, int]] = {}
        self._request_waits: dict[tuple[int, int], int] = {}

    def trace(self, coro: Any) -> Any:
        """``coro``, or what stands for it from now on: a task is being created."""
        if self.retired or not _is_coroutine(coro) or not self._sampled():
            return coro
        try:
            return TracedCoroutine(coro, self, self._record_of(coro), self._clock())
        except BaseException as error:  # noqa: BLE001 - never the application's problem, but for an interrupt
            self._fail(error)
            return coro

    def admit(self, traced: TracedCoroutine) -> None:
        """Count a task, now that it is there: one that starts eagerly is at its first step."""
        if traced._state != OFFERED:
            return
        traced._state = NEW
        if not self.retired:
            base = self._layout.coroutine(traced._record)
            self._words[base + COROUTINE["created"]] += 1
            self._words[base + COROUTINE["live"]] += 1

    @staticmethod
    def abandon(traced: TracedCoroutine) -> None:
        """Forget a coroutine whose task could not be created."""
        if traced._state == OFFERED:
            traced._state = DONE

    def resume(self, traced: TracedCoroutine) -> bool:
        """A segment begins, and with it the wait or the start delay ends. Tells whether the step is timed at all."""
        if self.retired or traced._state in (RUNNING, DONE):
            return False
        try:
            now = self._clock()
            with self.page.writing:
                self._end_wait(traced, now)
                self._enter(traced, now)
        except BaseException as error:  # noqa: BLE001 - never the application's problem, but for an interrupt
            self._fail(error)
            return False
        return True

    def suspend(self, traced: TracedCoroutine, yielded: Any) -> None:
        """The segment ends at an await."""
        if self.retired:
            return
        try:
            since_ns, now = traced._since_ns, self._clock()
            point = self._locate(traced, yielded)
            now = self._prepare(traced, since_ns, now)
            if self.retired:  # while the place was named: the page may be another's now
                return
            with self.page.writing:
                segment_ns = self._finish_segment(traced, point, now)
                traced._state, traced._point, traced._suspended_ns = SUSPENDED, point, now
                self._link(traced, now)
            self._tell(point, segment_ns)
        except BaseException as error:  # noqa: BLE001 - never the application's problem, but for an interrupt
            self._fail(error)

    def end(self, traced: TracedCoroutine, error: BaseException) -> None:
        """The last segment ends: the coroutine returned, which is a ``StopIteration``, or raised."""
        traced._state = DONE
        if self.retired:
            return
        try:
            since_ns, now = traced._since_ns, self._clock()
            status = _status(error)
            point = self._directory.pseudo_point(traced._record, RETURN if status == COMPLETED else RAISE)
            now = self._prepare(traced, since_ns, now)
            if self.retired:
                return
            with self.page.writing:
                segment_ns = self._finish_segment(traced, point, now)
                self._observe(self._layout.wall(traced._record, status), self._layout.wait_bounds_ns, now - traced._created_ns)
                self._observe(self._layout.active(traced._record, status), self._layout.wait_bounds_ns, traced._active_ns)
                self._words[self._layout.coroutine(traced._record) + COROUTINE["live"]] -= 1
            self._tell(point, segment_ns)
            _scope.detach(traced)
        except BaseException as failure:  # noqa: BLE001 - as above
            self._fail(failure)

    def enter_callback(self) -> TracedCoroutine | None:
        """A callback begins that is no step of a task; ``None`` if it is not to be timed."""
        if self.retired:
            return None
        try:
            now = self._clock()
            traced = TracedCoroutine(None, self, CALLBACKS, now)
            with self.page.writing:
                self._enter(traced, now)
        except BaseException as error:  # noqa: BLE001 - never the application's problem, but for an interrupt
            self._fail(error)
            return None
        return traced

    def leave_callback(self, traced: TracedCoroutine, callback: Any) -> None:
        """The callback is over."""
        traced._state = DONE
        if self.retired:
            return
        try:
            since_ns, now = traced._since_ns, self._clock()
            point = self._callback_point(callback)
            now = self._prepare(traced, since_ns, now)
            if self.retired:
                return
            with self.page.writing:
                segment_ns = self._finish_segment(traced, point, now)
            self._tell(point, segment_ns)
        except BaseException as error:  # noqa: BLE001 - never the application's problem, but for an interrupt
            self._fail(error)

    def lose(self, traced: TracedCoroutine) -> None:
        """The coroutine is garbage, and was not done."""
        if self.retired:
            return
        try:
            base = self._layout.coroutine(traced._record)
            self._words[base + COROUTINE["live"]] -= 1
            self._words[base + COROUTINE["destroyed_pending"]] += 1
            if traced._state == SUSPENDED:
                self._unlink(traced)
            _scope.detach(traced)
        except BaseException as error:  # noqa: BLE001 - never the application's problem, but for an interrupt
            self._fail(error)

    def retire(self) -> None:
        """Stop for good; steps of coroutines that are still traced only pass through."""
        self.retired = True

    def _fail(self, error: BaseException) -> None:
        """Retire; what was true of the tasks at this moment is not known any more. An interrupt is the application's, and goes on."""
        if not self.retired:  # else the page may be another's by now
            self.retire()
            self.page.close()
            self._faults.report(PROBE, error, OFF_FOR_LOOP)
        if not isinstance(error, Exception):
            raise error

    def _sampled(self) -> bool:
        """Whether to trace this task: one in ``weight``, drawn by xorshift so that no pattern of creation can fool it."""
        if self._weight == 1:
            return True
        draw = self._draw
        draw ^= draw << 13 & _MASK
        draw ^= draw >> 7
        draw ^= draw << 17 & _MASK
        self._draw = draw
        return draw % self._weight == 0

    def _record_of(self, coro: Any) -> int:
        code = code_of(coro)
        if code is None:
            return self._directory.coroutine(coro)
        record = self._records.get(code)
        if record is None:
            record = self._directory.coroutine(coro)
            if not self._directory.transparent(coro):
                _keep(self._records, code, record)
        return record

    def _observe(self, histogram: int, bounds_ns: tuple[int, ...], duration_ns: int) -> None:
        self._words[histogram] += duration_ns
        self._words[histogram + 1 + bisect_left(bounds_ns, duration_ns)] += 1

    def _end_wait(self, traced: TracedCoroutine, now: int) -> None:
        if traced._state != SUSPENDED:
            self.admit(traced)
            self._observe(self._layout.start_delay, self._layout.segment_bounds_ns, now - traced._created_ns)
            _scope.attach(traced, self)
            return
        self._waited(traced, traced._point, now - traced._suspended_ns)
        self._unlink(traced)

    def _waited(self, traced: TracedCoroutine, point: int, wait_ns: int) -> None:
        self._observe(self._layout.waits(point), self._layout.wait_bounds_ns, wait_ns)
        if traced._scope is not None:
            traced._scope.charge_wait(point, wait_ns)

    def _enter(self, traced: TracedCoroutine, now: int) -> None:
        """Begin the segment; one that is in progress, whose eager child this is, stands still meanwhile."""
        outer = self._current
        if outer is not None:
            self._settle(outer)
            outer._paused_ns = now
        traced._state, traced._outer = RUNNING, outer
        traced._since_ns, traced._counted_ns = now, 0
        self._show(traced)

    def _leave(self, traced: TracedCoroutine, now: int) -> None:
        """End the segment; the one that it interrupted goes on."""
        outer = traced._outer
        if outer is not None and self._current is traced:
            paused_ns = now - outer._paused_ns
            outer._since_ns += paused_ns
            self._waited(outer, self._directory.pseudo_point(outer._record, EAGER_CHILD), paused_ns)
        self._unchain(traced)

    def _unchain(self, traced: TracedCoroutine) -> None:
        """Take a segment from among those in progress; the innermost, unless threads or greenlets step tasks of one loop by turns."""
        inner, current = None, self._current
        while current is not None and current is not traced:
            inner, current = current, current._outer
        if current is not None and inner is not None:
            inner._outer = traced._outer
        elif current is not None:
            self._current = traced._outer
        traced._outer = None
        self._show(self._current)

    def _show(self, traced: TracedCoroutine | None) -> None:
        self._current = traced
        words, loop = self._words, self._loop
        words[loop + LOOP["segment_since_ns"]] = 0 if traced is None else traced._since_ns
        words[loop + LOOP["segment_coroutine"]] = 0 if traced is None else traced._record
        words[loop + LOOP["segment_counted_ns"]] = 0 if traced is None else traced._counted_ns

    def _settle(self, traced: TracedCoroutine) -> None:
        """Make final what readers counted under (running) for the segment in progress."""
        self.page.settle()
        traced._counted_ns = self._words[self._loop + LOOP["segment_counted_ns"]]

    def _prepare(self, traced: TracedCoroutine, since_ns: int, now: int) -> int:
        """When the segment ends that began at ``since_ns``, now that its point was named, and so is the wait of the one it interrupted.

        Naming may step other tasks: a finalizer can start an eager one. Then the segment, which that interrupted, lasts until now.
        """
        outer = traced._outer
        if outer is not None:
            self._directory.pseudo_point(outer._record, EAGER_CHILD)
        return now if traced._since_ns == since_ns else self._clock()

    def _finish_segment(self, traced: TracedCoroutine, point: int, now: int) -> int:
        """Count the segment; how long it was."""
        segment_ns = now - traced._since_ns
        traced._active_ns += segment_ns
        self._observe(self._layout.segments(point), self._layout.segment_bounds_ns, segment_ns)
        if traced._scope is not None:
            traced._scope.charge_segment(point, segment_ns - traced._divided_ns, blocking=segment_ns >= self._threshold_ns)
            traced._divided_ns = 0
        if segment_ns >= self._threshold_ns:
            self._block(traced, point, segment_ns)
        self._leave(traced, now)
        return segment_ns

    def _tell(self, point: int, segment_ns: int) -> None:
        """Tell who asked of a segment that blocked."""
        if segment_ns >= self._threshold_ns and self._blocked is not None:
            self._blocked(point, segment_ns)

    def _block(self, traced: TracedCoroutine, point: int, segment_ns: int) -> None:
        self._settle(traced)
        rest_ns = segment_ns - traced._counted_ns
        self._words[self._layout.yield_point(point) + YIELD_POINT["blocking_ns"]] += rest_ns
        self._words[self._loop + LOOP["blocking_ns"]] += rest_ns

    def _link(self, traced: TracedCoroutine, now: int) -> None:
        waiting = self._waiting.setdefault(traced._point, OrderedDict())
        waiting[id(traced)] = now
        self._show_waiting(traced._point, waiting)

    def _unlink(self, traced: TracedCoroutine) -> None:
        waiting = self._waiting[traced._point]
        del waiting[id(traced)]
        self._show_waiting(traced._point, waiting)

    def _show_waiting(self, point: int, waiting: OrderedDict[int, int]) -> None:
        base = self._layout.yield_point(point)
        self._words[base + YIELD_POINT["suspended"]] = len(waiting)
        self._words[base + YIELD_POINT["oldest_ns"]] = _oldest(waiting)

    def _locate(self, traced: TracedCoroutine, yielded: Any) -> int:
        """The yield point: the innermost frame of the highest kind in the await chain, and the first thing with a name below it."""
        owner, callee, best = traced.__wrapped__, None, -1
        below = False
        link = traced.__wrapped__
        for _ in range(MAX_DEPTH):
            if link is None:
                break
            if below and not opaque(link):
                callee, below = link, False
            code = code_of(link)
            if code is not None:
                kind = self._kind_of(link, code)
                if kind >= best:
                    owner, callee, best, below = link, None, kind, True
            link = awaited_by(link)
        key = (traced._record, *_position(owner), *_identity(callee, yielded))
        point = self._points.get(key)
        if point is None:
            point = self._directory.yield_point(traced._record, owner, callee, yielded)
            _keep(self._points, key, point)
        return point

    def _callback_point(self, callback: Any) -> int:
        key = (CALLBACKS, *identity(callback))
        point = self._points.get(key)
        if point is None:
            point = self._directory.callback(callback)
            _keep(self._points, key, point)
        return point

    def _request_wait(self, request: int, point: int) -> int:
        key = (request, point)
        record = self._request_waits.get(key)
        if record is None:
            record = self._directory.request_wait(request, point)
            _keep(self._request_waits, key, record)
        return record

    def _kind_of(self, link: Any, code: types.CodeType) -> int:
        kind = self._kinds.get(code)
        if kind is None:
            kind = self._directory.kind(link)
            _keep(self._kinds, code, kind)
        return kind


def _is_coroutine(obj: Any) -> bool:
    """Whether a task takes it; if not, asyncio shall say so."""
    return type(obj) is types.CoroutineType or iscoroutine(obj)


def _oldest(waiting: OrderedDict[int, int]) -> int:
    while True:
        try:
            return next(iter(waiting.values()), 0)
        except RuntimeError:  # garbage collection came between, and a task with it that was waiting here
            continue


def _status(error: BaseException) -> int:
    if isinstance(error, StopIteration):
        return COMPLETED
    return CANCELLED if isinstance(error, CancelledError | GeneratorExit) else FAILED


def _position(owner: Any) -> tuple[Any, int]:
    frame = frame_of(owner)
    return (type(owner), 0) if frame is None else (frame.f_code, frame.f_lasti)


def _identity(callee: Any, yielded: Any) -> tuple[Any, ...]:
    """What makes two awaits of one instruction different yield points: the callee's code, or its type and that of the future."""
    return (code_of(callee) or type(callee), type(yielded))


def _keep(cache: dict[Any, int], key: Any, value: int) -> None:
    if len(cache) >= CACHE_ENTRIES:
        cache.clear()
    cache[key] = value
