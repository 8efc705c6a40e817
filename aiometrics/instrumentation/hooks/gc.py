"""Times garbage collections, which stop the loop in whose thread they run."""

from __future__ import annotations

import gc
from asyncio import _get_running_loop
from collections.abc import Callable, Mapping
from typing import Any

from aiometrics.base.clock import Clock
from aiometrics.base.internal_errors import InternalErrors, is_interrupt
from aiometrics.base.unpatched import getpid
from aiometrics.instrumentation.loop_stats import LoopStats

PROBE = "gc"


class GarbageCollectionHook:
    """A callback of the garbage collector.

    ``stats_of(loop)`` returns the statistics of a traced loop, or ``None``. It must not take a
    lock. The collector prints and drops what its callbacks raise, so they are ``deferring``.
    """

    def __init__(
        self,
        stats_of: Callable[[Any], LoopStats | None],
        clock: Clock,
        internal_errors: InternalErrors,
        deferring: Callable[[Callable[..., Any]], Callable[..., Any]],
    ) -> None:
        self._stats_of = stats_of
        self._clock = clock
        self._internal_errors = internal_errors
        self._pid = getpid()
        # One collection runs at a time, and from start to stop in one thread.
        self._since_ns: int | None = None
        self._callback = deferring(self._on_collection)

    def install(self) -> None:
        """Register the callback."""
        gc.callbacks.append(self._callback)

    def remove(self) -> None:
        """Unregister the callback, which another that calls itself equal to it is not."""
        for number, callback in enumerate(gc.callbacks):
            if callback is self._callback:
                del gc.callbacks[number]
                return

    def _on_collection(self, phase: str, info: Mapping[str, Any]) -> None:
        try:
            if phase == "start":
                self._since_ns = self._clock()
                self._note(info["generation"], self._since_ns)
            elif self._since_ns is not None:
                since_ns, self._since_ns = self._since_ns, None
                self._charge(info["generation"], self._clock() - since_ns)
        except (RecursionError, MemoryError):  # the application has used up its stack or its memory
            raise
        except Exception as error:
            if is_interrupt(error):
                raise
            self.remove()
            self._internal_errors.report(PROBE, error)

    def _charge(self, generation: int, ns: int) -> None:
        loop_stats = self._loop_stats()
        if loop_stats is not None:
            loop_stats.add_gc_pause(generation, ns)
            loop_stats.end_collection()
            loop_stats.note_thread()

    def _note(self, generation: int, now_ns: int) -> None:
        loop_stats = self._loop_stats()
        if loop_stats is not None:
            loop_stats.begin_collection(generation, now_ns)

    def _loop_stats(self) -> LoopStats | None:
        if getpid() != self._pid:
            # A forked child that has not handled the fork yet: the page is the parent's.
            return None
        loop = _get_running_loop()
        return None if loop is None else self._stats_of(loop)
