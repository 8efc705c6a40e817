"""The pages of the process: one per live loop, taken over by a later loop when its own is gone."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass, field

from aiometrics.directory import Directory
from aiometrics.faults import Faults
from aiometrics.layout import HEADER, MAX_PROBES, Layout
from aiometrics.ledger import Ledger
from aiometrics.page import Page
from aiometrics.places import Places
from aiometrics.snapshot import Exemplar
from aiometrics.tally import Tally
from aiometrics.vitals import Vitals


@dataclass(slots=True, eq=False)
class Slot:
    """One page, the names on it, the loop name that it is used under, and what its recorder does not write.

    ``exemplars`` are the last blocking segments that led to a request or a trace, by the number of the yield point that they ended at.
    """

    page: Page
    directory: Directory
    ledger: Ledger
    vitals: Vitals
    errors: Tally
    name: str
    free: bool = False
    exemplars: dict[int, Exemplar] = field(default_factory=dict)


class Pages:
    """At most ``max_loops`` pages, so that memory is bounded however many loops come and go; counters never fall."""

    def __init__(
        self,
        layout: Layout,
        max_loops: int,
        *,
        blocking_threshold_ns: int,
        weight: int,
        places: Places,
        objectives: Mapping[str, float],
        faults: Faults,
    ) -> None:
        self._layout = layout
        self._max_loops = max_loops
        self._blocking_threshold_ns = blocking_threshold_ns
        self._weight = weight
        self._places = places
        self._objectives = objectives
        self._faults = faults
        self._slots: list[Slot] = []
        self._lock = threading.Lock()

    def claim(self, thread_name: str) -> Slot | None:
        """A page for a loop of that thread: one that a loop of the same name left, else a new one, else any that is free."""
        with self._lock:
            name = self._unique(thread_name)
            slot = self._free_slot(name)
            if slot is None:
                self._slots[0].page.words[HEADER["overflow_loop"]] += 1
                return None
            slot.name, slot.free = name, False
            slot.page.open(name)
            return slot

    def release(self, slot: Slot) -> None:
        """The loop is gone."""
        with self._lock:
            slot.page.close()
            slot.ledger.clear()
            slot.vitals.end()
            slot.free = True

    def all(self) -> list[Slot]:
        """Every page that a loop ever wrote to. Takes no lock: slots are only ever added."""
        return list(self._slots)

    def _unique(self, thread_name: str) -> str:
        taken = {slot.name for slot in self._slots if not slot.free}
        name, number = thread_name, 1
        while name in taken:
            number += 1
            name = f"{thread_name}-{number}"
        return name

    def _free_slot(self, name: str) -> Slot | None:
        free = [slot for slot in self._slots if slot.free]
        for slot in free:
            if slot.name == name:
                return slot
        if len(self._slots) < self._max_loops:
            page = Page(self._layout, blocking_threshold_ns=self._blocking_threshold_ns, weight=self._weight)
            directory = Directory(page, self._places, self._faults)
            ledger, errors = Ledger(page, directory, self._objectives), Tally(page, self._layout.errors, MAX_PROBES)
            self._slots.append(Slot(page, directory, ledger, Vitals(page), errors, name))
            return self._slots[-1]
        return free[0] if free else None
