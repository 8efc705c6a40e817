"""Request scopes measure what one request takes of the loop, however many tasks work for it.

>>> with aiometrics.request("GET /orders/{id}", id="REQ-001"):  # doctest: +SKIP
...     await handle()
"""

from __future__ import annotations

import functools
import inspect
import threading
from asyncio import CancelledError
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar

from aiometrics.base.clock import SECOND_NS
from aiometrics.base.internal_errors import pass_on
from aiometrics.base.option_checks import LONGEST_SECONDS
from aiometrics.pages.exemplar_table import WALL
from aiometrics.pages.layout import CANCELLED, COMPLETED, FAILED, STATUSES
from aiometrics.recorder.implementation import DEFAULT_IMPLEMENTATION, Implementation
from aiometrics.recorder.scope import RequestScope, current_scope
from aiometrics.requests import tracer
from aiometrics.requests.binding import BINDINGS, PROBE, LoopBinding
from aiometrics.requests.finished import Charge, FinishedRequest
from aiometrics.requests.objectives import Objectives
from aiometrics.requests.tracer import Trace

__all__ = ["Charge", "FinishedRequest", "Request", "current_request", "request", "request_class"]

if TYPE_CHECKING:
    _Scope = RequestScope  # what both implementations of it can do
else:
    _Scope = object

LONGEST_TYPE = 128
LONGEST_ID = 64
UNNAMED = "(unnamed)"

F = TypeVar("F", bound=Callable[..., Any])


#: The attributes that a request has beside those of its scope. Each class of requests declares
#: them itself, because Python does not let a class have two bases with slots of their own.
_SLOTS = (
    "_binding",
    "_deadline",
    "_id",
    "_id_at_entry",
    "_thread",
    "_trace",
    "attributes",
    "objective_ns",
    "type",
)


class Request(_Scope):
    """One request.

    ``with aiometrics.request(...) as current`` gives it, and :func:`current_request` returns it.
    """

    if not TYPE_CHECKING:
        __slots__ = ()  # see _SLOTS
    type: str
    #: ``None`` if the request has no objective, or is not measured.
    objective_ns: int | None
    #: What else is worth knowing about this one request, by names of OpenTelemetry or the Elastic
    #: Common Schema. Attributes never become labels.
    attributes: dict[str, Any]
    _binding: LoopBinding | None
    _id: object
    _id_at_entry: object
    #: The number of its deadline, 0 if it has none.
    _deadline: int
    _thread: int
    #: ``None`` if the request is not traced.
    _trace: Trace | None

    @property
    def id(self) -> str | None:
        """The id as text of at most 64 characters, made when asked for; ``None`` without."""
        given = self._id
        if given is None and self._binding is not None and self._binding.request_id is not None:
            given = self._binding.request_id.get(self._id_at_entry)
        return None if given is None else text(given, LONGEST_ID)

    def finish(self, status: str = "completed") -> None:
        """End the request here, before its block is left, because the response was sent.

        What its tasks take from now on is background. ``status`` is ``completed``, ``failed`` or
        ``cancelled``; any other counts as a scope error, and as ``failed``. Only the first end
        counts.
        """
        code = STATUSES.index(status) if status in STATUSES else None
        if code is None and self._binding is not None:
            self._binding.objectives.count_invalid()
        self._end_by(FAILED if code is None else code, self.end)

    def __repr__(self) -> str:
        return f"<aiometrics.Request {self.type!r}>"

    def abandoned(self) -> None:
        """Called by the scope when it turns out that it will never be left."""
        if self._binding is not None:
            self._binding.objectives.abandon(self._deadline)

    def _begin(self, binding: LoopBinding, given_type: object, objective: object) -> None:
        objectives = binding.objectives
        kind = objectives.types.get(given_type) if type(given_type) is str else None
        self.type, record, objective_ns = kind or objectives.type_of(
            _type_name(given_type, objectives)
        )
        if objective is not None:
            objective_ns = _own_objective_ns(objective, record, objectives) or objective_ns
        if binding.request_id is not None:
            self._id_at_entry = binding.request_id.get(None)
        if not self.enter(binding.recorder, record):
            return
        if objective_ns is not None:
            self.objective_ns = objective_ns
            self._deadline = objectives.start_deadline(record, self.entered_ns + objective_ns)
        if tracer.INSTALLED.tracer is not None:
            self._trace = tracer.begin_trace(self, binding.internal_errors, binding.work_queue)

    def _end_by(self, status: int, end: Callable[[int], int]) -> None:
        """End by calling ``end(status)``, which is the scope's method ``end`` or ``leave``."""
        binding = self._binding
        if binding is None:
            return
        if self._thread != threading.get_ident():
            BINDINGS.outside_loop += 1
            return
        try:
            wall_ns = end(status)
            if wall_ns >= 0:
                self._notify_observers(binding, status, wall_ns)
            elif self._deadline:  # it had ended before, or is no longer measured
                binding.objectives.abandon(self._deadline)
        except Exception as error:  # noqa: BLE001 - never the application's problem
            _report(binding, error)

    def _notify_observers(self, binding: LoopBinding, status: int, wall_ns: int) -> None:
        """Settle the deadline, and call the observers and the trace of a request that has ended."""
        if self._deadline:
            binding.objectives.finish(self._deadline, self.entered_ns + wall_ns)
        observers = binding.observers.interested_in(wall_ns, self.objective_ns)
        trace = self._trace if self._trace is not None and self._trace.recording else None
        if not observers and trace is None:
            return
        finished = self._finished(binding, status, wall_ns)
        binding.observers.notify(observers, finished)
        if trace is not None:
            trace.end(finished)

    def _finished(self, binding: LoopBinding, status: int, wall_ns: int) -> FinishedRequest:
        charges = self.charges()
        return FinishedRequest(
            request=self.type,
            id=self.id,
            status=STATUSES[status],
            started=binding.unix_clock() - (binding.clock() - self.entered_ns),
            wall_ns=wall_ns,
            active_ns=sum(charge[2] for charge in charges),
            objective_ns=self.objective_ns,
            # A copy, for other threads: the block may still change the attributes.
            attributes=dict(self.attributes),
            charges=charges,
            labels=binding.labels,
            keep_exemplar=functools.partial(
                binding.exemplars.put, WALL + status, binding.objectives.type_of(self.type)[1]
            ),
            recorded_steps=self.timeline(),
            entered_ns=self.entered_ns,
            entered_in=self.entered_in_record,
        )


class PythonRequest(Request, RequestScope):
    """A request on the scope in Python."""

    __slots__ = _SLOTS


class DefaultRequest(Request, DEFAULT_IMPLEMENTATION.scope):  # type: ignore[name-defined, misc]  # chosen at run time: in C where that was built
    """A request on the scope of the implementation in use."""

    __slots__ = _SLOTS


def request_class(implementation: Implementation) -> type[Request]:
    """The class of requests that the recorders of ``implementation`` measure."""
    return DefaultRequest if implementation is DEFAULT_IMPLEMENTATION else PythonRequest


def current_request() -> Request | None:
    """The request that the calling code works for; ``None`` outside of any.

    It is the request of the innermost scope around the code, or else of the scope in which the task
    was started. A task that outlives its request still belongs to it.
    """
    found = current_scope.get(None)
    return found if isinstance(found, Request) else None


class request:  # noqa: N801 - used like a function: a context manager and a decorator
    """The scope of one request: its code, and every task started inside, counts for ``type``.

    ``type`` is a label: the route's template, never the path. ``id`` names this one request to
    observers, and is not a label. ``objective`` is the wall time in seconds that the request may
    take, instead of the objective that ``start_exporter(objectives=...)`` sets for the type.

    Works with ``with``, ``async with``, and as a decorator of functions and coroutine functions,
    each call of which has a scope of its own. Wrong arguments do not raise: they are counted in
    ``aiometrics_request_scope_errors_total``.
    """

    __slots__ = ("_entered", "_id", "_objective", "_type")

    def __init__(self, type: str, *, id: object = None, objective: float | None = None) -> None:  # noqa: A002 - it is the type of a request
        self._type = type
        self._id = id
        self._objective = objective
        #: Usually one request; several if several tasks use this object at a time.
        self._entered: list[Request] = []

    def __enter__(self) -> Request:
        entered = enter(self._type, self._id, self._objective)
        self._entered.append(entered)
        return entered

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if not self._entered:
            BINDINGS.outside_loop += 1
            return
        current = current_scope.get(None)
        left = current if current in self._entered else self._entered[-1]
        self._entered.remove(left)
        leave(left, _status(kind))

    async def __aenter__(self) -> Request:
        return self.__enter__()

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.__exit__(kind, error, traceback)

    def __call__(self, function: F) -> F:
        """Return ``function`` wrapped so that each call has a scope of its own.

        Raises ``TypeError`` for generator functions, because a call of one runs nothing yet.
        """
        if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
            raise TypeError(
                f"a call of {function!r} only makes a generator: "
                "use `with aiometrics.request(...)` inside of it instead"
            )
        given = self._type, self._id, self._objective

        @functools.wraps(function)
        async def scoped_coroutine(*args: Any, **kwargs: Any) -> Any:
            with request(given[0], id=given[1], objective=given[2]):
                return await function(*args, **kwargs)

        @functools.wraps(function)
        def scoped_call(*args: Any, **kwargs: Any) -> Any:
            with request(given[0], id=given[1], objective=given[2]):
                return function(*args, **kwargs)

        return scoped_coroutine if inspect.iscoroutinefunction(function) else scoped_call  # type: ignore[return-value]


def enter(given_type: object, given_id: object = None, objective: object = None) -> Request:
    """Enter a scope, which the caller must leave with :func:`leave` whatever happens.

    Without a traced loop that runs in this thread, the scope measures nothing. Never raises.
    """
    binding = BINDINGS.of_running_loop()
    entered: Request = DefaultRequest() if binding is None else binding.request_class()
    entered._binding, entered._deadline, entered._thread = binding, 0, threading.get_ident()
    entered._id, entered._id_at_entry, entered._trace = given_id, None, None
    entered.type, entered.objective_ns, entered.attributes = "", None, {}
    try:
        if binding is None:
            entered.type = text(given_type, LONGEST_TYPE) or UNNAMED
        else:
            entered._begin(binding, given_type, objective)
    except Exception as error:  # noqa: BLE001 - never the application's problem
        _report(binding, error)
    current_scope.set(entered)
    return entered


def leave(left: Request, status: int = COMPLETED) -> None:
    """Leave a scope. If the request has not ended before, it ends with ``status``."""
    if current_scope.get(None) is left:
        current_scope.set(left.outer)
    left._end_by(status, left.leave)
    trace, left._trace = left._trace, None
    if trace is not None:
        trace.leave()


def _report(binding: LoopBinding | None, error: Exception) -> None:
    pass_on(error)
    if binding is not None:
        binding.internal_errors.report(PROBE, error)


def _status(kind: type[BaseException] | None) -> int:
    if kind is None:
        return COMPLETED
    return CANCELLED if issubclass(kind, CancelledError | GeneratorExit) else FAILED


def _type_name(given: object, objectives: Objectives) -> str:
    if type(given) is str and 0 < len(given) <= LONGEST_TYPE:
        return given
    objectives.count_invalid()
    return text(given, LONGEST_TYPE) or UNNAMED


def _own_objective_ns(given: object, record: int, objectives: Objectives) -> int | None:
    """The objective that a scope was given, in ns; the page shows it for the type from now on."""
    if (
        isinstance(given, int | float)
        and not isinstance(given, bool)
        and 1e-9 <= given <= LONGEST_SECONDS
    ):
        objective_ns = round(given * SECOND_NS)
        objectives.set_objective(record, objective_ns)
        return objective_ns
    objectives.count_invalid()
    return None


def text(given: object, longest: int) -> str:
    """The first ``longest`` characters of ``given`` as text, whatever its ``__str__`` does."""
    try:
        return str.__getitem__(str(given), slice(longest))
    except Exception as error:  # noqa: BLE001 - anything may be given, and its __str__ may do anything
        pass_on(error)
        return f"({type(given).__name__})"[:longest]
