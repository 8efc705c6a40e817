"""Request scopes, which add up what the tasks of one request take: the twin of ``csrc/scope.c``.

A task belongs to one scope at a time: to the innermost one that was entered in the task itself and
not left yet, else to the one that its context had at its first step. A segment in which that
changes is divided there, and the part that belongs to the scope that is interrupted or left is
charged at the pseudo point ``(request)``. Its key says where that part began: at a yield point, or
with the task or the scope.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

from aiometrics.pages.layout import CALLBACKS, REQUEST, REQUEST_WAIT, SCOPE_ERRORS
from aiometrics.recorder.deferred import deferring

if TYPE_CHECKING:
    from aiometrics.recorder.recorder import Recorder
    from aiometrics.recorder.traced import TracedCoroutine

#: The request scope that code runs in. Tasks inherit it like any context variable.
current_scope: ContextVar[Any] = ContextVar("aiometrics_request_scope")

NEW, OPEN, OVER, LEFT = range(4)
#: Places that one request tells apart; the rest is charged to (other).
MAX_POINTS = 64
#: Scopes that may be nested. Beyond that the outermost counts as abandoned.
MAX_NESTED = 64
#: Tasks, and steps, that a timeline can hold.
MAX_TIMELINE = 1000
OTHER_POINT = 0
_ABANDONED, _OUT_OF_ORDER, _FOREIGN_TASK, _FOREIGN_LOOP = (
    SCOPE_ERRORS.index(kind)
    for kind in ("abandoned", "out_of_order", "foreign_task", "foreign_loop")
)

#: The key of a place, its segments, then ns: active, waiting, and active in blocking segments. A
#: key is a yield point, or the complement of where a part of a segment began: of a yield point or,
#: after the last of those, of the record of a coroutine. Such a part is at ``(request)``.
Charge = tuple[int, int, int, int, int]
#: A task: its number, its creator's number (0 if that was no task), the record of its coroutine,
#: and when it was created.
Entry = tuple[int, int, int, int]
#: The number of the task, the key of the place, and when the segment, or the scope's part of it,
#: began and ended.
Step = tuple[int, int, int, int]


class _Timeline:
    """The tasks of a scope and their steps, up to ``MAX_TIMELINE`` of each."""

    def __init__(self) -> None:
        self.tasks: list[Entry] = []
        self.steps: list[Step] = []
        self.dropped = 0

    def add_task(self, task: TracedCoroutine) -> None:
        """Add a task that belongs to the scope from now on."""
        self._add(self.tasks, (task._number, task._creator, task._record, task._created_ns))

    def add_step(self, task: TracedCoroutine, key: int, begin_ns: int, end_ns: int) -> None:
        """Add a step, or a part of one, of one of the tasks."""
        self._add(self.steps, (task._number, key, begin_ns, end_ns))

    def _add(
        self, entries: list[tuple[int, int, int, int]], entry: tuple[int, int, int, int]
    ) -> None:
        if len(entries) < MAX_TIMELINE:
            entries.append(entry)
        else:
            self.dropped += 1


class RequestScope:
    """One request on one loop. It measures from when it is entered until its recorder retires."""

    __slots__ = (
        "__weakref__",
        "_charges",
        "_entered_in",
        "_record",
        "_recorder",
        "_state",
        "_timeline",
        "entered_in_record",
        "entered_ns",
        "outer",
    )

    def __init__(self) -> None:
        self._state = NEW
        self._recorder: Recorder | None = None
        self._record = 0
        #: Segments, then active, wait and blocking ns, by key.
        self._charges: dict[int, list[int]] = {}
        #: The task that entered it.
        self._entered_in: weakref.ref[TracedCoroutine] | None = None
        self._timeline: _Timeline | None = None
        #: The record of that task's coroutine, 0 if it is not entered in a task.
        self.entered_in_record = 0
        #: The reading of the clock when it was entered.
        self.entered_ns = 0
        #: The scope that continues when this one is left.
        self.outer: RequestScope | None = None

    def enter(self, recorder: Recorder, record: int) -> bool:
        """Begin in the running task, as a request of that record. Works once.

        Return whether the request is measured.
        """
        if recorder.retired or self._state != NEW:
            return False
        try:
            self._enter(recorder, record, recorder._clock())
        except BaseException as error:  # noqa: BLE001 - only interrupts reach the application
            recorder._fail(error)
        return not recorder.retired

    def _enter(self, recorder: Recorder, record: int, now: int) -> None:
        task = _task_in_progress(recorder)
        self._recorder, self._record, self.entered_ns, self._state = recorder, record, now, OPEN
        around = task._scope if task is not None else None
        self.outer = around or _open_in_context(self)
        with recorder.page.writing:
            recorder._words[recorder._layout.request(record) + REQUEST["in_progress"]] += 1
            if task is not None:
                divide(task, now)
                task._scope = self
                self._entered_in = weakref.ref(task)
                self.entered_in_record = task._record
            self._limit_nesting()

    def end(self, status: int) -> int:
        """End the request with a status; what its tasks take from now on is background.

        Return its wall time in ns, or -1 if it is not measured any more.
        """
        return -1 if self._state == OVER else self._finish(status, last=False)

    def leave(self, status: int) -> int:
        """End the request unless it has ended, and return the task to the enclosing scope.

        Return the same as :meth:`end`.
        """
        try:
            return self._finish(status, last=True)
        finally:
            self._state = LEFT
            self.outer = None

    def _finish(self, status: int, *, last: bool) -> int:
        recorder = self._recorder
        if recorder is None or recorder.retired or self._state not in (OPEN, OVER):
            return -1
        try:
            wall_ns = self._count_finished(recorder, status, last=last)
        except BaseException as error:  # noqa: BLE001 - only interrupts reach the application
            recorder._fail(error)
            return -1
        recorder.pass_interrupt()
        return wall_ns

    def _count_finished(self, recorder: Recorder, status: int, *, last: bool) -> int:
        state, waits = self._state, self._wait_records(recorder)
        now = recorder._clock()
        if recorder.retired or self._state != state:
            # Either may happen while the waits are named; another loop may own the page by now.
            return -1
        layout, words = recorder._layout, recorder._words
        with recorder.page.writing:
            for task in _in_progress(recorder):
                if task._scope is self:
                    divide(task, now)
            if last:
                self._unlink(recorder)
            self._state = LEFT if last else OVER
            if state == OVER:
                return -1
            words[layout.request(self._record) + REQUEST["in_progress"]] -= 1
            recorder._observe(
                layout.request_wall(self._record, status),
                layout.wait_pieces_ns,
                now - self.entered_ns,
            )
            recorder._observe(
                layout.request_active(self._record), layout.wait_pieces_ns, self._active_ns()
            )
            for key, charge in self._charges.items():
                # A wait that was added while the clock was read has no name: it is (other).
                words[layout.request_wait(waits.get(key, 0)) + REQUEST_WAIT["wait_ns"]] += charge[2]
        return now - self.entered_ns

    def _wait_records(self, recorder: Recorder) -> dict[int, int]:
        """Return where each wait is added, by key; nothing if the request has ended."""
        if self._state != OPEN:
            return {}
        waited = [key for key, charge in self._charges.items() if charge[2]]
        locate = recorder._locator.request_wait
        return {key: recorder.named(0, locate, self._record, key) for key in waited}

    def keep_timeline(self) -> None:
        """Keep each step of the tasks from now on, as far as there is room."""
        if self._timeline is not None:
            return
        self._timeline = _Timeline()
        task = None if self._entered_in is None else self._entered_in()
        if task is not None and self._state == OPEN and not task._recorder.retired:
            self._timeline.add_task(task)

    def timeline(self) -> tuple[list[Entry], list[Step], int] | None:
        """Return the tasks, their steps, and how many of both found no room.

        Times are readings of the clock. ``None`` if no timeline was kept.
        """
        timeline = self._timeline
        return None if timeline is None else (timeline.tasks, timeline.steps, timeline.dropped)

    def charges(self) -> list[Charge]:
        """Return what has been charged, in the order in which the places were met."""
        return [(key, *charge) for key, charge in self._charges.items()]  # type: ignore[misc]  # it has four items

    def abandoned(self) -> None:
        """Do nothing. Subclasses override it to learn that the scope will never be left."""

    @deferring
    def __del__(self) -> None:
        if self._state == OPEN:
            self._abandon()

    def charge_segment(
        self, task: TracedCoroutine, key: int, segment_ns: int, until_ns: int
    ) -> None:
        """Charge a segment of one of the tasks, or this scope's part of it, that ended then."""
        recorder = self._recorder
        if recorder is None:
            return
        if self._state != OPEN:
            recorder._words[recorder._layout.request(self._record) + REQUEST["background_ns"]] += (
                segment_ns
            )
            return
        charge = self._charge(key)
        charge[0] += 1
        charge[1] += segment_ns
        charge[3] += segment_ns if until_ns - task._since_ns >= recorder._threshold_ns else 0
        if self._timeline is not None:
            self._timeline.add_step(task, key, until_ns - segment_ns, until_ns)

    def charge_wait(self, point: int, wait_ns: int) -> None:
        """Charge a wait of one of the tasks."""
        if self._state == OPEN:
            self._charge(point)[2] += wait_ns

    def _charge(self, key: int) -> list[int]:
        charge = self._charges.get(key)
        if charge is None:
            if len(self._charges) >= MAX_POINTS:
                key = OTHER_POINT
            charge = self._charges.setdefault(key, [0, 0, 0, 0])
        return charge

    def _active_ns(self) -> int:
        return sum(charge[1] for charge in self._charges.values())

    def _unlink(self, recorder: Recorder) -> None:
        """Remove the scope from those of the task that entered it.

        Count an error if that is not the running task, or if an inner scope is still open.
        """
        task = None if self._entered_in is None else self._entered_in()
        if task is not _task_in_progress(recorder):
            _count_error(recorder, _FOREIGN_TASK)
        if task is None:
            return
        if task._scope is self:
            task._scope = _recorded_by(recorder, self.outer)
            return
        if task is _task_in_progress(recorder):
            _count_error(recorder, _OUT_OF_ORDER)
        inner = task._scope
        while inner is not None and inner.outer is not self:
            inner = inner.outer
        if inner is not None:
            inner.outer = self.outer

    def _limit_nesting(self) -> None:
        """Abandon the scopes around this one beyond ``MAX_NESTED``."""
        inner: RequestScope = self
        for _ in range(MAX_NESTED):
            if inner.outer is None:
                return
            inner = inner.outer
        outermost, inner.outer = inner.outer, None
        while outermost is not None:
            outermost._abandon()
            outermost = outermost.outer

    def _abandon(self) -> None:
        state, self._state = self._state, LEFT
        self._entered_in = None
        recorder = self._recorder
        if state == OPEN and recorder is not None and not recorder.retired:
            recorder.page.update(self._count_abandoned, recorder)
        if state == OPEN:
            self.abandoned()

    def _count_abandoned(self, recorder: Recorder) -> None:
        base, active_ns = recorder._layout.request(self._record), self._active_ns()
        recorder._words[base + REQUEST["in_progress"]] -= 1
        recorder._words[base + REQUEST["background_ns"]] += active_ns
        _count_error(recorder, _ABANDONED)


def attach(task: TracedCoroutine, recorder: Recorder) -> None:
    """Give a task, at its first step, to the scope of its context."""
    scope = current_scope.get(None)
    if not isinstance(scope, RequestScope) or scope._recorder is None:
        return
    if scope._recorder is recorder:
        task._scope, task._divided_ns = scope, 0
        if scope._timeline is not None and scope._state == OPEN:
            scope._timeline.add_task(task)
    elif not scope._recorder.retired:
        _count_error(recorder, _FOREIGN_LOOP)


def detach(task: TracedCoroutine) -> None:
    """Remove a task that is over from its scopes. It cannot leave them any more."""
    scope = task._scope
    while scope is not None:
        if scope._entered_in is not None and scope._entered_in() is task:
            scope._entered_in = None
        scope = scope.outer
    task._scope = None


def divide(task: TracedCoroutine, now: int) -> None:
    """Charge the segment in progress so far to the task's scope; the rest may be another's."""
    until = now if task is task._recorder._current else task._paused_ns
    elapsed_ns = until - task._since_ns
    if task._scope is not None:
        task._scope.charge_segment(task, _part(task), elapsed_ns - task._divided_ns, until)
    task._divided_ns = elapsed_ns


def _part(task: TracedCoroutine) -> int:
    """Return the key for the part of the task's segment since it was divided last."""
    if task._point > 0 and not task._divided_ns:
        return ~task._point
    return ~(task._recorder._layout.max_yield_points + 1 + task._record)


def _in_progress(recorder: Recorder) -> Iterator[TracedCoroutine]:
    """Yield the tasks with a segment in progress, the innermost first."""
    task = recorder._current
    while task is not None:
        yield task
        task = task._outer


def _task_in_progress(recorder: Recorder) -> TracedCoroutine | None:
    """Return the running task, or ``None`` in a callback."""
    task = recorder._current
    return None if task is None or task._record == CALLBACKS else task


def _open_in_context(entered: RequestScope) -> Any:
    """Return the scope of the context, if it is another one that was not left."""
    scope = current_scope.get(None)
    return (
        scope
        if isinstance(scope, RequestScope) and scope is not entered and scope._state != LEFT
        else None
    )


def _recorded_by(recorder: Recorder, scope: Any) -> Any:
    """Return ``scope`` if ``recorder`` records it, else ``None``."""
    return scope if scope is not None and scope._recorder is recorder else None


def _count_error(recorder: Recorder, error: int) -> None:
    recorder._words[recorder._layout.scope_errors + error] += 1
