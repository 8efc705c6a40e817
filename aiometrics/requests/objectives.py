"""Objectives of the requests of one page: which of the open ones are over theirs, each counted once."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import count

from aiometrics.base.clock import SECOND_NS
from aiometrics.pages.layout import REQUEST, SCOPE_ERRORS
from aiometrics.pages.page import Page
from aiometrics.recorder.labels import Labels

_INVALID = SCOPE_ERRORS.index("invalid")


#: A type of requests: its name, its record, and what the options say of its objective.
TypeEntry = tuple[str, int, int | None]


class Objectives:
    """The types of requests on a page, and the deadlines of those in progress.

    A violation is counted by whoever takes its deadline out of the table first: the loop, when the scope is left, or a reader that finds it
    passed. Taking it is one operation of a dictionary, so that neither waits for the other; each has a word of its own to count in.
    """

    def __init__(self, page: Page, labels: Labels, objectives: Mapping[str, float]) -> None:
        self._page = page
        self._labels = labels
        self._objectives_ns = {
            name: round(seconds * SECOND_NS) for name, seconds in objectives.items()
        }
        #: By name, those that have a record of their own.
        self.types: dict[str, TypeEntry] = {}
        #: What was last shown, by record.
        self._shown_ns: dict[int, int] = {}
        #: By number: when the scope is to be left, and its record.
        self._deadlines: dict[int, tuple[int, int]] = {}
        self._numbers = count(1)
        for name, objective_ns in self._objectives_ns.items():
            self.set_objective(labels.request(name), objective_ns)

    def type_of(self, name: str) -> TypeEntry:
        """A type of requests by its name. Of one that found no room the labels is asked each time, which counts it."""
        entry = name, self._labels.request(name), self._objectives_ns.get(name)
        if entry[1]:
            self.types[name] = entry
        return entry

    def set_objective(self, record: int, objective_ns: int) -> None:
        """Show the objective of a type; where scopes bring their own, the one of the last."""
        if self._shown_ns.get(record) != objective_ns:
            self._shown_ns[record] = self._page.words[
                self._page.layout.request(record) + REQUEST["objective_ns"]
            ] = objective_ns

    def start_deadline(self, record: int, at_ns: int) -> int:
        """A scope of that type is to be left by ``at_ns``. The number under which it keeps or breaks that."""
        number = next(self._numbers)
        self._deadlines[number] = (at_ns, record)
        return number

    def finish(self, number: int, left_ns: int) -> None:
        """The scope was left."""
        deadline = self._deadlines.pop(number, None)
        if deadline is not None and left_ns > deadline[0]:
            self._page.words[self._page.layout.request(deadline[1]) + REQUEST["violations"]] += 1

    def abandon(self, number: int) -> None:
        """The scope will not be left any more."""
        self._deadlines.pop(number, None)

    def count_invalid(self) -> None:
        """A type or an objective was given that is none."""
        self._page.words[self._page.layout.scope_errors + _INVALID] += 1

    def count_overdue(self, now_ns: int) -> None:
        """Count those in progress that are over their objective. For readers, one at a time."""
        for number, (at_ns, record) in self._deadlines.copy().items():
            if now_ns > at_ns and self._deadlines.pop(number, None) is not None:
                self._page.words[self._page.layout.request(record) + REQUEST["overdue"]] += 1

    def clear(self) -> None:
        """The loop is gone, and so is everything that was in progress on it."""
        self._deadlines.clear()
