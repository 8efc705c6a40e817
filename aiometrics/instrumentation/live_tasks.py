"""Lists the live tasks of the process for people who look, also while a loop is blocked."""

from __future__ import annotations

import _asyncio
import asyncio
import heapq
import re
import weakref
from asyncio import tasks
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from aiometrics.base.clock import Clock
from aiometrics.base.unpatched import getpid
from aiometrics.base.yielding import Pause, in_slices
from aiometrics.exposition.task_list import LiveTask, Parent, RequestOfTask, TaskList
from aiometrics.instrumentation.traced_loops import KnownLoop, TracedLoops
from aiometrics.instrumentation.untraced import alive
from aiometrics.recorder.await_chain import code_of, links, opaque, peek
from aiometrics.recorder.implementation import Implementation
from aiometrics.recorder.places import Places, type_name
from aiometrics.recorder.stack import calls
from aiometrics.recorder.task_state import TaskState
from aiometrics.recorder.traced import DONE, NEW, RUNNING, SUSPENDED

#: Live tasks that are looked at; frames of one task that are named.
_MAX_TASKS, _MAX_FRAMES = 100_000, 32
#: Creators that are followed from one task to the next.
_MAX_CREATORS = 16
#: Tasks that are looked at between two pauses: about 0.1 ms of work.
_SLICE = 100
_STATES = {NEW: "created", SUSPENDED: "waiting", RUNNING: "running"}
#: The names that asyncio gives.
_AUTOMATIC = re.compile(r"Task-\d+")
_NAMES: tuple[tuple[type, Callable[[Any], Any]], ...] = tuple(
    (kind, vars(kind)["get_name"])
    for kind in (_asyncio.Task, getattr(tasks, "_PyTask", None))
    if kind is not None
)
_Key = tuple[int, int]


@dataclass(frozen=True, slots=True)
class _Found:
    """A live task, without a reference that would keep it alive."""

    task: Callable[[], Any]
    #: 0 if it is not traced, as is its number.
    created_ns: int
    key: _Key


class LiveTasks:
    """Describes the live tasks of all loops. Any thread may ask; no code of the application runs.

    ``unix_clock`` tells the time of the list, ``clock`` is that of the recorders.
    """

    def __init__(
        self,
        loops: TracedLoops,
        places: Places,
        implementation: Implementation,
        clock: Clock,
        unix_clock: Clock,
    ) -> None:
        self._loops = loops
        self._places = places
        self._stack_of_thread = implementation.stack_of_thread
        self._state_of = implementation.state_of
        self._clock = clock
        self._unix_clock = unix_clock

    def take(self, limit: int, pause: Pause) -> TaskList:
        """Return the ``limit`` oldest tasks; ``pause`` is called now and then."""
        found = list(self._found(pause))
        by_key = {entry.key: entry for entry in found if entry.created_ns}
        known = {id(loop.recorder): loop for loop in self._loops.traced()}
        oldest = heapq.nsmallest(limit, found, key=_age_order)
        described = []
        for entry in oldest:
            task = self._described(entry, by_key, known)
            if task is not None:
                described.append(task)
            pause()
        return TaskList(self._unix_clock(), getpid(), tuple(described), len(found) - len(oldest))

    def lineages(self, pause: Pause) -> Counter[tuple[str, ...]]:
        """Count the traced tasks by their coroutine and those of the tasks that created them.

        The coroutine of a task is the last of its lineage, which begins with the task whose creator
        is over, or is no task.
        """
        by_key = {entry.key: entry for entry in self._found(pause) if entry.created_ns}
        entries = in_slices(by_key.values(), pause)
        return Counter(filter(None, (self._lineage(entry, by_key) for entry in entries)))

    def _lineage(self, entry: _Found, by_key: Mapping[_Key, _Found]) -> tuple[str, ...]:
        names: list[str] = []
        found: _Found | None = entry
        while found is not None and len(names) <= _MAX_CREATORS:
            state = self._state(found.task())
            if state is None:
                break
            names.append(self._places.coroutine(state.root))
            found = by_key.get((id(state.recorder), state.creator)) if state.creator else None
        return tuple(reversed(names))

    def _found(self, pause: Pause) -> Iterator[_Found]:
        references = [weakref.ref(task) for task in alive(self._loops.alive(), _MAX_TASKS)]
        for number, reference in enumerate(references, 1):
            state = self._state(reference())
            if state is None:
                yield _Found(reference, 0, (0, number))
            elif state.state != DONE:
                yield _Found(reference, state.created_ns, (id(state.recorder), state.number))
            if number % _SLICE == 0:
                pause()

    def _state(self, task: Any) -> TaskState | None:
        state = None if task is None else self._state_of(getattr(task, "_coro", None))
        return None if state is None else TaskState(*state)

    def _described(
        self, found: _Found, by_key: Mapping[_Key, _Found], known: Mapping[int, KnownLoop]
    ) -> LiveTask | None:
        task = found.task()
        if task is None or task.done():
            return None
        state = self._state(task)
        root = _root(task, state)
        if root is None:
            return None
        coroutine, name = self._places.coroutine(root), _given_name(task)
        if state is None:
            return LiveTask(coroutine, name, **self._chain(task, root))
        loop, now_ns = known.get(id(state.recorder)), self._clock()
        return LiveTask(
            coroutine,
            name,
            loop=None if loop is None or loop.slot is None else loop.slot.name,
            number=state.number,
            state=_STATES.get(state.state),
            age_ns=now_ns - state.created_ns,
            state_ns=now_ns - (state.created_ns if state.state == NEW else state.since_ns),
            adopted=state.adopted,
            parent=self._parent(state, by_key),
            request=_request(state.scope),
            **self._running_chain(loop, state) or self._chain(task, root),
        )

    def _parent(self, state: TaskState, by_key: Mapping[_Key, _Found]) -> Parent | None:
        if not state.creator:
            return None
        found = by_key.get((id(state.recorder), state.creator))
        creator = None if found is None else self._state(found.task())
        return Parent(
            state.creator, None if creator is None else self._places.coroutine(creator.root)
        )

    def _running_chain(self, loop: KnownLoop | None, state: TaskState) -> dict[str, Any]:
        """Return the calls in progress, which the chain of awaits does not show."""
        ident = None if loop is None or loop.slot is None else loop.slot.loop_stats.thread_ident
        if state.state != RUNNING or ident is None:
            return {}
        found = calls(self._stack_of_thread(ident))
        return _shortened([*map(str, reversed(found))])

    def _chain(self, task: Any, root: Any) -> dict[str, Any]:
        frames = [link for link in links(root) if code_of(link) is not None and not opaque(link)]
        shown = _shortened(frames)
        waiter = getattr(task, "_fut_waiter", None)
        of = self._root_of(waiter)
        return {
            "chain": tuple(map(self._places.yield_point, shown["chain"])),
            "chain_left_out": shown["chain_left_out"],
            "awaits": None if waiter is None else type_name(type(waiter)),
            "awaits_coroutine": None if of is None else self._places.coroutine(of),
        }

    def _root_of(self, waiter: Any) -> Any:
        if not isinstance(waiter, asyncio.Future):
            return None
        return _root(waiter, self._state(waiter))


def _root(task: Any, state: TaskState | None) -> Any:
    if state is not None:
        return state.root
    coro = getattr(task, "_coro", None)
    return peek(coro, "__wrapped__") or coro


def _age_order(found: _Found) -> tuple[bool, int, int]:
    return (not found.created_ns, found.created_ns, found.key[1])


def _given_name(task: Any) -> str | None:
    """Return the name that somebody gave a task, without calling a method that is not asyncio's."""
    for kind, get_name in _NAMES:
        if isinstance(task, kind):
            name = get_name(task)
            return None if not isinstance(name, str) or _AUTOMATIC.fullmatch(name) else name
    return None


def _request(scope: Any) -> RequestOfTask | None:
    return None if scope is None else RequestOfTask(scope.type, scope.id)


def _shortened(found: Iterable[Any]) -> dict[str, Any]:
    """Return the outermost and the innermost of many links, and how many are left out between."""
    chain = tuple(found)
    left_out = max(0, len(chain) - _MAX_FRAMES)
    half = _MAX_FRAMES // 2
    if left_out:
        chain = (*chain[:half], *chain[-half:])
    return {"chain": chain, "chain_left_out": left_out}
