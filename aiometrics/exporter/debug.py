"""Routes that compute when somebody asks: the list of live tasks, and what they share."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Mapping
from http import HTTPStatus
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl

from aiometrics.base import fork
from aiometrics.base.http.messages import Request, Response
from aiometrics.base.http.server import Route
from aiometrics.base.yielding import Pause

if TYPE_CHECKING:
    from aiometrics.exposition.task_list import TaskList

#: Tasks in a list, and the most that one can ask for.
_DEFAULT_TASKS, _MOST_TASKS = 100, 1000
_JSON = "application/json"


class QueryError(ValueError):
    """An invalid query. The message is the answer."""


class Limited:
    """A route that answers few clients ``at_a_time``, others with 503; an invalid query gets 400.

    So requests that take long never take all threads of a server.
    """

    def __init__(self, route: Route, at_a_time: int) -> None:
        self._route = route
        self._at_a_time = at_a_time
        self._reset()
        fork.forget_in_child(self, fork.Stage.LOCKS, Limited._reset)

    def _reset(self) -> None:
        """Count from 0, also in a forked child, which lacks the threads that answered."""
        self._free = threading.BoundedSemaphore(self._at_a_time)

    def __call__(self, request: Request) -> Response:
        """Answer the request."""
        free = self._free
        if not free.acquire(blocking=False):
            return _refusal(
                HTTPStatus.SERVICE_UNAVAILABLE,
                f"at most {self._at_a_time} such requests are answered at a time: try again later",
                ("Retry-After", "1"),
            )
        try:
            return self._route(request)
        except QueryError as error:
            return _refusal(HTTPStatus.BAD_REQUEST, str(error))
        finally:
            free.release()


def _refusal(status: HTTPStatus, message: str, *headers: tuple[str, str]) -> Response:
    return Response(
        status, f"{status.value} {status.phrase}: {message}\n".encode(), headers=headers
    )


def tasks_route(lister: Callable[[], Callable[[int, Pause], TaskList]], pause: Pause) -> Route:
    """Return the route of the live tasks that ``lister()(limit, pause)`` lists."""

    def answer(request: Request) -> Response:
        query = parse_query(request.query, {"limit", "format"})
        limit = whole_number(query, "limit", _DEFAULT_TASKS, range(1, _MOST_TASKS + 1))
        form = choice(query, "format", ("text", "json"))
        listed = lister()(limit, pause)
        if form == "json":
            return Response(200, listed.as_json().encode(), _JSON)
        return Response(200, listed.as_text().encode())

    return Limited(answer, at_a_time=1)


def parse_query(query: str, known: Collection[str]) -> dict[str, str]:
    """Return the parameters of a query. Raises ``QueryError`` for unknown and repeated ones."""
    pairs = parse_qsl(query, keep_blank_values=True)
    for name, _ in pairs:
        if name not in known:
            raise QueryError(f"there is no parameter {name!r}, only {', '.join(sorted(known))}")
    if len(dict(pairs)) < len(pairs):
        raise QueryError("a parameter is given twice")
    return dict(pairs)


def whole_number(query: Mapping[str, str], name: str, default: int, allowed: range) -> int:
    """Return a parameter that is an integer. Raises ``QueryError``."""
    text = query.get(name)
    if text is None:
        return default
    if not (text.isascii() and text.isdecimal() and len(text) < 10 and int(text) in allowed):
        raise QueryError(
            f"{name}={text!r} is not a whole number from {allowed.start} to {allowed.stop - 1}"
        )
    return int(text)


def choice(query: Mapping[str, str], name: str, choices: tuple[str, ...]) -> str:
    """Return a parameter that is one of ``choices``, of which the first is the default.

    Raises ``QueryError``.
    """
    chosen = query.get(name, choices[0])
    if chosen not in choices:
        raise QueryError(f"{name}={chosen!r} is not one of {', '.join(choices)}")
    return chosen
