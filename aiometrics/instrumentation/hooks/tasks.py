"""Intercepts the construction of tasks, so that their coroutines are traced.

The C core hooks the types of tasks and of coroutines. Without it, two places are hooked: the method
``create_task`` of loop classes, which runs before the application's task factory and leaves it
alone, and the name ``asyncio.Task``, for code that constructs tasks directly. Together they see
every task, except one that is constructed directly from a type that was imported or derived before.
"""

from __future__ import annotations

import abc
import asyncio
import functools
import logging
import sys
import threading
from asyncio import _get_running_loop, tasks
from collections.abc import Callable
from typing import Any, ClassVar, Protocol

#: ``trace(loop, coro)`` returns the coroutine to pass to the task. If that is another one, its
#: ``admit()`` is called once it has a task, or its ``abandon()`` if it gets none.
Trace = Callable[[Any, Any], Any]
Lookup = Callable[[Any], Any]

logger = logging.getLogger("aiometrics")


class _Offer(threading.local):
    """The coroutine of a task that this thread creates. It is not offered to ``trace`` again."""

    coro: Any = None


_offer = _Offer()


class Hook(Protocol):
    """Something that is patched, and can be restored."""

    def install(self) -> None:
        """Patch it."""

    def remove(self) -> None:
        """Restore what was there. Does nothing if something else has replaced the patch since."""


class MethodHook:
    """Replaces a method of one loop class by ``wrapper``."""

    def __init__(self, loop_class: type, name: str, wrapper: Callable[..., Any]) -> None:
        self.loop_class = loop_class
        self._name = name
        self._own = vars(loop_class).get(name)
        self._wrapper = wrapper

    def install(self) -> None:
        """Replace the method. Raises ``TypeError`` if the class cannot be changed."""
        setattr(self.loop_class, self._name, self._wrapper)

    def remove(self) -> None:
        """Restore the method, or let it be inherited again."""
        if vars(self.loop_class).get(self._name) is not self._wrapper:
            return
        if self._own is None:
            delattr(self.loop_class, self._name)
        else:
            setattr(self.loop_class, self._name, self._own)


class CreateTaskHook(MethodHook):
    """Replaces the method ``create_task`` of one loop class."""

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
    """Whether the application's factory wrapped the coroutine in its own, which is then traced.

    A task that is done need not be asked, and must not be: Python 3.12.1 has lost the coroutine of
    a task that ran eagerly, and crashes.
    """
    return isinstance(task, asyncio.Task) and (task.done() or task.get_coro() is not traced)


def _created_elsewhere(task: Any) -> Any:
    """Remove our frame from the place of creation that a task remembers in debug mode."""
    source = getattr(task, "_source_traceback", None)
    if source and source[-1].filename == __file__:
        del source[-1]
    return task


class TaskTypeHook:
    """Hooks the types of tasks and of coroutines themselves, with the C core.

    It sees every construction of a task, and every step, so that no other hook is needed. Of tasks
    whose construction it has missed, it sees the steps. ``lookup(loop)`` returns the recorder of a
    loop, or ``None``. Several may be installed; the last one that knows a loop gets it, as with the
    hooks in Python, which wrap one another.
    """

    _lookups: ClassVar[list[Lookup]] = []
    #: What was logged, so that it is logged once.
    _logged: ClassVar[set[str]] = set()

    def __init__(self, core: Any, lookup: Lookup) -> None:
        self._core = core
        self._lookup = lookup

    def install(self) -> None:
        """Hook the types."""
        self._lookups.append(self._lookup)
        self.look_again()

    def remove(self) -> None:
        """Unhook the types, if this is the last hook that is installed."""
        self._lookups.remove(self._lookup)
        if self._lookups:
            self.look_again()
            return
        for name in self._core.unhook():
            self._log(f"{name} was replaced while tasks were traced, and is left as it is")

    def look_again(self) -> None:
        """Look at running tasks again that were on no loop to be traced."""
        self._core.hook(self._first, self._notice)

    @classmethod
    def _first(cls, loop: Any) -> Any:
        """The recorder of a loop; ``None`` if it is not traced.

        A task that is given no loop takes the running one; without one, construction fails anyway.
        """
        loop = _get_running_loop() if loop is None else loop
        found = (lookup(loop) for lookup in reversed(cls._lookups)) if loop is not None else ()
        return next((recorder for recorder in found if recorder is not None), None)

    @classmethod
    def _notice(cls, subject: type | str) -> None:
        if isinstance(subject, str):
            cls._log(f"{subject} was replaced, so tasks are traced from their first step on only")
            return
        cls._log(
            f"tasks of the type {subject.__module__}.{subject.__qualname__} are not traced, "
            "because it is not derived from asyncio.Task"
        )

    @classmethod
    def _log(cls, message: str) -> None:
        if message not in cls._logged:
            cls._logged.add(message)
            logger.warning("aiometrics: %s", message)


class TaskNameHook:
    """Replaces the name ``asyncio.Task`` by a type whose instances are those of the original."""

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
    # An ABCMeta, so that the application may derive from both the stand-in and an abstract class.
    # The original may be a stand-in itself.
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
    """Return the only hook that the C core needs, or nothing if there is no core."""
    return [TaskTypeHook(core, lookup)] if core is not None else []


def python_hooks(trace: Trace) -> list[Hook]:
    """The hooks for every loop, those of uvloop included.

    If uvloop is imported later, it takes the stand-in of ``asyncio.Task``.
    """
    uvloop = sys.modules.get("uvloop")
    classes = [asyncio.BaseEventLoop, *([uvloop.Loop] if uvloop is not None else [])]
    return [TaskNameHook(trace), *(CreateTaskHook(loop_class, trace) for loop_class in classes)]
