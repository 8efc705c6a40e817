"""What a loop's thread is executing, from its frames: which line of the application, and what that line called."""

from __future__ import annotations

import gc
import inspect
import operator
import sys
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from types import CodeType, FrameType
from typing import Any, NamedTuple

from aiometrics.recorder.places import Origin, Places, called, module_name, ours, place

#: Frames that are looked at, from the innermost on.
MAX_FRAMES = 256
#: Frames that :func:`shortened` tells.
SHORT = 8
UNKNOWN = "(unknown)"
#: What runs the loop: nothing outside of it belongs to what the loop does now.
_RUNNERS = frozenset(
    {
        ("asyncio.base_events", "BaseEventLoop._run_once"),
        ("asyncio.events", "Handle._run"),
        ("asyncio.runners", "Runner.run"),
    }
)
#: What stands between a loop, its tasks and their coroutines because of us.
_OUR_WRAPPERS = frozenset(
    {
        "aiometrics.instrumentation.hooks.handles",
        "aiometrics.instrumentation.hooks.tasks",
        "aiometrics.recorder.recorder",
        "aiometrics.recorder.traced",
    }
)
_ASYNCHRONOUS = inspect.CO_COROUTINE | inspect.CO_ITERABLE_COROUTINE
#: Whether garbage is collected wherever something is allocated, and not between two instructions.
COLLECTS_ANYWHERE = sys.version_info < (3, 12)


class Call(NamedTuple):
    """A frame at one moment."""

    code: CodeType
    line: int | None
    module: str

    def __str__(self) -> str:
        return place(self.code, self.line, self.module)


def frame_of_thread(ident: int) -> FrameType | None:
    """What the thread of that number is executing; ``None`` if there is none."""
    collects = COLLECTS_ANYWHERE and gc.isenabled()
    return (_frames_without_collection() if collects else sys._current_frames()).get(ident)  # noqa: SLF001 - the documented way, for debuggers


def _frames_without_collection() -> Mapping[int, FrameType]:
    """The frames of all threads, while no garbage is collected.

    They are looked up under a lock of the interpreter. If garbage is collected then, and one of its finalizers lets another thread run
    that wants the lock too, all threads stand still for ever (python/cpython#106883). Between what ``map`` calls no thread comes.
    """
    frames: Mapping[int, FrameType]
    steps: Any = (gc.isenabled, gc.disable, sys._current_frames, gc.enable)  # noqa: SLF001 - as above
    try:
        enabled, _, frames, _ = map(operator.call, steps)
    except BaseException:
        gc.enable()
        raise
    if not enabled:  # the application has disabled it just now
        gc.disable()
    return frames


def calls(innermost: FrameType) -> list[Call]:
    """What the loop of that thread is executing, innermost first.

    The frames that run the loop, and those outside of them, are left out. uvloop has no frames of its own: there it is those outside
    of the task's coroutine.
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
    """The innermost call of the application and, if it called a library, what: ``shop/report.py:9 build > json.loads``.

    Without any of the application it is the innermost of a third party, else the innermost. C functions have no frame: of those the
    line tells which it is. What we do ourselves, and what we call for it, is never the place.
    """
    kinds = [places.origin_of(call.module, call.code) for call in stack]
    work = max(
        (
            number
            for number, call in enumerate(stack)
            if ours(call.module) and kinds[number] < Origin.APPLICATION
        ),
        default=-1,
    )
    eligible = [
        number for number, kind in enumerate(kinds) if number > work or kind == Origin.APPLICATION
    ]
    if not eligible:
        return UNKNOWN
    number = max(eligible, key=kinds.__getitem__)
    if not number:
        return str(stack[0])
    below = stack[number - 1]
    return f"{stack[number]} > {called(below.code, below.module)}"


def shortened(stack: Sequence[Call]) -> str:
    """The innermost calls, outermost of them first."""
    shown = " > ".join(map(str, reversed(stack[:SHORT])))
    return f"... > {shown}" if len(stack) > SHORT else shown
