"""Keeps exceptions that signal handlers raise where the interpreter drops them, as in finalizers.

They are the application's. The recorder in Python raises them at the end of a step; the C core has
functions of its own for this.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable
from typing import Any, TypeVar

from aiometrics.base.internal_errors import from_signal

F = TypeVar("F", bound=Callable[..., Any])

_exceptions: list[BaseException] = []


def deferring(function: F) -> F:
    """Return ``function`` such that what a handler of a signal raises in it is deferred."""

    @functools.wraps(function)
    def call(*args: Any) -> Any:
        try:
            return function(*args)
        except BaseException as error:
            if not from_signal(error):
                raise
            _exceptions.append(error)
            return None

    return call  # type: ignore[return-value]  # it is called as the function is


def deferred() -> BaseException | None:
    """Return an exception that was deferred, which the caller must raise; ``None`` if none was."""
    if _exceptions and threading.current_thread() is threading.main_thread():
        return _exceptions.pop()
    return None
