"""Callbacks that a loop runs and that are no steps of tasks: which code they are, and its name."""

from __future__ import annotations

import functools
from types import BuiltinFunctionType, CodeType, FunctionType, MethodType
from typing import Any

from aiometrics.recorder.await_chain import type_names
from aiometrics.recorder.places import relative_path, type_name

#: Names what a callback of a transport is for, in the place where yield points name what they await.
PLAIN = "(callback)"
_UNWRAPPINGS = 8


def target(callback: Any) -> tuple[Any, Any]:
    """The function behind partials and bound methods, and what it is bound to, or ``None``."""
    receiver = None
    for _ in range(_UNWRAPPINGS):
        if type(callback) is functools.partial:
            callback = callback.func
        elif type(callback) is MethodType:
            callback, receiver = callback.__func__, callback.__self__
        else:
            break
    return callback, receiver


def is_transport(kind: type) -> bool:
    """Whether objects of this type may be transports of asyncio's, which keep their protocol in ``_protocol``."""
    return type_names(kind)[0].startswith("asyncio.") and hasattr(kind, "get_protocol")


def protocol_type(receiver: Any) -> type | None:
    """The type of the protocol that a transport of asyncio's works for; ``None`` for anything else."""
    if receiver is None or not is_transport(type(receiver)):
        return None
    protocol = getattr(receiver, "_protocol", None)
    return None if protocol is None else type(protocol)


def identity(callback: Any) -> tuple[Any, ...]:
    """What callbacks of one name have in common and others do not: for caches of names."""
    function, receiver = target(callback)
    kind = type(function)
    if kind is FunctionType:
        return (function.__code__, protocol_type(receiver))
    return (
        function if issubclass(kind, type) else kind,
        _builtin_name(function),
        protocol_type(receiver),
    )


def _builtin_name(function: Any) -> str | None:
    """The qualified name of a function in C: those that know the class that defines them are of a subclass of the others."""
    return str(function.__qualname__) if issubclass(type(function), BuiltinFunctionType) else None


def names(callback: Any) -> tuple[str, str]:
    """``path:line qualname`` of the callback's definition, and the protocol's type if it is a transport's."""
    function, receiver = target(callback)
    protocol = protocol_type(receiver)
    return _place(function), PLAIN if protocol is None else type_name(protocol)


def _place(function: Any) -> str:
    kind = type(function)
    if kind is FunctionType:
        code: CodeType = function.__code__
        module = function.__globals__.get("__name__")
        path = relative_path(code, module if isinstance(module, str) else "")
        return f"{path}:{code.co_firstlineno} {code.co_qualname}"
    return _builtin_name(function) or type_name(function if issubclass(kind, type) else kind)
