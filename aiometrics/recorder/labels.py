"""Finds the record of a page that has given labels, or adds it while there is room.

It is asked once for each new coroutine or place; recorders cache the answers.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from aiometrics.base.internal_errors import InternalErrors
from aiometrics.pages.chain_table import ChainTable
from aiometrics.pages.layout import CALLBACKS, MAX_CHAIN_FRAMES, OTHER_NODE, OTHER_POINT_NODE
from aiometrics.pages.page import Page, stored
from aiometrics.pages.snapshot import CALLBACK, IN_REQUEST, LEFT_OUT, OTHER
from aiometrics.recorder import callback as callbacks
from aiometrics.recorder.places import CodeOrigin, Places

PROBE = "naming"
#: How many types of requests are remembered, including those that found no room, before the latter
#: are forgotten. No page has room for as many.
MANY_REQUESTS = 200_000

T = TypeVar("T")
E = TypeVar("E")


class Labels:
    """The records of one page by their labels.

    Nothing here raises, except for interrupts, and where the application has used up its stack or
    its memory: then it is asked again another time. An error in naming counts as an internal error
    of the probe ``naming``, and new places then go to ``(other)``.
    """

    def __init__(self, page: Page, places: Places, internal_errors: InternalErrors) -> None:
        self._page = page
        self._places = places
        self._internal_errors = internal_errors
        self._coroutines = {name: number for number, name in page.coroutines()}
        self._points = {names: number for number, names in page.yield_points()}
        self._requests = {OTHER: 0, **{name: number for number, name in page.requests()}}
        self._request_waits = {names: number for number, names in page.request_waits()}
        self._chains = ChainTable(page)
        #: Labels by record number.
        self._coroutine_names = {0: OTHER, CALLBACKS: CALLBACK, **dict(page.coroutines())}
        self._point_labels = {0: (OTHER, OTHER, OTHER)}
        for number, (coroutine, yield_point, awaits) in page.yield_points():
            self._point_labels[number] = self._coroutine_names[coroutine], yield_point, awaits

    def origin(self, obj: Any) -> int:
        """Return whose code ``obj`` runs, an :class:`~aiometrics.recorder.places.CodeOrigin`."""
        return self._ask(CodeOrigin.STANDARD_LIBRARY, self._places.origin, obj)

    def transparent(self, root: Any) -> bool:
        """Return whether the name of ``root`` does not depend on its own code.

        Then it must be asked for every task.
        """
        return self._ask(None, self._places.transparent, root) is True

    def coroutine(self, root: Any) -> int:
        """Return the record of tasks with this root coroutine."""
        name = self._ask(None, self._places.coroutine, root)
        if name is None or not self._places.chosen(name):
            return 0
        number = self._coroutines.get(name)
        if number is None:
            number = self._coroutines.get(stored(name)) or self._page.add_coroutine(name)
            self._remember(self._coroutines, name, number)
            self._coroutine_names.setdefault(number, name)
        return number

    def yield_point(self, coroutine: int, owner: Any, callee: Any, yielded: Any) -> int:
        """Return the record of the place where ``owner`` awaits ``callee``."""
        yield_point = self._ask(None, self._places.yield_point, owner)
        awaits = self._ask(None, self._places.awaits, callee, yielded)
        return (
            0
            if yield_point is None or awaits is None
            else self._point(
                coroutine,
                yield_point,
                self._places.marked(self._coroutine_names[coroutine], yield_point, awaits),
            )
        )

    def chain_node(self, point: int, root: Any) -> int:
        """Return the node of the chain by which ``root`` is suspended at a yield point."""
        if self._chains.full:
            return OTHER_NODE if point else OTHER_POINT_NODE
        places = self._ask(None, self._places.chain, root)
        return OTHER_NODE if places is None else self._chains.node(_shortened(places), point)

    def pseudo_point(self, coroutine: int, name: str) -> int:
        """Return the record of a yield point that is none, such as ``(return)``, of a coroutine."""
        number = self._point(coroutine, name, name)
        # Remembered even if it is (other): a coroutine has only three, and each of its tasks asks.
        self._points[coroutine, name, name] = number
        return number

    def callback(self, callback: Any) -> int:
        """Return the record of the yield point that stands for a callback."""
        names = self._ask(None, callbacks.names, callback)
        return 0 if names is None else self._point(CALLBACKS, *names)

    def request(self, name: str) -> int:
        """Return the record of a type of request."""
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
        """Return the record where waits of a type of request at a yield point are added."""
        awaits = self.of_point(point)[2]
        number = self._request_waits.get((request, awaits))
        if number is None:
            number = self._request_waits.get(
                (request, stored(awaits))
            ) or self._page.add_request_wait(request, awaits)
            self._remember(self._request_waits, (request, awaits), number)
        return number

    def of_point(self, key: int) -> tuple[str, str, str]:
        """Return the labels ``(coroutine, yield_point, awaits)`` of a yield point.

        A negative key is that of the pseudo point ``(request)``, in the coroutine where it began.
        """
        if key >= 0:
            return self._point_labels[key]
        began, record = self._part(key)
        coroutine = self.of_coroutine(record) if began is None else began[0]
        return (coroutine, IN_REQUEST, IN_REQUEST)

    def began_after(self, key: int) -> tuple[str, str] | None:
        """Return ``(yield_point, awaits)`` of where a part of a segment began.

        ``None`` if it began in the middle of a segment or with a task, or if ``key`` is not that of
        a part.
        """
        began = None if key >= 0 else self._part(key)[0]
        return None if began is None else began[1:]

    def of_coroutine(self, record: int) -> str:
        """Return the label of a coroutine record."""
        return self._coroutine_names[record]

    def _part(self, key: int) -> tuple[tuple[str, str, str] | None, int]:
        """Return the labels of the yield point where a part began, or ``None`` and a record."""
        first = self._page.layout.max_yield_points + 1
        return (self._point_labels[~key], 0) if ~key < first else (None, ~key - first)

    def _ask(self, otherwise: E, question: Callable[..., T], *subjects: Any) -> T | E:
        if self._internal_errors.disabled(PROBE):
            return otherwise
        try:
            return question(*subjects)
        except (RecursionError, MemoryError):  # the application has used up its stack or its memory
            raise
        except Exception as error:  # noqa: BLE001 - naming must not break the task
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
        """Keep a record unless it is (other), so that the tables are as bounded as the page."""
        if number:
            table[key] = number


def _shortened(places: tuple[str, ...]) -> tuple[str, ...]:
    """Return the places of a chain without those in the middle, if they are too many."""
    if len(places) <= MAX_CHAIN_FRAMES:
        return places
    half = MAX_CHAIN_FRAMES // 2
    return (*places[:half], LEFT_OUT, *places[-half:])
