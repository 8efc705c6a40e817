"""Installs the hooks while loops are traced, and removes them."""

from __future__ import annotations

import logging
from typing import Any

from aiometrics.base.clock import Clock
from aiometrics.base.internal_errors import InternalErrors, KnownLimit
from aiometrics.instrumentation.hooks.exception_handler import ExceptionHandlerHook
from aiometrics.instrumentation.hooks.gc import GarbageCollectionHook
from aiometrics.instrumentation.hooks.handles import PROBE as CALLBACKS_PROBE
from aiometrics.instrumentation.hooks.handles import HandleHook
from aiometrics.instrumentation.hooks.libuv import UvloopMethodsHook, methods_hook
from aiometrics.instrumentation.hooks.selector import RunningLoopHook
from aiometrics.instrumentation.hooks.tasks import (
    CreateTaskHook,
    Hook,
    TaskTypeHook,
    c_hooks,
    python_hooks,
)
from aiometrics.instrumentation.traced_loops import TracedLoops
from aiometrics.recorder.implementation import Implementation
from aiometrics.requests.binding import BINDINGS

logger = logging.getLogger("aiometrics")


class InstalledHooks:
    """The hooks through which ``loops`` are measured, each installed once for the whole process.

    Callers of the methods hold the lock of ``loops``, except in a forked child.
    """

    def __init__(
        self,
        loops: TracedLoops,
        implementation: Implementation,
        clock: Clock,
        internal_errors: InternalErrors,
    ) -> None:
        self._loops = loops
        self._implementation = implementation
        self._clock = clock
        self._internal_errors = internal_errors
        self._hooks: list[Hook] = []
        self._exception_handlers = ExceptionHandlerHook(self._count_unhandled_exception)

    def install(self) -> None:
        """Install all hooks. If they are installed, running tasks are only looked at again."""
        if self._hooks:
            self._look_again()
            return
        BINDINGS.connect(self._loops.binding_of)
        core = self._implementation.core
        tasks = c_hooks(core, self._loops.recorder_of) or python_hooks(self._trace)
        running = RunningLoopHook(
            self._loop_started, self._loop_stopped, self._implementation.telling
        )
        collections = GarbageCollectionHook(
            self._loops.stats_of,
            self._clock,
            self._internal_errors,
            self._implementation.deferring,
        )
        for hook in (
            *tasks,
            *self._handle_hooks(),
            running,
            collections,
            self._exception_handlers,
        ):
            self._add(hook)

    def cover(self, loop_class: type) -> None:
        """Hook a class of loops too, if it inherits a method from no class that is hooked."""
        covered = tuple(hook.loop_class for hook in self._hooks if isinstance(hook, CreateTaskHook))
        if covered and not issubclass(loop_class, covered):
            self._add(CreateTaskHook(loop_class, self._trace))
        self._cover_methods(loop_class)
        self._exception_handlers.cover(loop_class)

    def _cover_methods(self, loop_class: type) -> None:
        """Hook the methods of uvloop's loops, once one of them is seen."""
        if any(isinstance(hook, UvloopMethodsHook) for hook in self._hooks):
            return
        hook = methods_hook(
            self._implementation.core,
            loop_class,
            self._loop_started,
            self._loop_stopped,
            self._loop_closing,
        )
        if hook is not None:
            self._add(hook)

    def remove(self) -> None:
        """Remove all hooks, the last first."""
        BINDINGS.disconnect(self._loops.binding_of)
        while self._hooks:
            self._hooks.pop().remove()

    def _look_again(self) -> None:
        for hook in self._hooks:
            if isinstance(hook, TaskTypeHook):
                hook.look_again()

    def _add(self, hook: Hook) -> None:
        hook.install()
        self._hooks.append(hook)

    def _handle_hooks(self) -> list[Hook]:
        """Return a list of the hook that times callbacks.

        It is empty where the source of asyncio is missing, as in frozen programs, or is not as
        expected, which are known limits.
        """
        try:
            return [HandleHook(self._implementation.core, self._loops.recorder_of)]
        except OSError:
            logger.info(
                "aiometrics: callbacks are not timed, because this program does not contain the "
                "source of asyncio; tasks are traced without it"
            )
            return []
        except KnownLimit as limit:
            logger.warning("aiometrics: %s; tasks are traced without it", limit)
            return []
        except Exception as error:  # noqa: BLE001 - tasks are traced without it
            self._internal_errors.report(CALLBACKS_PROBE, error)
            return []

    def _trace(self, loop: Any, coro: Any) -> Any:
        """Return the coroutine that a new task of ``loop`` runs in place of ``coro``.

        That is ``coro`` itself if the task is not to be traced.
        """
        if self._implementation.follows(coro):
            return coro
        recorder = self._loops.recorder_of(loop)
        return coro if recorder is None else recorder.trace(coro)

    def _count_unhandled_exception(self, loop: Any) -> None:
        loop_stats = self._loops.stats_of(loop)
        if loop_stats is not None:
            loop_stats.count_unhandled_exception()

    def _loop_started(self, loop: Any) -> None:
        loop_stats = self._loops.stats_of(loop)
        if loop_stats is not None:
            loop_stats.note_thread()
        timing = self._loops.timing_of(loop)
        if timing is not None:
            timing.started()

    def _loop_stopped(self, loop: Any) -> None:
        timing = self._loops.timing_of(loop)
        if timing is not None:
            timing.stopped()

    def _loop_closing(self, loop: Any) -> None:
        timing = self._loops.timing_of(loop)
        if timing is not None:
            timing.remove()
