"""Follows the await chain, from a task's root coroutine to what it finally waits for.

This is the twin of ``csrc/await_chain.c``. Only C-level descriptors are followed. An object that
answers by ``__getattr__`` or a property ends the chain, because asking it would run foreign code
inside the recorder.
"""

from __future__ import annotations

import contextlib
import gc
import types
from collections.abc import Callable, Iterator
from typing import Any


def _samples() -> Iterator[Any]:
    """Yield one awaitable of each built-in type that hides the generator it drives."""

    async def coroutine() -> None:
        pass

    async def generator() -> Any:
        yield

    root = coroutine()
    yield root.__await__()
    root.close()
    source = generator()
    for sample in (source.__anext__(), source.aclose(), anext(source, None)):
        yield sample
        sample.close()


def in_every_state() -> Iterator[Any]:
    """Yield generators of the three built-in types: not begun, suspended in either way, finished.

    The C core looks at each of them to learn whether it can read frames as this interpreter lays
    them out.
    """

    @types.coroutine
    def pause() -> Iterator[Any]:
        yield

    async def coroutine(awaited: Any) -> Any:
        return (awaited, await awaited)

    async def generator(awaited: Any) -> Any:
        yield (awaited, await awaited)

    root: Any = coroutine(pause())
    source: Any = generator(pause())
    step = source.__anext__()
    yield from (root, source)
    root.send(None)
    step.send(None)
    yield from (root, root.cr_await, source, source.ag_await)
    for driven in (root, step):
        with contextlib.suppress(StopIteration):
            driven.send(None)
    yield from (root, source)
    last = source.__anext__()
    with contextlib.suppress(StopAsyncIteration):
        last.send(None)
    yield source


#: Links of an await chain that are followed: more than the interpreter can nest, but few enough to
#: end a chain that leads back to itself.
MAX_DEPTH = 10_000
#: Answers of :func:`hop`.
ENDS, HIDES, ASKS, ASKS_BEHIND = range(4)
_OPAQUE = tuple({type(sample) for sample in _samples()})
_GETTERS = (types.GetSetDescriptorType, types.MemberDescriptorType)
_QUALNAME: Callable[[type], str] = vars(type)["__qualname__"].__get__
_MODULE: Callable[[type], Any] = vars(type)["__module__"].__get__
_LINKS = ("cr_await", "gi_yieldfrom", "ag_await")
#: How to follow built-in generators. Types are found by identity, because a metaclass can have code
#: of its own for equality.
_NEXT: dict[int, Callable[[Any], Any]] = {
    id(types.CoroutineType): lambda obj: obj.cr_await,
    id(types.GeneratorType): lambda obj: obj.gi_yieldfrom,
    id(types.AsyncGeneratorType): lambda obj: obj.ag_await,
}


def peek(obj: Any, *names: str) -> Any:
    """Return the first of the attributes ``names`` that ``obj`` stores behind a C-level descriptor.

    ``None`` if there is none. No Python code runs.
    """
    for base in type(obj).__mro__:
        for name in names:
            found = vars(base).get(name)
            if isinstance(found, _GETTERS):
                try:
                    return found.__get__(obj)
                except AttributeError:  # a slot that was never filled
                    return None
    return None


def type_names(kind: type) -> tuple[str, str]:
    """Return the module and qualified name that ``type`` itself stores for a type.

    What a class or its metaclass says instead is ignored.
    """
    module = _MODULE(kind)
    return (module if isinstance(module, str) else "builtins", _QUALNAME(kind))


def _is_cython_wrapper(kind: type) -> bool:
    """Return whether ``__await__`` of a coroutine compiled by Cython returns this type."""
    module, name = type_names(kind)
    return name == "coroutine_wrapper" and module.startswith("_cython_")


def _hidden(obj: Any) -> Any:
    """Return the generator behind an opaque awaitable, the only one that it refers to."""
    return next(
        (
            found
            for found in gc.get_referents(obj)
            if id(type(found)) in _NEXT or _is_opaque(type(found)) or code_of(found) is not None
        ),
        None,
    )


def _is_opaque(kind: type) -> bool:
    return any(kind is opaque_type for opaque_type in _OPAQUE)


def hop(kind: type) -> int:
    """Return how the chain continues from objects of a type that is not a built-in generator.

    The C core asks once per type. ``ENDS``: the chain ends. ``HIDES``: at the generator that a
    built-in awaitable hides. ``ASKS``: as :func:`awaited_by` and :func:`code_of` say.
    ``ASKS_BEHIND``: likewise, but objects of this type are :func:`opaque`, as are those of
    ``HIDES``.
    """
    if _is_opaque(kind):
        return HIDES
    if _is_cython_wrapper(kind):
        return ASKS_BEHIND
    readable = any(
        isinstance(vars(base).get(name), _GETTERS) for base in kind.__mro__ for name in _LINKS
    )
    return ASKS if readable else ENDS


def opaque(obj: Any) -> bool:
    """Return whether ``obj`` only drives a generator that it hides; it has no name of its own."""
    return _is_opaque(type(obj)) or _is_cython_wrapper(type(obj))


def awaited_by(obj: Any) -> Any:
    """Return what ``obj`` is suspended on, or ``None`` at the end of the chain."""
    follow = _NEXT.get(id(type(obj)))
    if follow is not None:
        return follow(obj)
    return _hidden(obj) if opaque(obj) else peek(obj, *_LINKS)


def links(root: Any) -> Iterator[Any]:
    """Yield the await chain of a suspended coroutine, from itself to what it finally waits for."""
    link = root
    for _ in range(MAX_DEPTH):
        if link is None:
            return
        yield link
        link = awaited_by(link)


def frame_of(obj: Any) -> types.FrameType | None:
    """Return the frame of a coroutine, generator or asynchronous generator.

    ``None`` if it has none or is finished.
    """
    frame = peek(obj, "cr_frame", "gi_frame", "ag_frame")
    return frame if isinstance(frame, types.FrameType) else None


def code_of(obj: Any) -> types.CodeType | None:
    """Return the code of a coroutine or generator of any sort; ``None`` for anything else."""
    code = peek(obj, "cr_code", "gi_code", "ag_code")
    return code if isinstance(code, types.CodeType) else None


def is_built_in(obj: Any) -> bool:
    """Return whether ``obj`` is a coroutine or generator of Python itself, and not of Cython."""
    return id(type(obj)) in _NEXT
