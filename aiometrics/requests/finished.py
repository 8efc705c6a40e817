"""Requests that are over, and who is told of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from aiometrics.base.internal_errors import STAYS_ON, InternalErrors
from aiometrics.pages.snapshot import Exemplar

PROBE = "request_observer"

_Row = tuple[int, int, int, int]


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


class Charge(NamedTuple):
    """What a request took at one yield point: segments that ended there, their ns, waits, and the ns of blocking segments."""

    coroutine: str
    yield_point: str
    awaits: str
    segments: int
    active_ns: int
    wait_ns: int
    blocking_ns: int


@dataclass(frozen=True, slots=True)
class FinishedRequest:
    """A request that is over. ``started`` is Unix time in ns; ``active_ns`` is the sum over ``points``."""

    request: str
    id: str | None
    status: str
    started: int
    wall_ns: int
    active_ns: int
    objective_ns: int | None
    attributes: Mapping[str, Any]
    #: What it was charged with by key, and what the labels of a key are: most requests are not asked for more.
    charges: Sequence[tuple[int, int, int, int, int]]
    labels: Callable[[int], tuple[str, str, str]] = field(repr=False)
    #: Keeps an exemplar of its wall time, where that was counted.
    keep_exemplar: Callable[[Exemplar], None] = field(repr=False)
    #: Tasks, steps and how many were dropped, if they were kept, and the clock's reading when the request was entered.
    recorded_steps: tuple[list[_Row], list[_Row], int] | None = None
    entered_ns: int = 0

    @property
    def points(self) -> tuple[Charge, ...]:
        """What it took at each yield point, in the order in which they were met. For any thread."""
        return tuple(Charge(*self.labels(key), *numbers) for key, *numbers in self.charges)

    @property
    def timeline(self) -> Timeline:
        """What its tasks did, step by step, if it was traced. For any thread."""
        if self.recorded_steps is None:
            return Timeline()
        tasks, steps, dropped = self.recorded_steps
        since = self.entered_ns
        return Timeline(
            tuple(
                TaskEntry(number, creator, self.labels(~record)[0], at_ns - since)
                for number, creator, record, at_ns in tasks
            ),
            tuple(
                Step(number, *self.labels(key)[1:], begin_ns - since, end_ns - since)
                for number, key, begin_ns, end_ns in steps
            ),
            dropped,
        )


Observer = Callable[[FinishedRequest], None]


class Observers:
    """Whom to tell of requests that are over, in the context of the task that left them; they must be quick.

    ``every`` is told of each, ``slow`` of those that took longer than their objective, or than ``limit_ns`` if they have none. Who raises
    is counted as the probe ``request_observer``, and told nothing any more.
    """

    def __init__(self, limit_ns: int, internal_errors: InternalErrors) -> None:
        self.every: list[Observer] = []
        self.slow: list[Observer] = []
        self._limit_ns = limit_ns
        self._internal_errors = internal_errors

    def interested_in(self, wall_ns: int, objective_ns: int | None) -> tuple[Observer, ...]:
        """Whom to tell of a request that took so long."""
        slow = wall_ns > (self._limit_ns if objective_ns is None else objective_ns)
        return (*self.every, *self.slow) if slow else tuple(self.every)

    def notify(self, observers: tuple[Observer, ...], finished: FinishedRequest) -> None:
        """Tell them. Never raises."""
        for observer in observers:
            try:
                observer(finished)
            except Exception as error:  # noqa: BLE001 - whatever it is, the application did not ask for it
                self._internal_errors.report(PROBE, error, STAYS_ON)
                for told in (self.every, self.slow):
                    if observer in told:
                        told.remove(observer)
