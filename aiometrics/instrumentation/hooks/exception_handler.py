"""Counts the calls of loops' exception handlers.

The handler that the application sets is called as before, and is what the application reads back.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable
from typing import Any

from aiometrics.instrumentation.hooks.tasks import MethodHook

METHOD = "call_exception_handler"


class _Reported(threading.local):
    """The context that this thread is passing to an exception handler."""

    context: Any = None


class ExceptionHandlerHook:
    """Hooks the method ``call_exception_handler`` of loop classes.

    ``count(loop)`` counts one call.
    """

    def __init__(self, count: Callable[[Any], None]) -> None:
        self._count = count
        self._methods: list[MethodHook] = []
        self._reported = _Reported()

    def install(self) -> None:
        """Do nothing: :meth:`cover` hooks one class after another."""

    def cover(self, loop_class: type) -> None:
        """Count the calls on loops of that class too.

        The method is replaced in the class that defines it, which is the same for all of asyncio's
        loops. A class in C cannot be changed: then the method is replaced in the next class that
        derives from it, if there is one.
        """
        taken = {id(method.loop_class) for method in self._methods}
        for owner in _from_definition(loop_class):
            if id(owner) in taken:
                return
            method = MethodHook(owner, METHOD, self._counting(getattr(owner, METHOD)))
            try:
                method.install()
            except TypeError:
                continue
            self._methods.append(method)
            return

    def remove(self) -> None:
        """Restore the methods."""
        while self._methods:
            self._methods.pop().remove()

    def _counting(self, original: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(original)
        def call_exception_handler(loop: Any, context: Any, *args: Any, **kwargs: Any) -> Any:
            outer, self._reported.context = self._reported.context, context
            # A class that overrides the method may call the original with the same context,
            # which is counted already.
            if context is not outer:
                self._count(loop)
            try:
                return original(loop, context, *args, **kwargs)
            finally:
                self._reported.context = outer

        return call_exception_handler


def _from_definition(loop_class: type) -> list[type]:
    """The class that defines the method for ``loop_class``, then the classes between the two."""
    mro = loop_class.__mro__
    defines = next((number for number, base in enumerate(mro) if METHOD in vars(base)), -1)
    return list(reversed(mro[: defines + 1]))
