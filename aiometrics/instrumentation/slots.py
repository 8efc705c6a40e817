"""The slots of the process: one page for each live loop, reused by a later loop."""

from __future__ import annotations

import re
import threading
from collections import Counter
from collections.abc import Callable, Container, Mapping
from dataclasses import dataclass
from itertools import chain, count

from aiometrics.base import fork
from aiometrics.base.internal_errors import InternalErrors
from aiometrics.base.yielding import Pause, no_pause
from aiometrics.instrumentation.loop_stats import LoopStats
from aiometrics.pages.counter_table import CounterTable
from aiometrics.pages.exemplar_table import ExemplarTable
from aiometrics.pages.header import PageError, PageFormat
from aiometrics.pages.layout import HEADER, MAX_PROBES
from aiometrics.pages.merge import labelled
from aiometrics.pages.multiprocess.directory import ClaimedSlot, SharedDirectory
from aiometrics.pages.page import PYTHON_COPYING, Copying, Memory, Page
from aiometrics.pages.reader import PageView, read
from aiometrics.pages.records import Records
from aiometrics.recorder.held import HeldPlaces
from aiometrics.recorder.labels import Labels
from aiometrics.recorder.places import Places
from aiometrics.requests.objectives import Objectives

PROBE = "pages"
#: The numbers that Python gives to threads for which nobody chose a name. Each thread has another.
_NUMBERS = re.compile(r"^(Thread|Dummy)-\d+|(?<=^ThreadPoolExecutor)-\d+_\d+$|(?<=^asyncio)_\d+$")


@dataclass(slots=True, eq=False)
class Slot:
    """A page, what is written on it, and the name of its loops, which never changes."""

    page: Page
    labels: Labels
    objectives: Objectives
    loop_stats: LoopStats
    held: HeldPlaces
    errors: CounterTable
    exemplars: ExemplarTable
    name: str
    free: bool = True
    #: Whether the page could not be read when it was last tried.
    unreadable: bool = False
    #: Where the page is in the shared directory.
    claimed: ClaimedSlot | None = None
    #: Called before a reader counts the part of the turn in progress.
    observe: Callable[[], None] = no_pause


class SlotPool:
    """At most ``max_loops`` slots, so that memory is bounded however many loops come and go.

    Slots are never removed, so counters never fall. With a shared ``directory`` the pages are
    there, where other processes read them, and continue them once this process is gone; ``guard``
    is called with the memory of each. If pages are ``private``, they stay in the memory of this
    process, which reads those of others; pages of a forked child are never private.
    """

    def __init__(
        self,
        page_format: PageFormat,
        max_loops: int,
        *,
        places: Places,
        objectives: Mapping[str, float],
        internal_errors: InternalErrors,
        directory: SharedDirectory | None = None,
        guard: Callable[[Memory], None] = lambda _: None,
        copying: Copying = PYTHON_COPYING,
        private: bool = False,
    ) -> None:
        self._page_format = page_format
        self._max_loops = max_loops
        self._places = places
        self._objectives = objectives
        self._internal_errors = internal_errors
        self._directory = directory
        self._guard = guard
        self._copying = copying
        self.private = private
        self._slots: list[Slot] = []
        # Reentrant, because garbage collection in the middle may run a finalizer of the
        # application's that makes a loop.
        self._lock = threading.RLock()
        fork.forget_in_child(self, fork.Stage.PAGES, SlotPool._forget)

    @property
    def shared(self) -> bool:
        """Whether pages are in the directory."""
        return self._directory is not None and not self.private

    def claim(self, thread_name: str) -> Slot | None:
        """Claim a slot for a loop of that thread; ``None``, which is counted, if there is none.

        It is the slot that a loop of the same name left, else a new one, else any free one, which
        keeps its name: its counters go on. In a shared directory loops have numbers for names, and
        any free slot will do. Raises ``OSError`` if the directory has no slot left.
        """
        with self._lock:
            slot = (
                self._slot_in_directory(self._directory)
                if self._directory is not None and not self.private
                else self._slot_named(_NUMBERS.sub(r"\1", thread_name))
            )
            if slot is None:
                self._slots[0].page.words[HEADER["overflow_loop"]] += 1
                return None
            slot.free = False
            slot.page.open(thread_name if slot.claimed else slot.name)
            return slot

    def release(self, slot: Slot) -> None:
        """Close the page of a loop that is gone, and let another loop have the slot."""
        with self._lock:
            slot.observe = no_pause
            with self._internal_errors.contained(PROBE):
                slot.page.close()
            slot.objectives.clear()
            slot.loop_stats.detach()
            slot.free = True

    def release_all(self) -> None:
        """Leave the pages in the shared directory to other processes. All loops must be gone."""
        with self._lock:
            if self._directory is None:
                return
            for slot in self._slots:
                if slot.claimed is not None:
                    slot.claimed.release()
            self._slots = []

    def damaged(self) -> list[Slot]:
        """The slots whose files somebody has overwritten or cut off."""
        return [
            slot
            for slot in self.all()
            if slot.claimed is not None
            and (slot.unreadable or not slot.claimed.is_intact(self._page_format))
        ]

    def discard(self, slot: Slot) -> None:
        """Give up a damaged slot. Its page must not be written any more."""
        with self._lock:
            self._slots.remove(slot)
            if slot.claimed is not None and self._directory is not None:
                self._directory.warn_of_damage(slot.claimed)
                slot.claimed.release()

    def _forget(self) -> None:
        """In a forked child, forget the slots: they are the parent's."""
        self._lock = threading.RLock()
        self._slots = []
        self.private = False

    def warn_if_deleted(self) -> None:
        """Log a warning if pages were deleted from the shared directory."""
        for slot in self.all():
            if slot.claimed is not None and self._directory is not None:
                self._directory.warn_if_deleted(slot.claimed)

    def all(self) -> list[Slot]:
        """Every slot that a loop has ever used.

        Takes no lock, because slots are only ever added.
        """
        return list(self._slots)

    def views(
        self,
        now_ns: int,
        unix_ns: int,
        pause: Pause = no_pause,
        records: Records | None = None,
    ) -> tuple[list[PageView], Mapping[str, int]]:
        """Views of all pages, those of other processes in the shared directory included.

        Also returns how many pages of other processes were skipped, by reason. ``records`` are
        those of :func:`~aiometrics.pages.reader.read`.
        """
        private: list[PageView] = []
        shared: dict[int, PageView] = {}
        slots = self.all()
        for slot in slots:
            view = self._view(slot, now_ns, unix_ns, pause, records)
            if view is None:
                continue
            if slot.claimed is None:
                private.append(labelled(view, slot.name))
            else:
                shared[slot.claimed.number] = labelled(view, slot.name)
        if self._directory is None or (self.private and not self._directory.exists):
            return private, {}
        damaged = len(slots) - len(private) - len(shared)
        own = {slot.claimed.number for slot in slots if slot.claimed is not None}
        others = self._directory.read(
            own, self._page_format, now_ns, unix_ns, pause=pause, records=records
        )
        shared.update(others.pages)
        skipped = Counter(others.skipped)
        skipped["damaged"] += damaged
        return [*private, *(shared[number] for number in sorted(shared))], skipped

    def _view(
        self, slot: Slot, now_ns: int, unix_ns: int, pause: Pause, records: Records | None
    ) -> PageView | None:
        """Return the view of a slot's page, or ``None`` if somebody has damaged it."""
        slot.page.mark_observed(now_ns)
        try:
            copy = slot.page.copy(self._copying)
            pause()  # what is copied at once took long enough
            view = read(copy, now_ns, unix_ns, pause=pause, records=records)
        except PageError:
            slot.unreadable = True
            return None
        slot.unreadable = False
        return view

    def _slot_named(self, thread_name: str) -> Slot | None:
        name = _unique(thread_name, {slot.name for slot in self._slots if not slot.free})
        slot = next((slot for slot in self._slots if slot.free and slot.name == name), None)
        if slot is None and len(self._slots) < self._max_loops:
            page = self._new_page()  # meanwhile a finalizer may claim a slot
            slot = self._add(page, _unique(thread_name, {slot.name for slot in self._slots}))
        if slot is None:
            slot = self._free_slot()
        return slot

    def _new_page(self) -> Page:
        return Page(
            self._page_format.layout,
            blocking_threshold_ns=self._page_format.blocking_threshold_ns,
            weight=self._page_format.weight,
        )

    def _slot_in_directory(self, directory: SharedDirectory) -> Slot | None:
        slot = self._free_slot()
        if slot is None and len(self._slots) < self._max_loops:
            claimed = directory.claim(self._page_format)
            self._guard(claimed.page.memory)
            slot = self._add(claimed.page, str(claimed.number))
            slot.claimed = claimed
        return slot

    def _free_slot(self) -> Slot | None:
        return next((slot for slot in self._slots if slot.free), None)

    def _add(self, page: Page, name: str) -> Slot:
        labels = Labels(page, self._places, self._internal_errors)
        errors = CounterTable(page, self._page_format.layout.errors, MAX_PROBES)
        slot = Slot(
            page,
            labels,
            Objectives(page, labels, self._objectives),
            LoopStats(page),
            HeldPlaces(page, labels, self._places, self._internal_errors),
            errors,
            ExemplarTable(page),
            name,
        )
        self._slots.append(slot)
        return slot


def _unique(name: str, taken: Container[str]) -> str:
    """Return ``name``, or ``name-2`` and so on if it is taken."""
    numbered = (f"{name}-{number}" for number in count(2))
    return next(free for free in chain((name,), numbered) if free not in taken)
