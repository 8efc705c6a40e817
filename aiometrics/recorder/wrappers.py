"""Finds what a coroutine only awaits on behalf of others, so that its name can stand for the task.

Tools wrap coroutines to time them, to give them a context, or to catch what they raise.
"""

from __future__ import annotations

import dis
import functools
import inspect
from collections.abc import Iterator
from types import CodeType, FunctionType, MethodType
from typing import Any

from aiometrics.recorder.await_chain import code_of, frame_of, peek

#: Wrappers that do more than await what they were given, by module and name, and the variable that
#: holds the wrapped coroutine or what makes it.
_KNOWN = {
    ("opentelemetry.instrumentation.asyncio", "trace_coroutine"): "coro",
    ("sentry_sdk.integrations.asyncio", "_task_with_sentry_span_creation"): "coro",
    ("ddtrace.contrib.internal.asyncio.patch", "traced_coro"): "coro",
    ("aiomonitor.monitor", "_coro_wrapper"): "coro",
    ("uvloop", "wrapper"): "main",
    ("anyio._backends._asyncio", "wrapper"): "func",
    ("anyio._backends._asyncio", "_run_wrapped_task"): "coro",
    ("anyio._core._tasks", "_run_coro"): "self",
    ("aiometrics.requests.request", "scoped_coroutine"): "function",
}
_LOADS = ("LOAD_FAST", "LOAD_DEREF")


def known(module: str, code: CodeType | None) -> str | None:
    """Return the variable in which a known wrapper holds what it wraps."""
    return None if code is None else _KNOWN.get((module, code.co_name))


@functools.lru_cache(maxsize=1000)
def only_awaited(code: CodeType) -> str | None:
    """Return the variable that all ``await`` of a coroutine function await, or the results of.

    ``None`` if there is none, or if the code does not tell the columns of its expressions.
    """
    if not code.co_flags & inspect.CO_COROUTINE:
        return None
    awaited = set(_awaited(code))
    return awaited.pop() if len(awaited) == 1 else None


def _awaited(code: CodeType) -> Iterator[str | None]:
    """Yield, for each ``await``, the variable with which the awaited expression begins.

    What ``async with`` and ``async for`` await is left out.
    """
    loaded: dict[Any, str] = {}
    start = None
    for instruction in dis.get_instructions(code):
        if instruction.opname == "GET_AWAITABLE" and not instruction.arg:
            yield loaded.get(start)
        start = _start(instruction)
        if (
            start is not None
            and instruction.opname.startswith(_LOADS)
            and type(instruction.argval) is str
        ):
            loaded[start] = instruction.argval


def _start(instruction: dis.Instruction) -> tuple[int, int] | None:
    """Return where the expression of an instruction begins; ``None`` if the code does not tell."""
    place = instruction.positions
    if place is None or place.lineno is None or place.col_offset is None:
        return None
    return (place.lineno, place.col_offset)


def held_by(root: Any, variable: str) -> Any:
    """Return the coroutine, or the function, that a wrapper which has not begun was given.

    ``None`` if the variable holds something else.
    """
    frame = frame_of(root)
    held = None if frame is None else frame.f_locals.get(variable)
    # A handle of anyio holds the coroutine. A wrapper made by a task factory holds what the factory
    # got, which is a TracedCoroutine.
    held = peek(held, "__wrapped__", "_coro") or held
    if type(held) is MethodType:
        held = held.__func__
    return held if type(held) is FunctionType or code_of(held) is not None else None
