"""Times the turns of uvloop's loops at handles of libuv, and hears when they run and are closed."""

from __future__ import annotations

import logging
import sys
import weakref
from asyncio import _get_running_loop
from collections.abc import Callable
from functools import cache
from typing import Any, ClassVar

from aiometrics.base.internal_errors import is_interrupt
from aiometrics.instrumentation.loop_internals import uvloop_queue
from aiometrics.pages.layout import CALLBACKS
from aiometrics.recorder.deferred import Notify
from aiometrics.recorder.labels import Labels

logger = logging.getLogger("aiometrics")

#: The rows of what runs in a turn beside the steps of tasks, named like their yield points. What
#: runs because of an event is mostly that of transports and protocols; the rest is what was passed
#: to ``call_soon`` and to timers, and the loop itself.
EVENT_CALLBACKS, OTHER_CALLBACKS = "(events)", "(handles)"


class LibuvTiming:
    """Times the turns of one loop of uvloop, whose thread adds and removes the handles."""

    def __init__(self, loop: Any, turns: Any) -> None:
        self._loop = weakref.ref(loop)
        self._turns = turns
        if loop.is_running():
            turns.join()

    def started(self) -> None:
        """Called when the loop starts to run."""
        self._turns.start()

    def stopped(self) -> None:
        """Called when the loop stops; the time until it starts is neither active nor idle."""
        self._turns.stop()

    def observe(self) -> None:
        """Show it in the page if the loop does not wait but handles events."""
        loop = self._loop()
        if loop is not None:
            self._turns.look(loop)

    def remove(self) -> None:
        """Stop timing. The loop closes the handles when it next runs, or runs to be closed.

        A loop says that it is closed while it still runs for that, and without the GIL.
        """
        if self._loop() is None:
            self._turns.abandon()
        else:
            self._turns.retire()


def time_turns(
    loop: Any, core: Any, turns: Callable[[], Any], recorder: Any, labels: Labels
) -> LibuvTiming | None:
    """Time the turns of a loop of uvloop; ``None``, and the log says why, if that is impossible."""
    try:
        capsule = _uv_loop(loop, core)
        points = (
            labels.pseudo_point(CALLBACKS, name) for name in (EVENT_CALLBACKS, OTHER_CALLBACKS)
        )
        ready = uvloop_queue(loop)
        return LibuvTiming(loop, core.LibuvTurns(loop, capsule, turns(), recorder, *points, ready))
    except RuntimeError as error:
        if is_interrupt(error):
            raise
        _log_once(logging.INFO if core is None else logging.WARNING, str(error))
        return None


def _uv_loop(loop: Any, core: Any) -> Any:
    """Return a capsule with the loop in C. Raises ``RuntimeError`` with the reason if it must not.

    If it does not raise, libuv is known.
    """
    module = sys.modules["uvloop.loop"]
    pointer = getattr(module, "libuv_get_loop_t_ptr", None)
    if core is None or not hasattr(core, "bind_libuv"):
        raise RuntimeError("this takes the C recorder, on a system with dlsym()")
    if not issubclass(type(loop), sys.modules["uvloop"].Loop) or pointer is None:
        raise RuntimeError(f"{type(loop)!r} is not derived from uvloop.Loop, or shows no uv_loop_t")
    if loop.is_running() and _get_running_loop() is not loop:
        raise RuntimeError("a loop runs in another thread than where it was first seen")
    reason = _reason_against(core, module)
    if reason is not None:
        raise RuntimeError(reason)
    return pointer(loop)


@cache
def _reason_against(core: Any, module: Any) -> str | None:
    """Why libuv cannot be used, which is tried once; ``None`` if it can."""
    try:
        core.bind_libuv(module.__file__, module.Loop.is_closed, module.Loop.is_running)
    except RuntimeError as error:
        return str(error)
    return None


@cache
def _log_once(level: int, reason: str) -> None:
    logger.log(level, "aiometrics: turns and idle time of uvloop are not known: %s", reason)


class UvloopMethodsHook:
    """Replaces the methods by which loops of uvloop are run and closed.

    uvloop keeps the function by which other loops tell that they run from when it was imported, so
    a replacement would not be called. The methods are those of C functions, in whose tracebacks
    nothing is added. ``closing(loop)`` is called before a loop that does not run is closed.
    """

    _installed: ClassVar[list[UvloopMethodsHook]] = []

    def __init__(self, core: Any, started: Notify, stopped: Notify, closing: Notify) -> None:
        self._core = core
        self._started = started
        self._stopped = stopped
        self._closing = closing

    def install(self) -> None:
        """Replace the methods, unless they are."""
        if not self._installed:
            self._core.hook_methods(sys.modules["uvloop"].Loop, _Listener)
        self._installed.append(self)

    def remove(self) -> None:
        """Restore the methods, if this is the last one that is installed."""
        self._installed.remove(self)
        if not self._installed:
            self._core.unhook_methods()

    @classmethod
    def tell(cls, loop: Any, event: str) -> bool:
        """Call back. Returns whether the loop did not run, so that the call is not a mistake."""
        if sys.modules["uvloop"].Loop.is_running(loop):
            return False
        for hook in tuple(cls._installed):
            getattr(hook, f"_{event}")(loop)
        return True


class _Listener:
    """Is told by the C core when loops run."""

    @staticmethod
    def started(loop: Any) -> bool:
        return UvloopMethodsHook.tell(loop, "started")

    @staticmethod
    def stopped(loop: Any) -> bool:
        return UvloopMethodsHook.tell(loop, "stopped")

    @staticmethod
    def closing(loop: Any) -> bool:
        return UvloopMethodsHook.tell(loop, "closing")


def methods_hook(
    core: Any, loop_class: type, started: Notify, stopped: Notify, closing: Notify
) -> UvloopMethodsHook | None:
    """Return the hook that a class of loops needs; ``None`` if it is none of uvloop's."""
    base = getattr(sys.modules.get("uvloop"), "Loop", None)
    if base is None or not issubclass(loop_class, base) or not hasattr(core, "hook_methods"):
        return None
    return UvloopMethodsHook(core, started, stopped, closing)
