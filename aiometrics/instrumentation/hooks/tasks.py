"""Where the construction of a task is intercepted, in pure Python.

Two places together see every task but those of types that were captured before: the method ``create_task`` of loop classes, which
comes before the application's task factory and leaves it alone, and the name ``asyncio.Task``, for who constructs tasks directly.
"""

from __future__ import annotations

import abc
import asyncio
import functools
import sys
import threading
from asyncio import _get_running_loop, tasks
from collections.abc import Callable
from typing import Any, ClassVar, Protocol

#: ``trace(loop, coro)`` is the coroutine to hand to the task. If that is another one, it is then told of its task by ``admit()``, or
#: that there is none by ``abandon()``.
Trace = Callable[[Any, Any], Any]
Lookup = Callable[[Any], Any]


class _Offer(threading.local):
    """The coroutine for which a task is being created in this thread: traced or left out, it is not to be decided about again."""

    coro: Any = None


_offer = _Offer()
_C_TASK = getattr(tasks, "_CTask", None)


class Hook(Protocol):
    """Something that is put in place, and taken back if it is still there."""

    def install(self) -> None:
        """Put it in place."""

    def remove(self) -> None:
        """Restore what was there; where somebody has since replaced it in turn, leave it, without effect."""


class MethodHook:
    """A method of one loop class: ``wrapper`` in its place."""

    def __init__(self, loop_class: type, name: str, wrapper: Callable[..., Any]) -> None:
        self.loop_class = loop_class
        self._name = name
        self._own = vars(loop_class).get(name)
        self._wrapper = wrapper

    def install(self) -> None:
        """Replace the method. Raises ``TypeError`` if the class cannot be changed."""
        setattr(self.loop_class, self._name, self._wrapper)

    def remove(self) -> None:
        """Restore the method, or the inheritance of it."""
        if vars(self.loop_class).get(self._name) is not self._wrapper:
            return
        if self._own is None:
            delattr(self.loop_class, self._name)
        else:
            setattr(self.loop_class, self._name, self._own)


class CreateTaskHook(MethodHook):
    """The method ``create_task``."""

    def __init__(self, loop_class: type, trace: Trace) -> None:
        original = loop_class.create_task  # type: ignore[attr-defined]
        super().__init__(loop_class, "create_task", _tracing_create_task(original, trace))


def _tracing_create_task(original: Callable[..., Any], trace: Trace) -> Callable[..., Any]:
    @functools.wraps(original)
    def create_task(loop: Any, coro: Any, *args: Any, **kwargs: Any) -> Any:
        traced = trace(loop, coro)
        outer, _offer.coro = _offer.coro, traced
        try:
            task = original(loop, traced, *args, **kwargs)
        except BaseException:
            if traced is not coro:
                traced.abandon()
            raise
        finally:
            _offer.coro = outer
        if traced is not coro and _left_behind(task, traced):
            traced.abandon()
        elif traced is not coro:
            traced.admit()
        return _created_elsewhere(task)

    return create_task


def _left_behind(task: Any, traced: Any) -> bool:
    """Whether the application's factory wrapped the coroutine in one of its own, which is then the one to trace.

    A task that is done need not be asked, and must not: Python 3.12.1 has lost the coroutine of one that ran eagerly, and crashes.
    """
    return isinstance(task, asyncio.Task) and (task.done() or task.get_coro() is not traced)


def _created_elsewhere(task: Any) -> Any:
    """In debug mode the task remembers where it was created, which is not here."""
    source = getattr(task, "_source_traceback", None)
    if source and source[-1].filename == __file__:
        del source[-1]
    return task


class TaskTypeHook:
    """The C type of tasks itself, by the C core: sees every construction, of subclasses too, and needs no other seam.

    ``lookup(loop)`` is the recorder of a loop, or ``None``. Several may be installed; the last one that knows a loop has it, as with the
    seams in Python, which wrap one another.
    """

    _lookups: ClassVar[list[Lookup]] = []

    def __init__(self, core: Any, lookup: Lookup) -> None:
        self._core = core
        self._lookup = lookup

    def install(self) -> None:
        """Hook the constructor."""
        self._lookups.append(self._lookup)
        self._core.hook(_C_TASK, self._first)

    def remove(self) -> None:
        """Unhook it after the last."""
        self._lookups.remove(self._lookup)
        if self._lookups:
            self._core.hook(_C_TASK, self._first)
        else:
            self._core.unhook()

    @classmethod
    def _first(cls, loop: Any) -> Any:
        """The recorder of a loop; a task that is given none takes the running one, or is the caller's mistake."""
        loop = _get_running_loop() if loop is None else loop
        found = (lookup(loop) for lookup in reversed(cls._lookups)) if loop is not None else ()
        return next((recorder for recorder in found if recorder is not None), None)


class TaskNameHook:
    """The name ``asyncio.Task``: a type in its place whose instances are those of the original."""

    def __init__(self, trace: Trace) -> None:
        self._original = tasks.Task
        self._stand_in = _stand_in(tasks.Task, trace)

    def install(self) -> None:
        """Put the stand-in where the name is looked up."""
        self._replace(self._original, self._stand_in)

    def remove(self) -> None:
        """Put the original back."""
        self._replace(self._stand_in, self._original)

    @staticmethod
    def _replace(old: type, new: type) -> None:
        for module in (asyncio, tasks):
            if vars(module)["Task"] is old:
                vars(module)["Task"] = new


def _stand_in(original: Any, trace: Trace) -> type:
    # Not only a type, so that the application may derive from it and from an abstract class. The original may be a stand-in itself.
    base: Any = abc.ABCMeta if type(original) is type else type(original)

    class Meta(base, type):  # type: ignore[misc]  # whichever it is
        def __call__(cls, coro: Any, *args: Any, **kwargs: Any) -> Any:
            loop = kwargs.get("loop") or _get_running_loop()
            traced = coro if loop is None or coro is _offer.coro else trace(loop, coro)
            construct = original if cls is Task else super().__call__
            try:
                task = construct(traced, *args, **kwargs)
            except BaseException:
                if traced is not coro:
                    traced.abandon()
                raise
            if traced is not coro:
                traced.admit()
            return _created_elsewhere(task)

        def __instancecheck__(cls, instance: Any) -> bool:
            return (
                isinstance(instance, original)
                if cls is Task
                else super().__instancecheck__(instance)
            )

        def __subclasscheck__(cls, subclass: type) -> bool:
            return (
                issubclass(subclass, original)
                if cls is Task
                else super().__subclasscheck__(subclass)
            )

    namespace = {
        "__doc__": original.__doc__,
        "__module__": original.__module__,
        "__qualname__": original.__qualname__,
    }
    Task = Meta(original.__name__, (original,), namespace)  # noqa: N806 - it is a type
    return Task


def c_hooks(core: Any, lookup: Lookup) -> list[Hook]:
    """The one seam that the C core needs; none where tasks are not of its type."""
    return [TaskTypeHook(core, lookup)] if core is not None and _C_TASK is tasks.Task else []


def python_hooks(trace: Trace) -> list[Hook]:
    """The seams for every loop, those of uvloop included if it is imported; if it comes later it takes the stand-in."""
    uvloop = sys.modules.get("uvloop")
    classes = [asyncio.BaseEventLoop, *([uvloop.Loop] if uvloop is not None else [])]
    return [TaskNameHook(trace), *(CreateTaskHook(loop_class, trace) for loop_class in classes)]
