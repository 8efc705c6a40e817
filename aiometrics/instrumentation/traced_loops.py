"""The loops that are traced, each with the objects that measure it."""

from __future__ import annotations

import threading
import weakref
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from aiometrics.base.internal_errors import OFF_FOR_LOOP, InternalErrors, is_interrupt, pass_on
from aiometrics.instrumentation.hooks.timing import LoopTiming
from aiometrics.instrumentation.loop_stats import LoopStats
from aiometrics.instrumentation.slots import Slot, SlotPool
from aiometrics.requests.binding import LoopBinding

PROBE = "instrumentation"


@dataclass(slots=True, eq=False)
class KnownLoop:
    """A loop that hooks have seen.

    Without a recorder it is not traced: it was not chosen, or there was no slot.
    """

    #: Returns the loop, or ``None`` once it was collected.
    loop: Callable[[], Any]
    recorder: Any = None
    slot: Slot | None = None
    timing: LoopTiming | None = None
    binding: LoopBinding | None = None

    def stop(self) -> None:
        """Stop measuring the loop. The slot stays claimed."""
        if self.recorder is not None:
            self.recorder.retire()
        if self.timing is not None:
            self.timing.remove()


class TracedLoops:
    """The loops that were chosen, or every loop of the process.

    When a chosen loop is first seen, ``attach(known_loop, loop)`` adds the objects that measure it.
    The interpreter drops what is raised when a loop is collected, so that is ``deferring``.
    """

    def __init__(
        self,
        slot_pool: SlotPool,
        internal_errors: InternalErrors,
        attach: Callable[[KnownLoop, Any], None],
        deferring: Callable[[Callable[..., Any]], Callable[..., Any]],
    ) -> None:
        self._slot_pool = slot_pool
        self._internal_errors = internal_errors
        self._attach = attach
        self._deferring = deferring
        #: By the id of the loop. Garbage collection may remove an entry at any moment, so iterate
        #: over a copy.
        self._known: dict[int, KnownLoop] = {}
        #: Loops that were collected or closed, and whose slots the next sweep releases.
        self._gone: deque[KnownLoop] = deque()
        #: References to loops by their id: they may be equal to others.
        self._chosen: dict[int, Callable[[], Any]] = {}
        self._every_loop = False
        #: Held while loops come and go, hooks are installed, and pages are refreshed. One lock for
        #: all of these: a finalizer that runs in the middle of any of them may create a task, and
        #: so start any other.
        self.lock = threading.RLock()

    @property
    def idle(self) -> bool:
        """Whether no loop is chosen."""
        chosen = list(self._chosen.values())
        return not self._every_loop and all(reference() is None for reference in chosen)

    def alive(self) -> list[Any]:
        """The loops that hooks have seen and that were not collected. Takes no lock."""
        loops = [known.loop() for known in self._known.copy().values()]
        return [loop for loop in loops if loop is not None]

    def traced(self) -> list[KnownLoop]:
        """The loops that are traced. Takes no lock."""
        return [known for known in self._known.copy().values() if known.recorder is not None]

    def choose_every_loop(self) -> None:
        """Trace any loop from now on."""
        with self.lock:
            self._every_loop = True
            self._forget_refusals()

    def choose(self, loop: Any) -> None:
        """Trace ``loop`` from now on."""
        with self.lock:
            self._chosen[id(loop)] = _reference(loop)
            self._forget_refusals()

    def drop(self, loop: Any) -> None:
        """Stop tracing ``loop``. Does nothing if it is not traced."""
        with self.lock:
            self._chosen.pop(id(loop), None)
            known = self._known.get(id(loop))
            if known is not None:
                self._release(known)
                self._known[id(loop)] = KnownLoop(known.loop)

    def restart(self, slot: Slot) -> None:
        """Stop measuring the loop that has ``slot``, which is given up.

        The loop is adopted again when it is next seen.
        """
        with self.lock:
            for number, known in self._known.copy().items():
                if known.slot is slot:
                    self._known.pop(number)
                    known.stop()
            self._slot_pool.discard(slot)

    def drop_all(self) -> None:
        """Stop tracing, and choose no loop any more."""
        with self.lock:
            self._every_loop = False
            self._chosen.clear()
            for number in list(self._known):
                self._on_collected(number)
            self.sweep()

    def forget(self) -> None:
        """In a forked child, do as :meth:`drop_all`, but leave the slots, which are the parent's.

        The lock is replaced, because another thread may have held it.
        """
        self.lock = threading.RLock()
        self._every_loop = False
        self._chosen.clear()
        for known in list(self._known.values()):
            known.stop()
        self._known.clear()
        self._gone.clear()

    def recorder_of(self, loop: Any) -> Any:
        """The recorder of ``loop``; ``None`` if it is not traced. Never raises."""
        return (self._known.get(id(loop)) or self._adopt(loop)).recorder

    def binding_of(self, loop: Any) -> LoopBinding | None:
        """The binding of requests on ``loop``; ``None`` if it is not traced. Never raises."""
        return (self._known.get(id(loop)) or self._adopt(loop)).binding

    def stats_of(self, loop: Any) -> LoopStats | None:
        """The loop statistics of ``loop``; ``None`` if it is not traced.

        Takes no lock, and adopts no loop.
        """
        known = self._known.get(id(loop))
        return None if known is None or known.slot is None else known.slot.loop_stats

    def timing_of(self, loop: Any) -> LoopTiming | None:
        """The timing of the iterations of ``loop``; ``None`` if it has none.

        Takes no lock, and adopts no loop.
        """
        known = self._known.get(id(loop))
        return None if known is None else known.timing

    def sweep(self) -> None:
        """Release the slots of loops that were collected or closed."""
        with self.lock:
            for number, known in self._known.copy().items():
                loop = known.loop() if known.slot is not None else None
                if loop is not None and _is_closed(loop):
                    self._on_collected(number)
            while self._gone:
                self._release(self._gone.pop())
            self._chosen = {
                number: chosen for number, chosen in self._chosen.items() if chosen() is not None
            }

    def _adopt(self, loop: Any) -> KnownLoop:
        with self.lock:
            number = id(loop)
            known = self._known[number] = KnownLoop(
                _reference(loop, self._deferring(lambda _: self._on_collected(number)))
            )
            try:
                self.sweep()
                if self._is_chosen(loop):
                    self._attach(known, loop)
            except (RecursionError, MemoryError):
                self._on_collected(number)  # likewise: the application has used up its stack
            except BaseException as error:
                if is_interrupt(error):
                    self._on_collected(number)  # so that it is adopted when it is next seen
                    raise
                self._internal_errors.report(PROBE, error, OFF_FOR_LOOP)
            return known

    def _is_chosen(self, loop: Any) -> bool:
        chosen = self._chosen.get(id(loop))
        is_chosen = self._every_loop or (chosen is not None and chosen() is loop)
        return is_chosen and not loop.is_closed()

    def _on_collected(self, number: int) -> None:
        """Retire the recorder of a loop.

        Takes no lock, because garbage collection may run anywhere; the next sweep does the rest.
        """
        known = self._known.pop(number, None)
        if known is None:
            return
        if known.recorder is not None:
            known.recorder.retire()
        self._gone.append(known)

    def _release(self, known: KnownLoop) -> None:
        known.stop()
        if known.slot is not None:
            self._slot_pool.release(known.slot)

    def _forget_refusals(self) -> None:
        """Forget the loops that are not traced, so that each is judged again when next seen."""
        for number, known in self._known.copy().items():
            if known.recorder is None:
                self._known.pop(number, None)


def _is_closed(loop: Any) -> bool:
    """Return whether a loop is closed. One that cannot say may still run."""
    try:
        return bool(loop.is_closed())
    except Exception as error:  # noqa: BLE001 - code of a loop of an unknown kind
        pass_on(error)
        return False


def _reference(loop: Any, on_collected: Callable[[Any], None] | None = None) -> Callable[[], Any]:
    """A weak reference to ``loop``, or a strong one if its type allows no other."""
    try:
        return weakref.ref(loop, on_collected)
    except TypeError:
        return lambda: loop
