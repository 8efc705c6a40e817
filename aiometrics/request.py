"""Request scopes: what one request takes of the loop, however many tasks work for it.

>>> with aiometrics.request("GET /orders/{id}", id="REQ-001"):  # doctest: +SKIP
...     await handle()
"""

from __future__ import annotations

import functools
import inspect
import threading
from asyncio import CancelledError, _get_running_loop
from collections.abc import Callable, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, NamedTuple, TypeVar

from aiometrics.catalogue import STATUSES
from aiometrics.clock import SECOND_NS, Clock
from aiometrics.context import current_scope
from aiometrics.directory import Directory
from aiometrics.faults import Faults
from aiometrics.ledger import Ledger
from aiometrics.options import LONGEST_SECONDS
from aiometrics.recorder import CHOSEN

PROBE = "request"
OBSERVER_PROBE = "request_observer"
LONGEST_TYPE = 128
LONGEST_ID = 64
UNNAMED = "(unnamed)"
_COMPLETED, _FAILED, _CANCELLED = range(len(STATUSES))

F = TypeVar("F", bound=Callable[..., Any])


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

    @property
    def points(self) -> tuple[Charge, ...]:
        """What it took at each yield point, in the order in which they were met. For any thread."""
        return tuple(Charge(*self.labels(key), *numbers) for key, *numbers in self.charges)


Observer = Callable[[FinishedRequest], None]


class Request:
    """One request: what ``with aiometrics.request(...) as current`` gives, and :func:`current_request` returns inside."""

    __slots__ = ()
    # What each kind of it has, beside what its scope has.
    type: str
    objective_ns: int | None
    #: What else is worth knowing of this one request, in names of OpenTelemetry or the Elastic Common Schema. Never becomes a label.
    attributes: dict[str, Any]
    _id: object
    _id_at_entry: object
    _home: Home | None
    _promise: int
    _thread: int

    @property
    def id(self) -> str | None:
        """The id as text of at most 64 characters, ``None`` if there is none: made when asked for."""
        given = self._id
        if given is None and self._home is not None and self._home.request_id is not None:
            given = self._home.request_id.get(self._id_at_entry)
        return None if given is None else text(given, LONGEST_ID)

    def __repr__(self) -> str:
        return f"<aiometrics.Request {self.type!r}>"


@dataclass(frozen=True, slots=True, eq=False)
class Home:
    """Where the requests of one loop are recorded."""

    recorder: Any
    directory: Directory
    ledger: Ledger
    #: The kind of :class:`Request` that this recorder knows.
    kind: type[Any]
    clock: Clock
    unix_clock: Clock
    faults: Faults
    #: Whom to tell about requests that are finished.
    observers: list[Observer]
    request_id: ContextVar[Any] | None = None


#: Each answers with the home of the requests of a loop, or ``None``.
Source = Callable[[Any], Home | None]


class _Homes:
    """Where scopes look for their home, and how often they found none."""

    def __init__(self) -> None:
        self.sources: list[Source] = []
        self.missed = 0

    def find(self) -> Home | None:
        """The home of requests of the loop that runs here."""
        loop = _get_running_loop()
        for source in tuple(self.sources) if loop is not None else ():
            found = source(loop)
            if found is not None and not found.faults.tripped(PROBE):
                return found
        return None


_homes = _Homes()


@functools.cache
def kind_of_request(scope: type[Any]) -> type[Any]:
    """The class of requests on the scopes of one of the recorders."""
    slots = ("attributes", "_home", "_id", "_id_at_entry", "_promise", "_thread", "objective_ns", "type")
    return type("Request", (Request, scope), {"__slots__": slots, "__module__": __name__, "abandoned": _abandoned})


def connect(source: Source) -> None:
    """Let scopes find the loops that ``source`` knows."""
    _homes.sources.append(source)


def disconnect(source: Source) -> None:
    """Undo :func:`connect`."""
    if source in _homes.sources:
        _homes.sources.remove(source)


def outside_loop() -> int:
    """How many scopes of this process were entered or left where no traced loop runs."""
    return _homes.missed


def current_request() -> Request | None:
    """The request that this code works for: of the innermost scope around, or of the one that the task was started in.

    A task that outlives its request still belongs to it. ``None`` outside of any.
    """
    found = current_scope.get(None)
    return found if isinstance(found, Request) else None


class request:  # noqa: N801 - used like a function: a context manager and a decorator
    """The scope of one request: its code, and every task that is started inside, counts towards requests of this ``type``.

    ``type`` is a label: the route's template, never the path. ``id`` names this one request to observers, and is no label.
    ``objective`` are the wall seconds that it may take, instead of what ``start_exporter(objectives=...)`` says of the type.

    Works with ``with``, ``async with``, and as a decorator of functions and coroutine functions, each call of which has a scope of its own.
    Wrong arguments do not raise: they are counted in ``aiometrics_request_scope_errors_total``.
    """

    __slots__ = ("_entered", "_id", "_objective", "_type")

    def __init__(self, type: str, *, id: object = None, objective: float | None = None) -> None:  # noqa: A002 - the words of the trade
        self._type = type
        self._id = id
        self._objective = objective
        #: Usually one; several where one object is used by several tasks at a time.
        self._entered: list[Request] = []

    def __enter__(self) -> Request:
        entered = _entered(self._type, self._id, self._objective)
        self._entered.append(entered)
        return entered

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        if not self._entered:
            _homes.missed += 1
            return
        current = current_scope.get(None)
        left = current if current in self._entered else self._entered[-1]
        self._entered.remove(left)
        _leave(left, _status(kind))

    async def __aenter__(self) -> Request:
        return self.__enter__()

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        self.__exit__(kind, error, traceback)

    def __call__(self, function: F) -> F:
        """``function`` in a scope of its own at each call. Raises ``TypeError`` for generator functions, whose calls run nothing yet."""
        if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
            raise TypeError(f"a call of {function!r} only makes a generator: use `with aiometrics.request(...)` inside of it instead")
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


def _status(kind: type[BaseException] | None) -> int:
    if kind is None:
        return _COMPLETED
    return _CANCELLED if issubclass(kind, CancelledError | GeneratorExit) else _FAILED


def _entered(given_type: object, given_id: object, objective: object) -> Request:
    """A scope that was entered; one that measures nothing where no traced loop runs."""
    home = _homes.find()
    if home is None:
        _homes.missed += 1
    entered: Any = kind_of_request(CHOSEN.scope)() if home is None else home.kind()
    entered._home, entered._promise, entered._thread = home, 0, threading.get_ident()
    entered._id, entered._id_at_entry = given_id, None
    entered.type, entered.objective_ns, entered.attributes = "", None, {}
    if home is not None:
        try:
            _begin(entered, home, given_type, objective)
        except Exception as error:  # noqa: BLE001 - never the application's problem
            home.faults.report(PROBE, error)
    current_scope.set(entered)
    return entered  # type: ignore[no-any-return]


def _begin(entered: Any, home: Home, given_type: object, objective: object) -> None:
    ledger = home.ledger
    entered.type = name = _type_name(given_type, ledger)
    record = ledger.record(name)
    objective_ns = _objective_ns(objective, ledger)
    if objective_ns is None:
        objective_ns = ledger.objective_ns(name)
    else:
        ledger.set_objective(record, objective_ns)
    if home.request_id is not None:
        entered._id_at_entry = home.request_id.get(None)
    if entered.enter(home.recorder, record) and objective_ns is not None:
        entered.objective_ns = objective_ns
        entered._promise = ledger.promise(record, entered.entered_ns + objective_ns)


def _leave(left: Any, status: int) -> None:
    if current_scope.get(None) is left:
        current_scope.set(left.outer)
    home = left._home
    if home is None:
        return
    if left._thread != threading.get_ident():
        _homes.missed += 1
        return
    try:
        wall_ns = left.leave(status)
        if left._promise:
            _settle(left, wall_ns)
        if wall_ns >= 0 and home.observers:
            _tell(home, _finished(left, home, STATUSES[status], wall_ns))
    except Exception as error:  # noqa: BLE001 - never the application's problem
        home.faults.report(PROBE, error)


def _settle(left: Any, wall_ns: int) -> None:
    if wall_ns < 0:
        left._home.ledger.forget(left._promise)
    else:
        left._home.ledger.keep(left._promise, left.entered_ns + wall_ns)


def _abandoned(self: Any) -> None:
    """Nobody will leave the scope any more."""
    if self._home is not None:
        self._home.ledger.forget(self._promise)


def _finished(left: Any, home: Home, status: str, wall_ns: int) -> FinishedRequest:
    charges = left.charges()
    started = home.unix_clock() - (home.clock() - left.entered_ns)
    active_ns = sum(charge[2] for charge in charges)
    return FinishedRequest(
        request=left.type,
        id=left.id,
        status=status,
        started=started,
        wall_ns=wall_ns,
        active_ns=active_ns,
        objective_ns=left.objective_ns,
        attributes=left.attributes,
        charges=charges,
        labels=home.directory.labels,
    )


def _tell(home: Home, finished: FinishedRequest) -> None:
    """Tell the observers; one that raises is told nothing any more."""
    for observer in tuple(home.observers):
        try:
            observer(finished)
        except Exception as error:  # noqa: BLE001 - whatever it is, the application did not ask for it
            home.faults.report(OBSERVER_PROBE, error)
            home.observers.remove(observer)


def _type_name(given: object, ledger: Ledger) -> str:
    if type(given) is str and 0 < len(given) <= LONGEST_TYPE:
        return given
    ledger.count_invalid()
    return text(given, LONGEST_TYPE) or UNNAMED


def _objective_ns(given: object, ledger: Ledger) -> int | None:
    if given is None:
        return None
    if isinstance(given, int | float) and not isinstance(given, bool) and 1e-9 <= given <= LONGEST_SECONDS:
        return round(given * SECOND_NS)
    ledger.count_invalid()
    return None


def text(given: object, longest: int) -> str:
    """The beginning of what it is as text, whatever its ``__str__`` does."""
    try:
        return str.__getitem__(str(given), slice(longest))
    except Exception:  # noqa: BLE001 - anything may be given, and its __str__ may do anything
        return f"({type(given).__name__})"[:longest]
