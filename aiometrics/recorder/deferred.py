"""Keeps exceptions that signal handlers raise where the interpreter drops them, as in finalizers.

They are the application's. The recorder in Python raises them at the end of a step; the C core has
functions of its own for this.
"""

from __future__ import annotations

import functools
import threading
from asyncio import _get_running_loop
from collections.abc import Callable
from typing import Any, TypeVar

from aiometrics.base.internal_errors import from_signal

F = TypeVar("F", bound=Callable[..., Any])
Notify = Callable[[Any], None]

_exceptions: list[BaseException] = []


def deferring(function: F) -> F:
    """Return ``function`` such that what a handler of a signal raises in it is deferred.

    Nothing is raised if the application has used up its stack or its memory: the interpreter would
    print that.
    """

    @functools.wraps(function)
    def call(*args: Any) -> Any:
        try:
            try:
                return function(*args)
            except BaseException as error:
                if not from_signal(error):
                    raise
                _exceptions.append(error)
        except (RecursionError, MemoryError):
            pass
        return None

    return call  # type: ignore[return-value]  # it is called as the function is


def telling(tell: Notify, function: Notify) -> Notify:
    """Return a replacement of ``function``, which sets the running loop, that calls ``tell`` first.

    Whatever ``tell`` raises, the run is over, whether it was to begin or to end.
    """

    def _set_running_loop(loop: Any, /) -> None:
        try:
            tell(loop)
        except BaseException:
            if _get_running_loop() is None:
                function(loop)
                loop = None
            try:
                tell(loop)
            finally:
                function(loop)
            raise
        function(loop)

    return _set_running_loop


def deferred() -> BaseException | None:
    """Return an exception that was deferred, which the caller must raise; ``None`` if none was."""
    if _exceptions and threading.current_thread() is threading.main_thread():
        return _exceptions.pop()
    return None
