"""Finds the line that a loop's thread is executing, and what that line called, from its frames.

The twin of ``csrc/stack.c``, which reads the frames of one thread. Python can only ask for those of
all threads of all interpreters, and must not while another interpreter runs.
"""

from __future__ import annotations

import enum
import gc
import inspect
import operator
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from importlib import import_module
from itertools import accumulate, chain, islice, repeat, takewhile
from types import CodeType, FrameType
from typing import Any, NamedTuple

from aiometrics.recorder.places import CodeOrigin, Places, called, module_name, ours, place

#: At most so many frames are looked at, from the innermost on.
MAX_FRAMES = 256
#: At most so many calls are in the result of :func:`shortened`.
SHORT = 8
UNKNOWN = "(unknown)"
_COLLECTION = "(garbage collection, generation {})"
#: The functions that run the loop: what is outside of them does not belong to what the loop does.
_RUNNERS = frozenset(
    {
        ("asyncio.base_events", "BaseEventLoop._run_once"),
        ("asyncio.events", "Handle._run"),
        ("asyncio.runners", "Runner.run"),
    }
)
#: Our modules whose frames stand between the application and what calls it, or what it calls. They
#: only witness what takes time.
_OUR_WRAPPERS = frozenset(
    {
        "aiometrics.instrumentation.hooks.exception_handler",
        "aiometrics.instrumentation.hooks.gc",
        "aiometrics.instrumentation.hooks.handles",
        "aiometrics.instrumentation.hooks.selector",
        "aiometrics.instrumentation.hooks.tasks",
        "aiometrics.instrumentation.instrumentation",
        "aiometrics.integrations.aiohttp",
        "aiometrics.integrations.asgi",
        "aiometrics.recorder.recorder",
        "aiometrics.recorder.sampler",
        "aiometrics.recorder.stack",
        "aiometrics.recorder.traced",
        "aiometrics.requests.request",
    }
)
#: A frame at one moment: its code, its line and its globals.
Frame = tuple[CodeType, int | None, Mapping[str, Any]]
_AS_FRAME = operator.attrgetter("f_code", "f_lineno", "f_globals")
_ASYNCHRONOUS = inspect.CO_COROUTINE | inspect.CO_ITERABLE_COROUTINE
#: Whether garbage is collected wherever memory is allocated, and not only between instructions.
COLLECTS_ANYWHERE = sys.version_info < (3, 12)


class FrameKind(enum.IntEnum):
    """The role of a frame in the search for the line that holds the loop."""

    STANDARD_LIBRARY = CodeOrigin.STANDARD_LIBRARY
    LIBRARY = CodeOrigin.LIBRARY
    APPLICATION = CodeOrigin.APPLICATION
    #: It runs the loop.
    RUNNER = 3
    #: Ours, and skipped.
    WITNESS = 4
    #: Ours, and at work.
    OWN = 5


def frame_kind(code: CodeType, module_globals: Mapping[str, Any], places: Places) -> FrameKind:
    """Return what a frame of this code is."""
    module = module_name(code, module_globals)
    if (module, code.co_qualname) in _RUNNERS:
        return FrameKind.RUNNER
    if module in _OUR_WRAPPERS:
        return FrameKind.WITNESS
    origin = places.origin_of(module, code)
    return FrameKind.OWN if ours(module) and origin < CodeOrigin.APPLICATION else FrameKind(origin)


class Call(NamedTuple):
    """A call in progress: a frame at one moment."""

    code: CodeType
    line: int | None
    module: str
    #: Whether our witnesses called it, and not the application.
    witnessed: bool = False

    def __str__(self) -> str:
        return place(self.code, self.line, self.module)


def stack_of_thread(ident: int) -> list[Frame]:
    """The frames that a thread is executing, innermost first, up to one more than ``MAX_FRAMES``.

    Empty if there is no such thread, and in Python also while another interpreter exists.
    """
    # There is no variable with the frames of all threads: one of them would be the variable's own.
    innermost = map(operator.methodcaller("get", ident), map(operator.call, (_look_up(),)))
    walk: Callable[[], list[Frame]] = partial(list, frames(innermost))
    return _without_collection(walk) if COLLECTS_ANYWHERE and gc.isenabled() else walk()


def frames(innermost: Iterable[FrameType | None]) -> Iterator[Frame]:
    """Walk outwards from a frame, if it is one, without an instruction of Python.

    So no other thread runs on the way while a frame is held, which would keep alive what the
    application has let go of.
    """
    steps: Iterator[Any] = chain(innermost, repeat("f_back"))
    outwards: Iterator[Any] = accumulate(steps, getattr)
    return islice(map(_AS_FRAME, takewhile(bool, outwards)), MAX_FRAMES + 1)


def _look_up() -> Callable[[], Mapping[int, FrameType]]:
    """Return what looks up the frames of all threads, unless there is another interpreter.

    ``sys._current_frames()`` walks the threads of all interpreters without the locks of the others,
    which corrupts memory while one of them runs. No other thread can run between the calls that
    ``map`` makes, and so none can make an interpreter between the question and the look-up.
    """
    by_interpreters: Mapping[int, Any] = {1: sys._current_frames}  # noqa: SLF001 - the documented way, for debuggers
    interpreters = map(len, map(operator.call, (_list_interpreters,)))
    return map(operator.call, map(by_interpreters.get, interpreters, (dict,))).__next__


def _find_list_interpreters() -> Callable[[], Sequence[Any]]:
    """Return what lists the interpreters of the process.

    The module is private up to Python 3.13. Where it is missing, there may be any number.
    """
    for name in ("_interpreters", "_xxsubinterpreters"):
        try:
            found: Callable[[], Sequence[Any]] = import_module(name).list_all
        except (ImportError, AttributeError):
            continue
        return found
    return tuple


_list_interpreters = _find_list_interpreters()


def _without_collection(walk: Callable[[], list[Frame]]) -> list[Frame]:
    """Walk while garbage collection is disabled.

    The interpreter looks the frames up under a lock. If garbage is collected then, and a finalizer
    lets another thread run that wants the lock too, all threads stop for ever
    (python/cpython#106883).
    """
    found: list[Frame]
    steps: Any = (gc.isenabled, gc.disable, walk, gc.enable)
    try:
        enabled, _, found, _ = map(operator.call, steps)
    except BaseException:
        gc.enable()
        raise
    if not enabled:  # the application had disabled it
        gc.disable()
    return found


def calls(stack: Sequence[Frame]) -> list[Call]:
    """The calls that a loop's thread is executing, innermost first.

    The frames that run the loop, and those outside of them, are left out. uvloop has no frames of
    its own: there the frames outside of the task's coroutine are left out.
    """
    within = list(takewhile(lambda frame: not _runs_loop(frame), stack[:MAX_FRAMES]))
    if within and not any(map(_runs_loop, stack[len(within) : len(within) + 1])):
        within = _within_coroutine(within)
    found: list[Call] = []
    for code, line, module_globals in within:
        module = module_name(code, module_globals)
        if module not in _OUR_WRAPPERS:
            found.append(Call(code, line, module))
        elif found:
            found[-1] = found[-1]._replace(witnessed=True)
    return found


def _runs_loop(frame: Frame) -> bool:
    code, _, module_globals = frame
    return (module_globals.get("__name__"), code.co_qualname) in _RUNNERS


def _within_coroutine(stack: list[Frame]) -> list[Frame]:
    outermost = max(
        (number for number, (code, _, _) in enumerate(stack) if code.co_flags & _ASYNCHRONOUS),
        default=len(stack),
    )
    return stack[: outermost + 1]


def blocked_at(stack: Sequence[Call], places: Places, collecting: int = 0) -> str:
    """The place that blocks a loop, such as ``shop/report.py:9 build > json.loads``.

    It is the innermost call of the application and, if that called a library, what it called.
    Without a call of the application it is the innermost call of a third-party library, else the
    innermost call. C functions have no frame; the line shows which one it is. Code of aiometrics,
    and what that calls, is never the place, nor what was called unless the application called it.
    While garbage is being collected, of the generation ``collecting`` less one, that is what was
    called.
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
    below = stack[number - 1] if number else None
    if number - 1 == work and below is not None and below.witnessed:
        below = None
    return held_at(stack[number], below, collecting)


def held_at(call: Call, below: Call | None, collecting: int) -> str:
    """Return a line as text, with what it called."""
    if collecting:
        return f"{call} > {_COLLECTION.format(collecting - 1)}"
    return str(call) if below is None else f"{call} > {called(below.code, below.module)}"


def shortened(stack: Sequence[Call]) -> str:
    """The innermost calls as text, the outermost of them first."""
    shown = " > ".join(map(str, reversed(stack[:SHORT])))
    return f"... > {shown}" if len(stack) > SHORT else shown
