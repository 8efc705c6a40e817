"""The live tasks of a process, as JSON for programs and as text for people."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from aiometrics.base.clock import SECOND_NS
from aiometrics.exposition.text_table import ascii_name

_MINUTE, _HOUR, _DAY = 60, 3600, 86400


@dataclass(frozen=True, slots=True)
class Parent:
    """The task that created another one.

    ``coroutine`` is ``None`` if it is over. Numbers are those of the tasks of one loop.
    """

    number: int
    coroutine: str | None


@dataclass(frozen=True, slots=True)
class RequestOfTask:
    """The request that a task works for."""

    type: str
    id: str | None


@dataclass(frozen=True, slots=True)
class LiveTask:
    """A task that is not done; times are in ns.

    A task that is not traced has neither loop, number, state nor age.
    """

    coroutine: str
    #: The name that somebody gave it; ``None`` if it has the automatic one.
    name: str | None = None
    loop: str | None = None
    number: int | None = None
    #: ``"created"``, ``"waiting"`` or ``"running"``.
    state: str | None = None
    #: Since it was created, and since it is in its state.
    age_ns: int | None = None
    state_ns: int | None = None
    #: Whether it ran before it was found, so that it is older than its age.
    adopted: bool = False
    parent: Parent | None = None
    request: RequestOfTask | None = None
    #: Its frames, from the root coroutine to the innermost one, and how many are left out in the
    #: middle.
    chain: tuple[str, ...] = ()
    chain_left_out: int = 0
    #: The type of the future that it waits for, and the coroutine of the task if it is one.
    awaits: str | None = None
    awaits_coroutine: str | None = None


@dataclass(frozen=True, slots=True)
class TaskList:
    """The oldest tasks, the oldest first, and then those whose age is not known."""

    #: Unix time in ns.
    taken_ns: int
    process_id: int
    tasks: tuple[LiveTask, ...]
    #: Live tasks that are not in the list.
    left_out: int

    def as_json(self) -> str:
        """Return an object; durations are in seconds, and what is not known is ``null``."""
        return json.dumps(
            {
                "taken_timestamp_seconds": self.taken_ns / SECOND_NS,
                "process_id": self.process_id,
                "left_out": self.left_out,
                "tasks": [_as_object(task) for task in self.tasks],
            }
        )

    def as_text(self) -> str:
        """Return a paragraph of ASCII for each task."""
        return "\n".join(self._lines()) + "\n"

    def _lines(self) -> Iterator[str]:
        rest = f", {self.left_out} more left out" if self.left_out else ""
        count = len(self.tasks)
        yield f"{count} live task{'' if count == 1 else 's'}, oldest first{rest}"
        for task in self.tasks:
            yield ""
            yield from map(ascii_name, _paragraph(task))


def _as_object(task: LiveTask) -> dict[str, Any]:
    parent, request = task.parent, task.request
    return {
        "coroutine": task.coroutine,
        "name": task.name,
        "loop": task.loop,
        "number": task.number,
        "state": task.state,
        "age_seconds": _in_seconds(task.age_ns),
        "state_seconds": _in_seconds(task.state_ns),
        "adopted": task.adopted,
        "parent": parent and {"number": parent.number, "coroutine": parent.coroutine},
        "request": request and {"type": request.type, "id": request.id},
        "chain": task.chain,
        "chain_left_out": task.chain_left_out,
        "awaits": task.awaits,
        "awaits_coroutine": task.awaits_coroutine,
    }


def _in_seconds(ns: int | None) -> float | None:
    return None if ns is None else ns / SECOND_NS


def _paragraph(task: LiveTask) -> Iterator[str]:
    yield _heading(task)
    if task.parent is not None:
        creator = task.parent.coroutine or "a task that is over"
        yield f"  created by #{task.parent.number} {creator}"
    if task.request is not None:
        request_id = "" if task.request.id is None else f" {task.request.id}"
        yield f"  request {task.request.type}{request_id}"
    for number, frame in enumerate(task.chain):
        if task.chain_left_out and number == len(task.chain) // 2:
            yield f"    ... {task.chain_left_out} more frames"
        yield f"    {frame}"
    if task.awaits is not None:
        of = "" if task.awaits_coroutine is None else f" of {task.awaits_coroutine}"
        yield f"    > {task.awaits}{of}"


def _heading(task: LiveTask) -> str:
    number = "" if task.number is None else f"#{task.number} "
    name = "" if task.name is None else f" {task.name!r}"
    if task.age_ns is None or task.state_ns is None:
        return f"{task.coroutine}{name}  not traced"
    age = f"{'over ' if task.adopted else ''}{duration(task.age_ns)} old"
    state = f"{task.state} for {duration(task.state_ns)}"
    return f"{number}{task.coroutine}{name}  {age}, {state}  loop {task.loop}"


def duration(ns: int) -> str:
    """Return a duration in the two units that matter, such as ``3 min 20 s``."""
    seconds = ns / SECOND_NS
    if seconds < 1:
        return f"{seconds * 1000:.1f} ms"
    if seconds < _MINUTE:
        return f"{seconds:.1f} s"
    whole = int(seconds)
    if whole < _HOUR:
        return f"{whole // _MINUTE} min {whole % _MINUTE} s"
    if whole < _DAY:
        return f"{whole // _HOUR} h {whole % _HOUR // _MINUTE} min"
    return f"{whole // _DAY} d {whole % _DAY // _HOUR} h"
