"""Callbacks that are no steps of tasks are timed where asyncio's handles run them; uvloop's handles are its own, and out of reach."""

from __future__ import annotations

import functools
from asyncio import events
from collections.abc import Callable
from types import BuiltinFunctionType
from typing import Any

Lookup = Callable[[Any], Any]
_original = events.Handle._run


def _is_step(callback: Any) -> bool:
    """Whether it is asyncio's own, in C, that steps a task: the segments inside are timed anyway."""
    kind = type(callback)
    return kind.__name__ == "TaskStepMethWrapper" or (kind is BuiltinFunctionType and callback.__name__ == "task_wakeup")


def _timed_run(lookup: Lookup) -> Callable[[events.Handle], None]:
    @functools.wraps(_original)
    def _run(handle: Any) -> None:
        callback = handle._callback
        recorder = None if _is_step(callback) else lookup(handle._loop)
        entered = None if recorder is None else recorder.enter_callback()
        if entered is None:
            _original(handle)
            return
        try:
            _original(handle)
        finally:
            recorder.leave_callback(entered, callback)

    return _run


class _FailedHandle:
    """Stands for a handle whose callback has raised, so that asyncio's own code deals with it, in the words of its version.

    It runs the callback by raising ``error`` once more, and is its own context and loop.
    """

    def __init__(self, handle: Any, raises: Callable[..., Any]) -> None:
        self._handle = handle
        self._callback, self._args = handle._callback, handle._args
        self._source_traceback = handle._source_traceback
        self._context = self._loop = self
        self.run = raises

    def get_debug(self) -> bool:
        return bool(self._handle._loop.get_debug())

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        self._handle._loop.call_exception_handler({**context, "handle": self._handle})


class HandleSeam:
    """The method by which asyncio's handles run their callbacks. ``lookup(loop)`` is the recorder of a loop, or ``None``.

    With the C core the method is C, and no slower than asyncio's own.
    """

    def __init__(self, core: Any, lookup: Lookup) -> None:
        self._replaced = vars(events.Handle)["_run"]
        self._run = _timed_run(lookup) if core is None else core.handle_run(events.Handle, _original, _failed(core))

    def install(self) -> None:
        """Put it in place."""
        events.Handle._run = self._run  # type: ignore[method-assign]

    def remove(self) -> None:
        """Restore the method; where somebody has since replaced it in turn, leave this one, without effect."""
        if vars(events.Handle)["_run"] is self._run:
            events.Handle._run = self._replaced  # type: ignore[method-assign]


def _failed(core: Any) -> Callable[[Any, BaseException], None]:
    def failed(handle: Any, error: BaseException) -> None:
        _original(_FailedHandle(handle, functools.partial(core.reraise, error)))  # type: ignore[arg-type]

    return failed
