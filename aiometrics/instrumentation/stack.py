"""Finds the line that a loop's thread is executing, and what that line called, from its frames."""

from __future__ import annotations

import gc
import inspect
import operator
import sys
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from types import CodeType, FrameType
from typing import Any, NamedTuple

from aiometrics.recorder.places import CodeOrigin, Places, called, module_name, ours, place

#: At most so many frames are looked at, from the innermost on.
MAX_FRAMES = 256
#: At most so many calls are in the result of :func:`shortened`.
SHORT = 8
UNKNOWN = "(unknown)"
#: The functions that run the loop: what is outside of them does not belong to what the loop does.
_RUNNERS = frozenset(
    {
        ("asyncio.base_events", "BaseEventLoop._run_once"),
        ("asyncio.events", "Handle._run"),
        ("asyncio.runners", "Runner.run"),
    }
)
#: Our modules whose frames stand between a loop, its tasks and their coroutines.
_OUR_WRAPPERS = frozenset(
    {
        "aiometrics.instrumentation.hooks.handles",
        "aiometrics.instrumentation.hooks.tasks",
        "aiometrics.recorder.recorder",
        "aiometrics.recorder.traced",
    }
)
_ASYNCHRONOUS = inspect.CO_COROUTINE | inspect.CO_ITERABLE_COROUTINE
#: Whether garbage is collected wherever memory is allocated, and not only between instructions.
COLLECTS_ANYWHERE = sys.version_info < (3, 12)


class Call(NamedTuple):
    """A call in progress: a frame at one moment."""

    code: CodeType
    line: int | None
    module: str

    def __str__(self) -> str:
        return place(self.code, self.line, self.module)


def frame_of_thread(ident: int) -> FrameType | None:
    """The frame that a thread is executing; ``None`` if there is no such thread."""
    collects = COLLECTS_ANYWHERE and gc.isenabled()
    return (_frames_without_collection() if collects else sys._current_frames()).get(ident)  # noqa: SLF001 - the documented way, for debuggers


def _frames_without_collection() -> Mapping[int, FrameType]:
    """The frames of all threads, looked up while garbage collection is disabled.

    The interpreter looks them up under a lock. If garbage is collected then, and a finalizer lets
    another thread run that wants the lock too, all threads stop for ever (python/cpython#106883).
    No other thread can run between the calls that ``map`` makes.
    """
    frames: Mapping[int, FrameType]
    steps: Any = (gc.isenabled, gc.disable, sys._current_frames, gc.enable)  # noqa: SLF001 - as above
    try:
        enabled, _, frames, _ = map(operator.call, steps)
    except BaseException:
        gc.enable()
        raise
    if not enabled:  # the application had disabled it
        gc.disable()
    return frames


def calls(innermost: FrameType) -> list[Call]:
    """The calls that a loop's thread is executing, innermost first.

    The frames that run the loop, and those outside of them, are left out. uvloop has no frames of
    its own: there the frames outside of the task's coroutine are left out.
    """
    frames = list(islice(_within_runner(innermost), MAX_FRAMES))
    if frames and not _runs_loop(frames[-1].f_back):
        frames = _within_coroutine(frames)
    found = (
        Call(frame.f_code, frame.f_lineno, module_name(frame.f_code, frame.f_globals))
        for frame in frames
    )
    return [call for call in found if call.module not in _OUR_WRAPPERS]


def _runs_loop(frame: FrameType | None) -> bool:
    return (
        frame is not None
        and (frame.f_globals.get("__name__"), frame.f_code.co_qualname) in _RUNNERS
    )


def _within_runner(frame: FrameType | None) -> Iterator[FrameType]:
    while frame is not None and not _runs_loop(frame):
        yield frame
        frame = frame.f_back


def _within_coroutine(frames: list[FrameType]) -> list[FrameType]:
    outermost = max(
        (number for number, frame in enumerate(frames) if frame.f_code.co_flags & _ASYNCHRONOUS),
        default=len(frames),
    )
    return frames[: outermost + 1]


def blocked_at(stack: Sequence[Call], places: Places) -> str:
    """The place that blocks a loop, such as ``shop/report.py:9 build > json.loads``.

    It is the innermost call of the application and, if that called a library, what it called.
    Without a call of the application it is the innermost call of a third-party library, else the
    innermost call. C functions have no frame; the line shows which one it is. Code of aiometrics,
    and what that calls, is never the place.
    """
    origins = [places.origin_of(call.module, call.code) for call in stack]
    work = max(
        (
            number
            for number, call in enumerate(stack)
            if ours(call.module) and origins[number] < CodeOrigin.APPLICATION
        ),
        default=-1,
    )
    eligible = [
        number
        for number, origin in enumerate(origins)
        if number > work or origin == CodeOrigin.APPLICATION
    ]
    if not eligible:
        return UNKNOWN
    number = max(eligible, key=origins.__getitem__)
    if not number:
        return str(stack[0])
    below = stack[number - 1]
    return f"{stack[number]} > {called(below.code, below.module)}"


def shortened(stack: Sequence[Call]) -> str:
    """The innermost calls as text, the outermost of them first."""
    shown = " > ".join(map(str, reversed(stack[:SHORT])))
    return f"... > {shown}" if len(stack) > SHORT else shown
