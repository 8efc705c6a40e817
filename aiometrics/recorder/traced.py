"""The wrapper that a task runs in place of its coroutine: the twin of ``csrc/traced.c``."""

from __future__ import annotations

from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any

from aiometrics.pages.layout import AT_START, OTHER_POINT_NODE
from aiometrics.recorder.deferred import deferring

if TYPE_CHECKING:
    from aiometrics.recorder.recorder import Recorder
    from aiometrics.recorder.scope import RequestScope

#: OFFERED: it is not known yet whether there will be a task.
OFFERED, NEW, SUSPENDED, RUNNING, DONE = range(5)
#: How many yield points of its coroutine a task can tell apart, besides ``(other)``: it is counted
#: as a task that waited at the first of those that share a bit of a word.
VISITS = 63


class TracedCoroutine:
    """Forwards everything to a coroutine and has the recorder time each step.

    Tools that read the memory of a process, such as ``python -m asyncio ps`` from Python 3.14 on,
    take what a task runs for a coroutine. ``_nothing`` is never set: it lies where they look for
    the code that it runs, so they find none and go on. Slots lie in the order of their names.
    """

    __slots__ = (
        "__weakref__",
        "__wrapped__",
        "_active_ns",
        "_counted_ns",
        "_created_ns",
        "_creator",
        "_divided_ns",
        "_node",
        "_nothing",
        "_number",
        "_outer",
        "_paused_ns",
        "_point",
        "_record",
        "_recorder",
        "_scope",
        "_since_ns",
        "_state",
        "_suspended_ns",
        "_visited",
    )

    def __init__(self, coro: Any, recorder: Recorder, record: int, created_ns: int) -> None:
        self.__wrapped__ = coro
        self._recorder = recorder
        self._record = record
        self._created_ns = created_ns
        #: The task's number, from 1 on, and that of the task that created it. Callbacks have number
        #: 0, and so has the creator of the tasks that they create.
        self._number = self._creator = 0
        self._state = OFFERED
        self._active_ns = 0
        #: The segment in progress: when it began, moved up by the time of its eager children; what
        #: readers counted of it; and the segment that it interrupts.
        self._since_ns = 0
        self._counted_ns = 0
        self._outer: TracedCoroutine | None = None
        #: When the eager child that is running began.
        self._paused_ns = 0
        #: The yield point where it is suspended, the node of its await chain, and since when.
        self._point = AT_START
        self._node = OTHER_POINT_NODE
        self._suspended_ns = 0
        #: The request that its time belongs to, and the part of the segment in progress that does
        #: not: it was charged already, or belongs to no request.
        self._scope: RequestScope | None = None
        self._divided_ns = 0
        #: The bits of the yield points where a wait of it has ended.
        self._visited = 0

    def send(self, value: Any) -> Any:
        """Resume the coroutine, like ``coroutine.send``."""
        timed = self._recorder.resume(self)
        try:
            yielded = self.__wrapped__.send(value)
        except BaseException as error:
            if timed:
                self._recorder.end(self, error)
            raise
        if timed:
            self._recorder.suspend(self, yielded)
        return yielded

    def throw(self, exception: Any, *rest: Any) -> Any:
        """Raise inside the coroutine, like ``coroutine.throw``, with its deprecated arguments.

        The exception is not in a tuple of arguments, which the collector would show to the
        coroutine as an object that refers to it.
        """
        timed = self._recorder.resume(self)
        try:
            throw = self.__wrapped__.throw
            yielded = throw(exception, *rest) if rest else throw(exception)
        except BaseException as error:
            # The traceback refers to this frame, whose arguments must not complete a cycle.
            del exception, rest
            if timed:
                self._recorder.end(self, error)
            raise
        if timed:
            self._recorder.suspend(self, yielded)
        return yielded

    def close(self) -> None:
        """Close the coroutine, like ``coroutine.close``."""
        timed = self._recorder.resume(self)
        try:
            self.__wrapped__.close()
        except BaseException as error:
            if timed:
                self._recorder.end(self, error)
            raise
        if timed:
            self._recorder.end(self, GeneratorExit())

    def admit(self) -> None:
        """Count the task: it was created."""
        self._recorder.admit(self)

    def abandon(self) -> None:
        """Forget the coroutine: its task could not be created."""
        self._recorder.abandon(self)

    def __await__(self) -> Any:
        return self.__wrapped__.__await__()

    @deferring
    def __del__(self) -> None:
        if self._state in (NEW, SUSPENDED):
            self._recorder.lose(self)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__wrapped__, name)

    def __repr__(self) -> str:
        return repr(self.__wrapped__)

    @property
    def __name__(self) -> str:
        name: str = self.__wrapped__.__name__
        return name

    @__name__.setter
    def __name__(self, name: str) -> None:
        self.__wrapped__.__name__ = name

    @property  # type: ignore[misc]  # for isinstance() and inspect; type() returns the real type
    def __class__(self) -> type:
        return type(self.__wrapped__)


Coroutine.register(TracedCoroutine)
