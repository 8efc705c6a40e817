"""What the tasks of one request did, step by step: kept for the few requests that are traced."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple


class TaskEntry(NamedTuple):
    """A task of the request: numbers are given as tasks are created, ``parent`` is the one that ran then, 0 if none did.

    Times here and in steps are ns since the request was entered.
    """

    number: int
    parent: int
    coroutine: str
    created_ns: int


class Step(NamedTuple):
    """One segment of a task, or the part of it that is the request's, and where it ended."""

    task: int
    yield_point: str
    awaits: str
    begin_ns: int
    end_ns: int


@dataclass(frozen=True, slots=True)
class Timeline:
    """Tasks in the order in which they were created, steps in the order in which they ended, and how many found no room."""

    tasks: tuple[TaskEntry, ...] = ()
    steps: tuple[Step, ...] = ()
    dropped: int = 0
