"""What is measured: a bare event loop, and whatever is added to one."""

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
    """A new loop of this kind (one of ``LOOPS``)."""
    if kind == "uvloop":
        loop: asyncio.AbstractEventLoop = import_module("uvloop").new_event_loop()
        return loop
    return asyncio.SelectorEventLoop()


class Contender:
    """A bare event loop; subclasses add what they add, at the moment their documentation asks for."""

    name: ClassVar[str] = "bare"
    gives: ClassVar[str] = "nothing"
    #: Environment of the process it runs in.
    environment: ClassVar[Mapping[str, str]] = {}
    #: The share of the usual calls that is measured: less for the very slow ones.
    effort: ClassVar[float] = 1.0

    def prepare(self) -> None:
        """Set-up before there is a loop."""

    def loop_factory(self, kind: str) -> LoopFactory:
        """What makes its loop."""
        return lambda: plain_loop(kind)

    def inside(self) -> AbstractAsyncContextManager[object]:
        """Set-up in the running loop, around the workload."""
        return nullcontext()

    def decorate(
        self, function: Callable[..., Coroutine[Any, Any, Any]]
    ) -> Callable[..., Coroutine[Any, Any, Any]]:
        """What is done by hand to a coroutine function that runs as a task."""
        return function
