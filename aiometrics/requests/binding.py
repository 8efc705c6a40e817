"""Finds, for the loop that is running, the recorder and whatever else a request scope needs."""

from __future__ import annotations

from asyncio import _get_running_loop
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any, NamedTuple

from aiometrics.base.clock import Clock
from aiometrics.base.internal_errors import InternalErrors
from aiometrics.base.work_queue import WorkQueue
from aiometrics.pages.exemplar_table import ExemplarTable
from aiometrics.recorder.labels import Labels
from aiometrics.requests.finished import Observers
from aiometrics.requests.objectives import Objectives

PROBE = "request"


class LoopBinding(NamedTuple):
    """The objects of one loop that a request scope needs."""

    recorder: Any
    labels: Labels
    objectives: Objectives
    #: The class of requests whose scopes this recorder measures.
    request_class: type[Any]
    clock: Clock
    unix_clock: Clock
    internal_errors: InternalErrors
    observers: Observers
    #: Writes records of single requests: lines of the slow log, and traces.
    work_queue: WorkQueue
    exemplars: ExemplarTable
    request_id: ContextVar[Any] | None


#: Returns the binding of a loop, or ``None`` if it does not trace the loop.
Source = Callable[[Any], LoopBinding | None]


class Bindings:
    """Finds the bindings of all loops that are traced in this process.

    ``outside_loop`` counts uses of scopes outside of a traced loop.
    """

    def __init__(self) -> None:
        self._sources: tuple[Source, ...] = ()
        self.outside_loop = 0

    def connect(self, source: Source) -> None:
        """Let scopes find the loops that ``source`` traces."""
        self._sources = (source, *self._sources)

    def disconnect(self, source: Source) -> None:
        """Undo :meth:`connect`. Does nothing if ``source`` is not connected."""
        self._sources = tuple(known for known in self._sources if known != source)

    def of_running_loop(self) -> LoopBinding | None:
        """The binding of the loop that runs in this thread.

        ``None``, which is counted, if that loop is not traced or its probe ``request`` is disabled,
        or if no loop runs.
        """
        loop = _get_running_loop()
        for source in () if loop is None else self._sources:
            found = source(loop)
            if found is not None and not found.internal_errors.disabled(PROBE):
                return found
        self.outside_loop += 1
        return None


BINDINGS = Bindings()
