"""Callbacks that are no steps of tasks: their names, and their share of the loop's time."""

from __future__ import annotations

import asyncio
import functools
import socket
import sys
from collections.abc import Callable
from typing import Any

import pytest
from support.tracing import every_loop

from aiometrics.pages.snapshot import CALLBACK, Snapshot
from aiometrics.testing import TracedLoop, traced_loop

MS = 1_000_000
TOP = __name__.partition(".")[0]
FILE = f"{__name__.replace('.', '/')}.py"
EAGER = pytest.mark.skipif(sys.version_info < (3, 12), reason="eager tasks came with Python 3.12")


def plain() -> None:
    """A function."""


class Shop:
    """Has a method and can be called."""

    def method(self, *_: object) -> None:
        """A method."""

    def __call__(self) -> None:
        """An instance."""


def line(function: Any) -> int:
    """Return the line where a function is defined."""
    number: int = function.__code__.co_firstlineno
    return number


def rows(seen: Snapshot) -> dict[tuple[str, str], int]:
    """Return how often each callback ran, by ``yield_point`` and ``awaits``."""
    return {
        (point.yield_point, point.awaits): point.segments.count
        for point in seen.yield_points_of(CALLBACK)
    }


NAMES: dict[str, tuple[Callable[[], Callable[..., object]], str]] = {
    "function": (lambda: plain, f"{FILE}:{line(plain)} plain"),
    "method": (lambda: Shop().method, f"{FILE}:{line(Shop.method)} Shop.method"),
    "partial": (
        lambda: functools.partial(functools.partial(Shop().method, 1), 2),
        f"{FILE}:{line(Shop.method)} Shop.method",
    ),
    "instance": (Shop, f"{TOP}.Shop"),
    "class": (lambda: Shop, f"{TOP}.Shop"),
    "class of Python itself": (lambda: int, "int"),
    "function in C": (lambda: [1].clear, "list.clear"),
    "another of that name": (lambda: {1}.clear, "set.clear"),
    "function in C that knows its class": (
        lambda: asyncio.get_running_loop().create_future().get_loop,
        "Future.get_loop",
    ),
}


def test_names_of_callbacks(implementation: str) -> None:
    """Python code is named by its definition, anything else by its qualified name.

    Callbacks with different names have different rows, however alike they are.
    """

    async def main() -> None:
        for make, _ in NAMES.values():
            for _number in range(2):
                asyncio.get_running_loop().call_soon(make())
        await asyncio.sleep(0)

    with traced_loop(implementation=implementation) as traced:
        traced.run(main())
        found = rows(traced.snapshot())
    expected: dict[tuple[str, str], int] = {}
    for _, name in NAMES.values():
        expected[name, CALLBACK] = expected.get((name, CALLBACK), 0) + 2
    assert expected == {labels: found.get(labels) for labels in expected}


def test_a_transport_is_named_with_its_protocol(implementation: str) -> None:
    """The ``awaits`` label tells for which protocol a transport reads."""

    class Receiver(asyncio.Protocol):
        def __init__(self) -> None:
            self.done = asyncio.get_running_loop().create_future()

        def data_received(self, data: bytes) -> None:
            self.done.set_result(data)

    async def main() -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            transport, receiver = await asyncio.get_running_loop().create_connection(
                Receiver, sock=ours
            )
            theirs.sendall(b"hello")
            assert b"hello" == await receiver.done
            transport.close()

    with (
        every_loop(implementation) as made,
        asyncio.Runner(loop_factory=asyncio.SelectorEventLoop) as runner,
    ):
        runner.run(main())
        found = rows(made.snapshot())
    protocol = f"{TOP}.{Receiver.__qualname__}"
    reads = [
        place
        for (place, awaits), count in found.items()
        if awaits == protocol and count and place.endswith("Transport._read_ready")
    ]
    assert ["asyncio/selector_events.py"] == [place.partition(":")[0] for place in reads]


@pytest.fixture
def traced(implementation: str) -> Any:
    """A traced loop for each implementation of the recorder."""
    with traced_loop(implementation=implementation) as made:
        yield made


def spent(traced: TracedLoop) -> dict[str, int]:
    """Return the ms of segments by the last part of the name, without those that took no time."""
    found: dict[str, int] = {}
    for point in traced.snapshot().yield_points:
        owner = point.yield_point if point.coroutine == CALLBACK else point.coroutine
        name = owner.rpartition(".")[2]
        found[name] = found.get(name, 0) + point.segments.sum_ns // MS
    return {name: ms for name, ms in found.items() if ms}


def test_segments_of_tasks_and_callbacks_add_up_to_the_active_time(traced: TracedLoop) -> None:
    """In virtual time the loop itself takes no time, so all active time belongs to one of them."""

    def soon() -> None:
        traced.clock.advance_ns(3 * MS)

    def later() -> None:
        traced.clock.advance_ns(5 * MS)

    async def main() -> None:
        loop = asyncio.get_running_loop()
        loop.call_soon(soon)
        loop.call_later(0.5, later)
        traced.clock.advance_ns(7 * MS)
        await asyncio.sleep(1)
        traced.clock.advance_ns(11 * MS)

    traced.run(main())
    assert {"main": 18, "soon": 3, "later": 5} == spent(traced)
    (loop,) = traced.snapshot().loops
    assert (26 * MS, 1_000 * MS - 8 * MS) == (loop.active_ns, loop.idle_ns)


def test_a_callback_that_raises_is_counted_like_any_other(traced: TracedLoop) -> None:
    """The loop's exception handler is called as usual."""
    contexts: list[Any] = []

    def raises() -> None:
        traced.clock.advance_ns(150 * MS)
        raise ZeroDivisionError

    async def main() -> None:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _, context: contexts.append(context["exception"]))
        loop.call_soon(raises)
        await asyncio.sleep(0)
        await asyncio.sleep(0)

    traced.run(main())
    assert {"raises": 150} == spent(traced)
    assert [ZeroDivisionError] == [type(error) for error in contexts]
    assert 150 * MS == traced.snapshot().loops[0].blocking_ns


@EAGER
def test_an_eager_child_of_a_callback_has_its_own_time(traced: TracedLoop) -> None:
    """Its first segment pauses that of the callback, as the wait ``(eager child)``."""
    started: list[asyncio.Task[None]] = []

    async def child() -> None:
        traced.clock.advance_ns(20 * MS)

    def starts() -> None:
        traced.clock.advance_ns(1 * MS)
        started.append(asyncio.Task(child(), loop=asyncio.get_running_loop(), eager_start=True))  # type: ignore[call-arg, unused-ignore]
        traced.clock.advance_ns(2 * MS)

    async def main() -> None:
        asyncio.get_running_loop().call_soon(starts)
        await asyncio.sleep(0)
        await asyncio.sleep(0)

    traced.run(main())
    assert {"child": 20, "starts": 3} == spent(traced)
    (pause,) = (
        point
        for point in traced.snapshot().yield_points
        if point.coroutine == CALLBACK and point.waits.count
    )
    assert ("(eager child)", 20 * MS) == (pause.yield_point, pause.waits.sum_ns)
