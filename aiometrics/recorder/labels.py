"""From what a recorder meets (coroutines, await chains) to record numbers of its page: names and capacity, once per new place."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from aiometrics.base.internal_errors import InternalErrors
from aiometrics.pages.layout import CALLBACKS
from aiometrics.pages.page import Page, stored
from aiometrics.pages.snapshot import CALLBACK, IN_REQUEST, OTHER
from aiometrics.recorder import callback as callbacks
from aiometrics.recorder.places import Origin, Places

PROBE = "naming"
#: Types of requests that are known by name, refused ones included, before those are forgotten: more than any page has room for.
MANY_REQUESTS = 200_000

T = TypeVar("T")
E = TypeVar("E")


class Labels:
    """The records of one page by their labels.

    Nothing here raises: an error in naming counts as one of the probe ``naming``, and new places then go to ``(other)``.
    """

    def __init__(self, page: Page, places: Places, internal_errors: InternalErrors) -> None:
        self._page = page
        self._places = places
        self._internal_errors = internal_errors
        self._coroutines = {name: number for number, name in page.coroutines()}
        self._points = {names: number for number, names in page.yield_points()}
        self._requests = {OTHER: 0, **{name: number for number, name in page.requests()}}
        self._request_waits = {names: number for number, names in page.request_waits()}
        #: Names by number.
        self._coroutine_names = {0: OTHER, CALLBACKS: CALLBACK, **dict(page.coroutines())}
        self._point_labels = {0: (OTHER, OTHER, OTHER)}
        for number, (coroutine, yield_point, awaits) in page.yield_points():
            self._point_labels[number] = self._coroutine_names[coroutine], yield_point, awaits

    def origin(self, obj: Any) -> int:
        """Whose code ``obj`` runs, as an :class:`~aiometrics.recorder.places.Origin`."""
        return self._ask(Origin.STANDARD_LIBRARY, self._places.origin, obj)

    def transparent(self, root: Any) -> bool:
        """Whether the root's name does not depend on its own code, so that it must be asked for every task."""
        return self._ask(None, self._places.transparent, root) is True

    def coroutine(self, root: Any) -> int:
        """The record of the tasks with this root coroutine."""
        name = self._ask(None, self._places.coroutine, root)
        if name is None:
            return 0
        number = self._coroutines.get(name)
        if number is None:
            number = self._coroutines.get(stored(name)) or self._page.add_coroutine(name)
            self._remember(self._coroutines, name, number)
            self._coroutine_names.setdefault(number, name)
        return number

    def yield_point(self, coroutine: int, owner: Any, callee: Any, yielded: Any) -> int:
        """The record of the place where ``owner`` awaits ``callee`` in tasks of that coroutine."""
        yield_point = self._ask(None, self._places.yield_point, owner)
        awaits = self._ask(None, self._places.awaits, callee, yielded)
        return (
            0
            if yield_point is None or awaits is None
            else self._point(coroutine, yield_point, awaits)
        )

    def pseudo_point(self, coroutine: int, name: str) -> int:
        """The record of ``(return)``, ``(raise)`` or ``(eager child)`` of that coroutine."""
        number = self._point(coroutine, name, name)
        # Kept in any case: a coroutine has only three of them, and each of its tasks asks.
        self._points[coroutine, name, name] = number
        return number

    def callback(self, callback: Any) -> int:
        """The record of one callback, as of a place where segments end."""
        names = self._ask(None, callbacks.names, callback)
        return 0 if names is None else self._point(CALLBACKS, *names)

    def request(self, name: str) -> int:
        """The record of a type of request."""
        number = self._requests.get(name)
        if number is None:
            number = self._requests.get(stored(name)) or self._page.add_request(name)
            if len(self._requests) >= MANY_REQUESTS:
                self._requests = {
                    known: record
                    for known, record in self._requests.items()
                    if record or known == OTHER
                }
            self._requests[name] = number
        return number

    def request_wait(self, request: int, point: int) -> int:
        """The record of what requests of that record wait for at a yield point."""
        awaits = self.of_point(point)[2]
        number = self._request_waits.get((request, awaits))
        if number is None:
            number = self._request_waits.get(
                (request, stored(awaits))
            ) or self._page.add_request_wait(request, awaits)
            self._remember(self._request_waits, (request, awaits), number)
        return number

    def of_point(self, key: int) -> tuple[str, str, str]:
        """``(coroutine, yield_point, awaits)`` of a yield point, or of ``~record``, the pseudo point ``(request)`` of that coroutine."""
        return (
            self._point_labels[key]
            if key >= 0
            else (self._coroutine_names[~key], IN_REQUEST, IN_REQUEST)
        )

    def _ask(self, otherwise: E, question: Callable[..., T], *subjects: Any) -> T | E:
        if self._internal_errors.disabled(PROBE):
            return otherwise
        try:
            return question(*subjects)
        except Exception as error:  # noqa: BLE001 - whatever naming met, the task must go on
            self._internal_errors.report(PROBE, error)
            return otherwise

    def _point(self, coroutine: int, yield_point: str, awaits: str) -> int:
        if not coroutine:
            return 0
        key = (coroutine, yield_point, awaits)
        number = self._points.get(key)
        if number is None:
            number = self._points.get(
                (coroutine, stored(yield_point), stored(awaits))
            ) or self._page.add_yield_point(*key)
            self._remember(self._points, key, number)
            self._point_labels.setdefault(
                number, (self._coroutine_names[coroutine], yield_point, awaits)
            )
        return number

    @staticmethod
    def _remember(table: dict[Any, int], key: Any, number: int) -> None:
        """What went to (other) is not kept, so that the tables are as bounded as the page."""
        if number:
            table[key] = number
