"""The objectives of the request types on one page, and the count of requests that violate them."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import count

from aiometrics.base.clock import SECOND_NS
from aiometrics.pages.layout import REQUEST, SCOPE_ERRORS
from aiometrics.pages.page import Page
from aiometrics.recorder.labels import Labels

_INVALID = SCOPE_ERRORS.index("invalid")

#: A type of requests: its name, its record, and its objective in ns according to the options.
TypeEntry = tuple[str, int, int | None]


class Objectives:
    """The types of requests on a page, and the deadlines of the requests in progress.

    A violation is counted by the thread that removes its deadline from the table first: the loop's,
    when the scope is left, or a reader's, when it finds the deadline passed. The removal is one
    operation on a dictionary, so that neither waits for the other, and each has a word of its own
    to count in.
    """

    def __init__(self, page: Page, labels: Labels, objectives: Mapping[str, float]) -> None:
        self._page = page
        self._labels = labels
        self._objectives_ns = {
            name: round(seconds * SECOND_NS) for name, seconds in objectives.items()
        }
        #: By name, the types that have a record of their own.
        self.types: dict[str, TypeEntry] = {}
        #: The objective that the page shows, by record.
        self._shown_ns: dict[int, int] = {}
        #: By number: the deadline in ns, and the record of the type.
        self._deadlines: dict[int, tuple[int, int]] = {}
        self._numbers = count(1)
        for name, objective_ns in self._objectives_ns.items():
            self.set_objective(labels.request(name), objective_ns)

    def type_of(self, name: str) -> TypeEntry:
        """The type of that name.

        A type without room on the page is looked up, and counted, each time.
        """
        entry = name, self._labels.request(name), self._objectives_ns.get(name)
        if entry[1]:
            self.types[name] = entry
        return entry

    def set_objective(self, record: int, objective_ns: int) -> None:
        """Show the objective of a type on the page.

        If scopes of the type have objectives of their own, the page shows that of the latest one.
        """
        if self._shown_ns.get(record) != objective_ns:
            self._shown_ns[record] = self._page.words[
                self._page.layout.request(record) + REQUEST["objective_ns"]
            ] = objective_ns

    def start_deadline(self, record: int, at_ns: int) -> int:
        """Note that a scope is to be left by ``at_ns``, and return the number of that deadline."""
        number = next(self._numbers)
        self._deadlines[number] = (at_ns, record)
        return number

    def finish(self, number: int, left_ns: int) -> None:
        """Remove the deadline of a scope that was left, and count a violation if it had passed."""
        deadline = self._deadlines.pop(number, None)
        if deadline is not None and left_ns > deadline[0]:
            self._page.words[self._page.layout.request(deadline[1]) + REQUEST["violations"]] += 1

    def abandon(self, number: int) -> None:
        """Remove the deadline of a scope that will never be left."""
        self._deadlines.pop(number, None)

    def count_invalid(self) -> None:
        """Count an invalid type, status or objective."""
        self._page.words[self._page.layout.scope_errors + _INVALID] += 1

    def count_overdue(self, now_ns: int) -> None:
        """Count requests in progress that are over their objective. For one reader at a time."""
        for number, (at_ns, record) in self._deadlines.copy().items():
            if now_ns > at_ns and self._deadlines.pop(number, None) is not None:
                self._page.words[self._page.layout.request(record) + REQUEST["overdue"]] += 1

    def clear(self) -> None:
        """Remove all deadlines, because the loop is gone."""
        self._deadlines.clear()
