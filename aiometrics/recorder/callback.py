"""Names callbacks that are not steps of tasks: the twin of ``csrc/callback.c``."""

from __future__ import annotations

import functools
from types import BuiltinFunctionType, CodeType, FunctionType, MethodType
from typing import Any

from aiometrics.recorder.await_chain import type_names
from aiometrics.recorder.places import module_name, place, type_name

#: The label ``awaits`` of callbacks, except those of transports, which have their protocol there.
PLAIN = "(callback)"
UNWRAPPINGS = 8


def target(callback: Any) -> tuple[Any, Any]:
    """Return the function behind partials and bound methods, and the object it is bound to."""
    receiver = None
    for _ in range(UNWRAPPINGS):
        if type(callback) is functools.partial:
            callback = callback.func
        elif type(callback) is MethodType:
            callback, receiver = callback.__func__, callback.__self__
        else:
            break
    return callback, receiver


def is_transport(kind: type) -> bool:
    """Return whether a type may be a transport of asyncio, which has a ``_protocol``."""
    return type_names(kind)[0].startswith("asyncio.") and hasattr(kind, "get_protocol")


def protocol_type(receiver: Any) -> type | None:
    """Return the type of an asyncio transport's protocol, or ``None`` for anything else."""
    if receiver is None or not is_transport(type(receiver)):
        return None
    protocol = getattr(receiver, "_protocol", None)
    return None if protocol is None else type(protocol)


def identity(callback: Any) -> tuple[Any, type | None, str | None]:
    """Return what distinguishes callbacks of different names.

    That is its code or type and the type of its protocol, both by identity, and a name.
    """
    function, receiver = target(callback)
    kind = type(function)
    if kind is FunctionType:
        return function.__code__, protocol_type(receiver), None
    return (
        function if issubclass(kind, type) else kind,
        protocol_type(receiver),
        _builtin_name(function),
    )


def _builtin_name(function: Any) -> str | None:
    """Return the qualified name of a function in C, or ``None`` for anything else.

    Functions that know their class have a type of their own, derived from that of the others.
    """
    return str(function.__qualname__) if issubclass(type(function), BuiltinFunctionType) else None


def names(callback: Any) -> tuple[str, str]:
    """Return the labels ``yield_point`` and ``awaits`` of a callback.

    They are ``path:line qualname`` of its definition and ``(callback)``, or for a method of a
    transport the type of the protocol.
    """
    function, receiver = target(callback)
    protocol = protocol_type(receiver)
    return _place(function), PLAIN if protocol is None else type_name(protocol)


def _place(function: Any) -> str:
    kind = type(function)
    if kind is FunctionType:
        code: CodeType = function.__code__
        return place(code, code.co_firstlineno, module_name(code, function.__globals__))
    return _builtin_name(function) or type_name(function if issubclass(kind, type) else kind)
