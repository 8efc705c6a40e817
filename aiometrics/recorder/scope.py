"""Request scopes in pure Python: what the tasks of one request take, charged to it as their segments and waits end.

The readable specification of ``csrc/scope.c``. A task belongs to one scope at a time: the one that its context had at its first step, or
the innermost one that was entered in the task itself and not left yet. A segment in which that changes is divided there: what belongs to
the scope that is interrupted or left is charged at the pseudo point ``(request)``.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

from aiometrics.pages.layout import CALLBACKS, REQUEST, REQUEST_WAIT, SCOPE_ERRORS

if TYPE_CHECKING:
    from aiometrics.recorder.recorder import Recorder
    from aiometrics.recorder.traced import TracedCoroutine

#: The request scope that a piece of code runs in; tasks inherit it as they inherit every context variable.
current_scope: ContextVar[Any] = ContextVar("aiometrics_request_scope")

NEW, OPEN, OVER, LEFT = range(4)
#: Places that are told apart within one request; the rest is (other).
MAX_POINTS = 64
#: Scopes that are open around one another. Beyond, the outermost is taken for one that nobody will leave.
MAX_NESTED = 64
#: Tasks, and steps, that a scope can keep if it is asked to.
MAX_JOURNAL = 1000
OTHER_POINT = 0
_ABANDONED, _OUT_OF_ORDER, _FOREIGN_TASK, _FOREIGN_LOOP = (
    SCOPE_ERRORS.index(kind)
    for kind in ("abandoned", "out_of_order", "foreign_task", "foreign_loop")
)

#: Key of a place (a yield point, or ``~record`` for the pseudo point ``(request)`` of that coroutine), segments, then ns: active,
#: waiting, and active in blocking segments.
Charge = tuple[int, int, int, int, int]


#: A task: its number, that of the task that created it (0 if it was none), the record of its coroutine, and when it was created.
Entry = tuple[int, int, int, int]
#: Number of the task, key of the place, when the segment, or the scope's part of it, began, and when it ended.
Step = tuple[int, int, int, int]


class _Timeline:
    """The tasks of a scope and their steps, each of them up to a bound."""

    def __init__(self) -> None:
        self.tasks: list[Entry] = []
        self.steps: list[Step] = []
        self.dropped = 0

    def add_task(self, task: TracedCoroutine) -> None:
        """A task belongs to the scope from now on."""
        self._add(self.tasks, (task._number, task._creator, task._record, task._created_ns))

    def add_step(self, task: TracedCoroutine, key: int, begin_ns: int, end_ns: int) -> None:
        """A step of one of them ended."""
        self._add(self.steps, (task._number, key, begin_ns, end_ns))

    def _add(
        self, entries: list[tuple[int, int, int, int]], entry: tuple[int, int, int, int]
    ) -> None:
        if len(entries) < MAX_JOURNAL:
            entries.append(entry)
        else:
            self.dropped += 1


class RequestScope:
    """One request on one loop. Until it is entered, and once its recorder is retired, it measures nothing."""

    __slots__ = (
        "__weakref__",
        "_charges",
        "_entered_in",
        "_record",
        "_recorder",
        "_state",
        "_timeline",
        "entered_ns",
        "outer",
    )

    def __init__(self) -> None:
        self._state = NEW
        self._recorder: Recorder | None = None
        self._record = 0
        #: Count, active, wait and blocking ns by key.
        self._charges: dict[int, list[int]] = {}
        #: The task that entered it.
        self._entered_in: weakref.ref[TracedCoroutine] | None = None
        self._timeline: _Timeline | None = None
        #: Clock reading of the moment it was entered.
        self.entered_ns = 0
        #: The scope that goes on when this one is left.
        self.outer: RequestScope | None = None

    def enter(self, recorder: Recorder, record: int) -> bool:
        """Begin, as a request of that record, in the task that runs. Tells whether it is measured. Once only."""
        if recorder.retired or self._state != NEW:
            return False
        try:
            self._enter(recorder, record, recorder._clock())
        except BaseException as error:  # noqa: BLE001 - never the application's problem, but for an interrupt
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
            self._cut()

    def end(self, status: int) -> int:
        """End with that status; what its tasks take from now on is background. Wall time in ns, or -1 if nothing is measured any more."""
        return -1 if self._state == OVER else self._finish(status, last=False)

    def leave(self, status: int) -> int:
        """End with that status, unless it has ended, and give the task back to the scope around. As :meth:`end`."""
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
            return self._count_finished(recorder, status, last=last)
        except BaseException as error:  # noqa: BLE001 - never the application's problem, but for an interrupt
            recorder._fail(error)
            return -1

    def _count_finished(self, recorder: Recorder, status: int, *, last: bool) -> int:
        state, waits = self._state, self._wait_records(recorder)
        now = recorder._clock()
        if (
            recorder.retired or self._state != state
        ):  # while the waits were named: the page may be another's now
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
                layout.wait_bounds_ns,
                now - self.entered_ns,
            )
            recorder._observe(
                layout.request_active(self._record), layout.wait_bounds_ns, self._active_ns()
            )
            for key, charge in self._charges.items():
                # What came after the waits were named, while the clock was read, is (other).
                words[layout.request_wait(waits.get(key, 0)) + REQUEST_WAIT["wait_ns"]] += charge[2]
        return now - self.entered_ns

    def _wait_records(self, recorder: Recorder) -> dict[int, int]:
        """The record of what was waited for, by key; of none if that was counted."""
        if self._state != OPEN:
            return {}
        waited = [key for key, charge in self._charges.items() if charge[2]]
        return {key: recorder._locator.request_wait(self._record, key) for key in waited}

    def keep_timeline(self) -> None:
        """From now on keep each step of its tasks, as far as there is room."""
        if self._timeline is not None:
            return
        self._timeline = _Timeline()
        task = None if self._entered_in is None else self._entered_in()
        if task is not None and self._state == OPEN and not task._recorder.retired:
            self._timeline.add_task(task)

    def timeline(self) -> tuple[list[Entry], list[Step], int] | None:
        """Tasks, steps, and how many of both found no room; ``None`` if it was not kept. Times are clock readings."""
        timeline = self._timeline
        return None if timeline is None else (timeline.tasks, timeline.steps, timeline.dropped)

    def charges(self) -> list[Charge]:
        """What was charged by now, in the order in which the places were met."""
        return [(key, *charge) for key, charge in self._charges.items()]  # type: ignore[misc]  # four of them

    def abandoned(self) -> None:
        """Called when it turns out that nobody will leave the scope; for subclasses."""

    def __del__(self) -> None:
        if self._state == OPEN:
            self._abandon()

    def charge_segment(
        self, task: TracedCoroutine, key: int, segment_ns: int, until_ns: int
    ) -> None:
        """A segment of one of the tasks, or this scope's part of it, ended then, having lasted so long."""
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
        """One of the tasks waited."""
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
        """Take it from among the scopes of the task that entered it, and count it if that is another one or has an inner one open."""
        task = None if self._entered_in is None else self._entered_in()
        if task is not _task_in_progress(recorder):
            _count(recorder, _FOREIGN_TASK)
        if task is None:
            return
        if task._scope is self:
            task._scope = _of(recorder, self.outer)
            return
        if task is _task_in_progress(recorder):
            _count(recorder, _OUT_OF_ORDER)
        inner = task._scope
        while inner is not None and inner.outer is not self:
            inner = inner.outer
        if inner is not None:
            inner.outer = self.outer

    def _cut(self) -> None:
        """Give up what is further out than a scope can have around it."""
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
            base = recorder._layout.request(self._record)
            recorder._words[base + REQUEST["in_progress"]] -= 1
            recorder._words[base + REQUEST["background_ns"]] += self._active_ns()
            _count(recorder, _ABANDONED)
        if state == OPEN:
            self.abandoned()


def attach(task: TracedCoroutine, recorder: Recorder) -> None:
    """At the first step of a task: it belongs to the scope of its context."""
    scope = current_scope.get(None)
    if not isinstance(scope, RequestScope) or scope._recorder is None:
        return
    if scope._recorder is recorder:
        task._scope, task._divided_ns = scope, 0
        if scope._timeline is not None and scope._state == OPEN:
            scope._timeline.add_task(task)
    elif not scope._recorder.retired:
        _count(recorder, _FOREIGN_LOOP)


def detach(task: TracedCoroutine) -> None:
    """The task is over, and what it did not leave it will not leave any more."""
    scope = task._scope
    while scope is not None:
        if scope._entered_in is not None and scope._entered_in() is task:
            scope._entered_in = None
        scope = scope.outer
    task._scope = None


def divide(task: TracedCoroutine, now: int) -> None:
    """Charge the segment in progress to the task's scope by now; the rest may be another's."""
    until = now if task is task._recorder._current else task._paused_ns
    elapsed_ns = until - task._since_ns
    if task._scope is not None:
        task._scope.charge_segment(task, ~task._record, elapsed_ns - task._divided_ns, until)
    task._divided_ns = elapsed_ns


def _in_progress(recorder: Recorder) -> Iterator[TracedCoroutine]:
    """The segments in progress, from the innermost on."""
    task = recorder._current
    while task is not None:
        yield task
        task = task._outer


def _task_in_progress(recorder: Recorder) -> TracedCoroutine | None:
    """The task that runs, ``None`` in a callback."""
    task = recorder._current
    return None if task is None or task._record == CALLBACKS else task


def _open_in_context(entered: RequestScope) -> Any:
    """The scope of the context, if it is another one, and not left."""
    scope = current_scope.get(None)
    return (
        scope
        if isinstance(scope, RequestScope) and scope is not entered and scope._state != LEFT
        else None
    )


def _of(recorder: Recorder, scope: Any) -> Any:
    """``scope``, if its time is recorded there."""
    return scope if scope is not None and scope._recorder is recorder else None


def _count(recorder: Recorder, error: int) -> None:
    recorder._words[recorder._layout.scope_errors + error] += 1
