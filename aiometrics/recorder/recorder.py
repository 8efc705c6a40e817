"""The recorder in Python: the twin of ``csrc/recorder.c``, its specification and its fallback.

A :class:`TracedCoroutine` stands between a task and its coroutine and reports each step to the
:class:`Recorder` of its loop. Each boundary between a segment and a wait is one reading of the
clock, so that segments and waits tile a task's life without gaps or overlaps.
"""

from __future__ import annotations

import os
import threading
import types
from asyncio import CancelledError, iscoroutine
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable
from typing import Any, TypeVar

from aiometrics.base.clock import Clock, monotonic
from aiometrics.base.internal_errors import OFF_FOR_LOOP, InternalErrors, is_interrupt
from aiometrics.pages.layout import (
    CALLBACKS,
    CANCELLED,
    CHAIN_NODE,
    COMPLETED,
    COROUTINE,
    FAILED,
    HEADER,
    LOOP,
    OTHER_POINT_NODE,
    PATH_HASH,
    PATH_PROBES,
    SEGMENT_PATH,
    SQUARE_NS2,
    YIELD_POINT,
)
from aiometrics.pages.page import Page
from aiometrics.pages.snapshot import EAGER_CHILD, RAISE, RETURN
from aiometrics.recorder import scope
from aiometrics.recorder.deferred import deferred
from aiometrics.recorder.labels import Labels
from aiometrics.recorder.locate import Locator
from aiometrics.recorder.suspended import SuspendedTasks
from aiometrics.recorder.traced import (
    DONE,
    NEW,
    OFFERED,
    RUNNING,
    SUSPENDED,
    VISITS,
    TracedCoroutine,
)

T = TypeVar("T")

PROBE = "recorder"
_MASK = (1 << 64) - 1
_NOWHERE = 0, OTHER_POINT_NODE
SEED = 0x9E37_79B9_7F4A_7C15


def random_seed() -> int:
    """Return a seed for the choice of the tasks that are traced.

    It differs for each loop, also after a fork. From one seed, every loop would choose the task
    with the same number, so loops that make few tasks would always trace the same ones, or none.
    """
    return int.from_bytes(os.urandom(8)) or SEED


class Recorder:
    """Writes what happens to one loop's tasks into its page. Only the loop's thread may use it.

    ``blocked(point, segment_ns)`` is called after each segment at or over the blocking threshold.
    An error in the recorder counts as an internal error of the probe ``recorder`` and retires it:
    tasks run on, untimed. ``seed``, which is not 0, decides which tasks are in the sample.
    """

    def __init__(
        self,
        page: Page,
        labels: Labels,
        internal_errors: InternalErrors,
        *,
        clock: Clock = monotonic,
        blocked: Callable[[int, int], None] | None = None,
        seed: int = SEED,
    ) -> None:
        self.page = page
        self.retired = False
        self._labels = labels
        self._internal_errors = internal_errors
        self._clock = clock
        self._blocked = blocked
        self._words = page.words
        self._layout = page.layout
        self._loop = page.layout.loop
        self._threshold_ns = page.words[HEADER["blocking_threshold_ns"]]
        self._weight = page.words[HEADER["weight"]]
        self._draw = seed
        #: How many tasks have been traced.
        self._traced = 0
        self._current: TracedCoroutine | None = None
        #: When the segment that ended last began, and the yield point where it ended.
        self._ended = (0, 0)
        #: The thread in which the loop ran when a task or a callback began.
        self._thread = threading.get_ident()
        self._locator = Locator(labels)
        self._suspended_tasks = SuspendedTasks(page)
        #: The bit of each yield point where a wait has ended; how many of them a coroutine has.
        #: Any task may wait at ``(other)``, whose bit is none of theirs.
        self._visits = {0: 1}
        self._places: Counter[int] = Counter()
        #: An exception for the application that came while a place was named.
        self._interrupt: BaseException | None = None

    def trace(self, coro: Any) -> Any:
        """Return what a new task must run in place of ``coro``, or ``coro`` if it is not traced."""
        if self.retired or not _is_coroutine(coro) or not self._sampled():
            return coro
        try:
            record = self.named(0, self._locator.coroutine, coro)
            traced = TracedCoroutine(coro, self, record, self._clock())
        except (RecursionError, MemoryError):  # the application has used up its stack or its memory
            self.pass_interrupt()
            return coro
        except BaseException as error:  # noqa: BLE001 - only interrupts reach the application
            self._fail(error)
            return coro
        self._traced += 1
        traced._number, traced._creator = (
            self._traced,
            0 if self._current is None else self._current._number,
        )
        self.pass_interrupt()
        return traced

    def admit(self, traced: TracedCoroutine) -> None:
        """Count a task once it exists. A task that starts eagerly is already at its first step."""
        if traced._state != OFFERED:
            return
        traced._state = NEW
        if self.retired:
            return
        try:
            base = self._layout.coroutine(traced._record)
            with self.page.writing:
                self._words[base + COROUTINE["created"]] += 1
                self._words[base + COROUTINE["live"]] += 1
        except BaseException as error:  # noqa: BLE001 - only interrupts reach the application
            self._fail(error)

    @staticmethod
    def abandon(traced: TracedCoroutine) -> None:
        """Forget a coroutine whose task could not be created."""
        if traced._state == OFFERED:
            traced._state = DONE

    def resume(self, traced: TracedCoroutine) -> bool:
        """End the wait or the start delay and begin a segment.

        Return whether the step is timed at all.
        """
        if self.retired or traced._state in (RUNNING, DONE):
            return False
        try:
            now = self._clock()
            with self.page.writing:
                self._end_wait(traced, now)
                self._enter(traced, now)
        except BaseException as error:  # noqa: BLE001 - only interrupts reach the application
            self._fail(error)
            return False
        return True

    def suspend(self, traced: TracedCoroutine, yielded: Any) -> None:
        """End the segment at the await where ``yielded`` came from."""
        if self.retired:
            return
        try:
            since_ns, now = traced._since_ns, self._clock()
            point, node = self.named(
                _NOWHERE, self._locator.suspension, traced._record, traced.__wrapped__, yielded
            )
            now = self._prepare(traced, since_ns, now)
            if self.retired:  # while the place was named; another loop may own the page by now
                return
            with self.page.writing:
                segment_ns = self._finish_segment(traced, point, now)
                self._words[self._layout.chain_node(node) + CHAIN_NODE["active_ns"]] += segment_ns
                traced._state, traced._suspended_ns = SUSPENDED, now
                traced._point, traced._node = point, node
                self._suspended_tasks.add(point, id(traced), now)
            self._notify_blocked(point, segment_ns)
        except BaseException as error:  # noqa: BLE001 - only interrupts reach the application
            self._fail(error)
        self.pass_interrupt()

    def end(self, traced: TracedCoroutine, error: BaseException) -> None:
        """End the last segment: the coroutine returned (``StopIteration``) or raised."""
        traced._state = DONE
        if self.retired:
            return
        try:
            since_ns, now = traced._since_ns, self._clock()
            status = _status(error)
            name = RETURN if status == COMPLETED else RAISE
            point = self.named(0, self._labels.pseudo_point, traced._record, name)
            now = self._prepare(traced, since_ns, now)
            if self.retired:
                return
            with self.page.writing:
                segment_ns = self._finish_segment(traced, point, now)
                self._observe(
                    self._layout.wall(traced._record, status),
                    self._layout.wait_pieces_ns,
                    now - traced._created_ns,
                )
                self._observe(
                    self._layout.active(traced._record, status),
                    self._layout.wait_pieces_ns,
                    traced._active_ns,
                )
                self._words[self._layout.coroutine(traced._record) + COROUTINE["live"]] -= 1
            self._notify_blocked(point, segment_ns)
            scope.detach(traced)
        except BaseException as failure:  # noqa: BLE001 - only interrupts reach the application
            self._fail(failure)
        self.pass_interrupt()

    def enter_callback(self) -> TracedCoroutine | None:
        """Begin the segment of a callback that is not a step of a task; ``None`` if not timed."""
        if self.retired:
            return None
        try:
            now = self._clock()
            self._thread = threading.get_ident()
            traced = TracedCoroutine(None, self, CALLBACKS, now)
            with self.page.writing:
                self._enter(traced, now)
        except BaseException as error:  # noqa: BLE001 - only interrupts reach the application
            self._fail(error)
            return None
        return traced

    def leave_callback(self, traced: TracedCoroutine, callback: Any) -> None:
        """End the segment of a callback."""
        traced._state = DONE
        if self.retired:
            return
        try:
            since_ns, now = traced._since_ns, self._clock()
            point = self.named(0, self._locator.callback, callback)
            now = self._prepare(traced, since_ns, now)
            if self.retired:
                return
            with self.page.writing:
                segment_ns = self._finish_segment(traced, point, now)
            self._notify_blocked(point, segment_ns)
        except BaseException as error:  # noqa: BLE001 - only interrupts reach the application
            self._fail(error)
        self.pass_interrupt()

    def lose(self, traced: TracedCoroutine) -> None:
        """Count a task that was garbage-collected before it was done."""
        if self.retired:
            return
        try:
            base = self._layout.coroutine(traced._record)
            with self.page.writing:
                self._words[base + COROUTINE["live"]] -= 1
                self._words[base + COROUTINE["destroyed_pending"]] += 1
                if traced._state == SUSPENDED:
                    self._suspended_tasks.remove(traced._point, id(traced))
            scope.detach(traced)
        except BaseException as error:  # noqa: BLE001 - only interrupts reach the application
            self._fail(error)

    def retire(self) -> None:
        """Stop for good. Coroutines that are still traced run on untimed."""
        self.retired = True

    def named(self, other: T, name: Callable[..., T], *subjects: Any) -> T:
        """Return the numbers that ``name`` gives, and put an interrupt aside that comes meanwhile.

        Naming takes long, for it asks about new code, and leaves nothing half done: it is repeated.
        Where the application has used up its stack or its memory, they are those of ``other``.
        """
        try:
            try:
                return name(*subjects)
            except BaseException as error:
                if not is_interrupt(error):
                    raise
                self._interrupt = error
            return name(*subjects)
        except (RecursionError, MemoryError):
            return other

    def pass_interrupt(self) -> None:
        """Raise the interrupt that was put aside, now that nothing is half done."""
        interrupt, self._interrupt = self._interrupt, None
        interrupt = interrupt or deferred()
        try:
            if interrupt is not None:
                raise interrupt
        finally:
            del interrupt  # its traceback refers to this frame

    def _fail(self, error: BaseException) -> None:
        """Report an error and retire, since the state of the tasks is no longer known.

        An interrupt was meant for the application and is raised again.
        """
        interrupt = is_interrupt(error)
        if not self.retired:  # else another loop may own the page by now
            self.retire()
            self.page.close_interrupted()
            shown = RuntimeError(f"interrupted by {error!r}") if interrupt else error
            self._internal_errors.report(PROBE, shown, OFF_FOR_LOOP)
        if interrupt:
            raise error

    def _sampled(self) -> bool:
        """Return whether to trace this task, which is true of one in ``weight``.

        The choice is drawn by xorshift, so that no pattern of creation can bias it.
        """
        if self._weight == 1:
            return True
        draw = self._draw
        draw ^= draw << 13 & _MASK
        draw ^= draw >> 7
        draw ^= draw << 17 & _MASK
        self._draw = draw
        return draw % self._weight == 0

    def _observe(self, histogram: int, pieces_ns: tuple[int, ...], duration_ns: int) -> None:
        self._words[histogram] += duration_ns
        self._words[histogram + 1 + bisect_left(pieces_ns, duration_ns)] += 1

    def _end_wait(self, traced: TracedCoroutine, now: int) -> None:
        if traced._state != SUSPENDED:
            self.admit(traced)
            self._thread = threading.get_ident()
            self._observe(
                self._layout.start_delay, self._layout.segment_pieces_ns, now - traced._created_ns
            )
            scope.attach(traced, self)
            return
        wait_ns = now - traced._suspended_ns
        self._count_wait(traced, traced._point, wait_ns)
        node = self._layout.chain_node(traced._node)
        self._words[node + CHAIN_NODE["wait_ns"]] += wait_ns
        self._words[node + CHAIN_NODE["waits"]] += 1
        self._suspended_tasks.remove(traced._point, id(traced))

    def _count_wait(self, traced: TracedCoroutine, point: int, wait_ns: int) -> None:
        self._observe(self._layout.waits(point), self._layout.wait_pieces_ns, wait_ns)
        record = self._layout.yield_point(point)
        self._note_max(record + YIELD_POINT["wait_max_ns"], wait_ns)
        visit = self._visit(traced._record, point)
        if not traced._visited & visit:
            traced._visited |= visit
            self._words[record + YIELD_POINT["wait_tasks"]] += 1
        if traced._scope is not None:
            traced._scope.charge_wait(point, wait_ns)

    def _visit(self, record: int, point: int) -> int:
        """Return the bit of a yield point among those of its coroutine."""
        visit = self._visits.get(point)
        if visit is None:
            visit = self._visits[point] = 2 << self._places[record] % VISITS
            self._places[record] += 1
        return visit

    def _count_segment(self, point: int, segment_ns: int) -> None:
        self._observe(self._layout.segments(point), self._layout.segment_pieces_ns, segment_ns)
        record = self._layout.yield_point(point)
        self._note_max(record + YIELD_POINT["segment_max_ns"], segment_ns)
        square_ns2 = self._words[record + YIELD_POINT["square_ns2"]] + segment_ns * segment_ns
        whole_s2, self._words[record + YIELD_POINT["square_ns2"]] = divmod(square_ns2, SQUARE_NS2)
        self._words[record + YIELD_POINT["square_s2"]] += whole_s2

    def _note_max(self, word: int, duration_ns: int) -> None:
        self._words[word] = max(self._words[word], duration_ns)

    def _enter(self, traced: TracedCoroutine, now: int) -> None:
        """Begin a segment. One that is in progress is the eager parent's, and pauses meanwhile."""
        outer = self._current
        if outer is not None:
            self._settle(outer)
            outer._paused_ns = now
        traced._state, traced._outer = RUNNING, outer
        traced._since_ns, traced._counted_ns = now, 0
        self._show(traced)

    def _leave(self, traced: TracedCoroutine, now: int) -> None:
        """End a segment. The one that it interrupted continues."""
        outer = traced._outer
        if outer is not None and self._current is traced:
            paused_ns = now - outer._paused_ns
            outer._since_ns += paused_ns
            self._count_wait(
                outer, self._labels.pseudo_point(outer._record, EAGER_CHILD), paused_ns
            )
        self._unchain(traced)

    def _unchain(self, traced: TracedCoroutine) -> None:
        """Remove a segment from the chain of those in progress.

        It is the innermost, unless threads or greenlets step tasks of one loop by turns.
        """
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
        """Make final what readers counted under (running) of the segment in progress."""
        self.page.settle()
        traced._counted_ns = self._words[self._loop + LOOP["segment_counted_ns"]]

    def _prepare(self, traced: TracedCoroutine, since_ns: int, now: int) -> int:
        """Name the wait of the interrupted segment, if any; return when the segment ends.

        Naming may step other tasks, since a finalizer can start an eager one. That interrupts the
        segment that began at ``since_ns``, which then lasts until the clock is read again.
        """
        outer = traced._outer
        if outer is not None:
            self.named(0, self._labels.pseudo_point, outer._record, EAGER_CHILD)
        return now if traced._since_ns == since_ns else self._clock()

    def _finish_segment(self, traced: TracedCoroutine, point: int, now: int) -> int:
        """Count the segment and return its length."""
        segment_ns = now - traced._since_ns
        traced._active_ns += segment_ns
        self._count_segment(point, segment_ns)
        self._count_path(traced._point, point, segment_ns)
        self._ended = traced._since_ns, point
        if traced._scope is not None:
            traced._scope.charge_segment(traced, point, segment_ns - traced._divided_ns, now)
            traced._divided_ns = 0
        looked_ns = self._words[self._loop + LOOP["looked_ns"]] - traced._since_ns
        # A reader in another process may look after the segment's end; what it counts stays so.
        if segment_ns >= self._threshold_ns or looked_ns >= self._threshold_ns:
            self._count_blocking(traced, point, segment_ns)
        self._leave(traced, now)
        return segment_ns

    def _count_path(self, began: int, ended: int, segment_ns: int) -> None:
        """Count the segment by the yield points where it began and ended."""
        path = self._path(began, ended)
        self._words[path + SEGMENT_PATH["segments"]] += 1
        self._words[path + SEGMENT_PATH["active_ns"]] += segment_ns

    def _path(self, began: int, ended: int) -> int:
        words, layout = self._words, self._layout
        number = (31 * (began + 1) + ended) * PATH_HASH >> 15
        for probe in range(PATH_PROBES):
            path = layout.segment_path((number + probe) % layout.max_segment_paths)
            if not words[path + SEGMENT_PATH["segments"]]:
                words[path + SEGMENT_PATH["began"]] = began
                words[path + SEGMENT_PATH["ended"]] = ended
                return path
            if (began, ended) == tuple(words[path : path + SEGMENT_PATH["segments"]]):
                return path
        return layout.segment_path(layout.max_segment_paths)

    def _notify_blocked(self, point: int, segment_ns: int) -> None:
        """Call ``blocked`` if the segment reached the blocking threshold."""
        if segment_ns < self._threshold_ns or self._blocked is None:
            return
        try:
            self._blocked(point, segment_ns)
        except BaseException as error:
            if not is_interrupt(error):
                raise
            self._interrupt = error

    def _count_blocking(self, traced: TracedCoroutine, point: int, segment_ns: int) -> None:
        self._settle(traced)
        counted_ns = min(traced._counted_ns, segment_ns)
        self._words[self._layout.yield_point(point) + YIELD_POINT["blocking_ns"]] += (
            segment_ns - counted_ns
        )
        self._words[self._loop + LOOP["blocking_ns"]] += segment_ns - counted_ns
        if not self._words[self._loop + LOOP["timed"]]:
            self._words[self._loop + LOOP["active_ns"]] -= (
                counted_ns * self.page.words[HEADER["weight"]]
            )


def _is_coroutine(obj: Any) -> bool:
    """Return whether a task accepts ``obj``. If not, asyncio raises the error itself."""
    return type(obj) is types.CoroutineType or iscoroutine(obj)


def _status(error: BaseException) -> int:
    if isinstance(error, StopIteration):
        return COMPLETED
    return CANCELLED if isinstance(error, CancelledError | GeneratorExit) else FAILED
