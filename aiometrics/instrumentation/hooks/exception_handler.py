"""Counts the calls of loops' exception handlers, whichever the application sets: its own is called as ever, and is what it reads back."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable
from typing import Any

from aiometrics.instrumentation.hooks.tasks import MethodHook

METHOD = "call_exception_handler"


class _Reported(threading.local):
    """What this thread is handing to an exception handler."""

    context: Any = None


class ExceptionHandlerHook:
    """The method ``call_exception_handler`` of the loop classes that it is told of. ``count(loop)`` counts one call."""

    def __init__(self, count: Callable[[Any], None]) -> None:
        self._count = count
        self._methods: list[MethodHook] = []
        self._reported = _Reported()

    def install(self) -> None:
        """Nothing is put in place until :meth:`cover` says where."""

    def cover(self, loop_class: type) -> None:
        """See the calls on loops of that class too.

        The method is replaced where it is defined, once for all of asyncio's loops. A class in C does not let itself be changed: there
        it is the next one that derives from it, and none if there is none.
        """
        taken = {method.loop_class for method in self._methods}
        for owner in _from_definition(loop_class):
            if owner in taken:
                return
            method = MethodHook(owner, METHOD, self._counting(getattr(owner, METHOD)))
            try:
                method.install()
            except TypeError:
                continue
            self._methods.append(method)
            return

    def remove(self) -> None:
        """Put the methods back."""
        while self._methods:
            self._methods.pop().remove()

    def _counting(self, original: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(original)
        def call_exception_handler(loop: Any, context: Any, *args: Any, **kwargs: Any) -> Any:
            outer, self._reported.context = self._reported.context, context
            # A class that overrides the method may call the original, with what was counted already.
            if context is not outer:
                self._count(loop)
            try:
                return original(loop, context, *args, **kwargs)
            finally:
                self._reported.context = outer

        return call_exception_handler


def _from_definition(loop_class: type) -> list[type]:
    """The class that defines the method for ``loop_class``, then those between the two."""
    mro = loop_class.__mro__
    defines = next((number for number, base in enumerate(mro) if METHOD in vars(base)), -1)
    return list(reversed(mro[: defines + 1]))
