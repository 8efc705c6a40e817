"""The base class of contenders, which is itself one: a bare event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Mapping
from contextlib import AbstractAsyncContextManager, nullcontext
from importlib import import_module
from typing import Any, ClassVar

LoopFactory = Callable[[], asyncio.AbstractEventLoop]
LOOPS = ("asyncio", "uvloop")


class Unavailable(Exception):  # noqa: N818 - a finding about a contender, not a failure of ours
    """A contender cannot run here; the message says why."""


def plain_loop(kind: str) -> asyncio.AbstractEventLoop:
    """Return a new loop of this kind (one of ``LOOPS``)."""
    if kind == "uvloop":
        loop: asyncio.AbstractEventLoop = import_module("uvloop").new_event_loop()
        return loop
    return asyncio.SelectorEventLoop()


class Contender:
    """A bare event loop.

    Subclasses override the method that runs when their documentation asks for the set-up.
    """

    name: ClassVar[str] = "bare"
    gives: ClassVar[str] = "nothing"
    #: Environment variables of the process it runs in.
    environment: ClassVar[Mapping[str, str]] = {}
    #: Share of the usual number of calls that is measured: less than 1 for very slow contenders.
    effort: ClassVar[float] = 1.0

    def prepare(self) -> None:
        """Set up before there is a loop."""

    def loop_factory(self, kind: str) -> LoopFactory:
        """Return the function that makes its loop."""
        return lambda: plain_loop(kind)

    def inside(self) -> AbstractAsyncContextManager[object]:
        """Set up in the running loop, around the workload."""
        return nullcontext()

    def decorate(
        self, function: Callable[..., Coroutine[Any, Any, Any]]
    ) -> Callable[..., Coroutine[Any, Any, Any]]:
        """Decorate a coroutine function that runs as a task, if users have to do so by hand."""
        return function
