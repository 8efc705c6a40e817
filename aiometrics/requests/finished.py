"""Finished requests, their timelines, and the observers that are called with them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from aiometrics.base.internal_errors import STAYS_ON, InternalErrors
from aiometrics.pages.snapshot import Exemplar
from aiometrics.recorder.labels import Labels

PROBE = "request_observer"

_Row = tuple[int, int, int, int]


class TaskEntry(NamedTuple):
    """A task of a request. Tasks are numbered in the order in which they were created.

    ``parent`` is the number of the task that created it, 0 if none did. Times here and in steps are
    ns since the request was entered.
    """

    number: int
    parent: int
    coroutine: str
    created_ns: int


class Step(NamedTuple):
    """One segment of a task, or the part of it that belongs to the request, and where it ended."""

    task: int
    yield_point: str
    awaits: str
    begin_ns: int
    end_ns: int


class Timeline(NamedTuple):
    """The steps of the tasks of a traced request.

    Tasks are in the order in which they were created, steps in the order in which they ended.
    ``dropped`` is how many of both there was no room for.
    """

    tasks: tuple[TaskEntry, ...] = ()
    steps: tuple[Step, ...] = ()
    dropped: int = 0


class Charge(NamedTuple):
    """The time that a request took at one yield point.

    ``segments`` ended there and took ``active_ns``, ``blocking_ns`` of it in blocking segments;
    ``wait_ns`` passed until the segments that followed.
    """

    coroutine: str
    yield_point: str
    awaits: str
    segments: int
    active_ns: int
    wait_ns: int
    blocking_ns: int


@dataclass(frozen=True, slots=True)
class FinishedRequest:
    """A finished request.

    ``started`` is Unix time in ns; ``active_ns`` is the sum over ``points``.
    """

    request: str
    id: str | None
    status: str
    started: int
    wall_ns: int
    active_ns: int
    objective_ns: int | None
    attributes: Mapping[str, Any]
    #: What the request took, by key: count, and ns active, waiting and blocking. ``labels`` knows
    #: what a key means. They become ``points`` only when asked for, which happens to few requests.
    charges: Sequence[tuple[int, int, int, int, int]]
    labels: Labels = field(repr=False)
    #: Keeps an exemplar of the wall time, in the series in which that was counted.
    keep_exemplar: Callable[[Exemplar], None] = field(repr=False)
    #: Tasks, steps and how many were dropped; ``None`` if the request is not traced.
    recorded_steps: tuple[list[_Row], list[_Row], int] | None = None
    #: Reading of the clock when the request was entered.
    entered_ns: int = 0
    #: The record of the coroutine of the task that entered it, 0 if it was none.
    entered_in: int = 0

    @property
    def points(self) -> tuple[Charge, ...]:
        """The time that the request took at each yield point, in the order of the first segments.

        Safe in any thread.
        """
        return tuple(Charge(*self.labels.of_point(key), *numbers) for key, *numbers in self.charges)

    @property
    def began_after(self) -> tuple[tuple[str, str] | None, ...]:
        """For each of ``points``, where the part of a segment that is at ``(request)`` began.

        That is the yield point and what was awaited there. ``None`` if the part began with the task
        or with the request, and for all other points.
        """
        return tuple(self.labels.began_after(key) for key, *_ in self.charges)

    @property
    def coroutine(self) -> str | None:
        """The coroutine of the task that entered the request; ``None`` if it was no task."""
        return self.labels.of_coroutine(self.entered_in) if self.entered_in else None

    @property
    def timeline(self) -> Timeline:
        """The steps of its tasks; empty if it is not traced. Safe in any thread."""
        if self.recorded_steps is None:
            return Timeline()
        tasks, steps, dropped = self.recorded_steps
        since = self.entered_ns
        return Timeline(
            tuple(
                TaskEntry(number, creator, self.labels.of_coroutine(record), at_ns - since)
                for number, creator, record, at_ns in tasks
            ),
            tuple(
                Step(number, *self.labels.of_point(key)[1:], begin_ns - since, end_ns - since)
                for number, key, begin_ns, end_ns in steps
            ),
            dropped,
        )


Observer = Callable[[FinishedRequest], None]


class Observers:
    """Functions that are called with finished requests, in the context of the task that left them.

    They must be quick. ``every`` is called with each request, ``slow`` with those that took longer
    than their objective, or than ``limit_ns`` if they have none. An observer that raises counts for
    the probe ``request_observer``, and is not called again.
    """

    def __init__(self, limit_ns: int, internal_errors: InternalErrors) -> None:
        self.every: list[Observer] = []
        self.slow: list[Observer] = []
        self._limit_ns = limit_ns
        self._internal_errors = internal_errors

    def interested_in(self, wall_ns: int, objective_ns: int | None) -> tuple[Observer, ...]:
        """The observers to call with a request that took ``wall_ns``."""
        slow = wall_ns > (self._limit_ns if objective_ns is None else objective_ns)
        return (*self.every, *self.slow) if slow else tuple(self.every)

    def notify(self, observers: tuple[Observer, ...], finished: FinishedRequest) -> None:
        """Call ``observers`` with a finished request. Never raises."""
        for observer in observers:
            try:
                observer(finished)
            except Exception as error:  # noqa: BLE001 - an observer must not harm the application
                self._internal_errors.report(PROBE, error, STAYS_ON)
                for called in (self.every, self.slow):
                    if observer in called:
                        called.remove(observer)
