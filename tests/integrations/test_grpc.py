"""grpc.aio, which is compiled by Cython: the application's line waits, in handler and client."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
import uvloop
from support.tracing import every_loop

from aiometrics.pages.snapshot import Snapshot

HERE = __name__.replace(".", "/") + ".py"
LOCAL = "127.0.0.1"


async def look_up(request: bytes) -> bytes:
    """Take a while, as a database would."""
    await asyncio.sleep(0.01)
    return request


async def handle(request: bytes, _: Any) -> bytes:
    """A method of the service."""
    return await look_up(request)


async def call(method: Any) -> None:
    """A client of the service."""
    assert b"x" == await method(b"x")


def place(function: Callable[..., Any]) -> str:
    """The yield point of a function, which is in the line below its docstring."""
    return f"{HERE}:{function.__code__.co_firstlineno + 2} {function.__qualname__}"


def waits(seen: Snapshot) -> dict[str, set[str]]:
    """Return the awaited names by line of this file."""
    found: dict[str, set[str]] = {}
    for point in seen.yield_points:
        if point.waits.count and point.yield_point.startswith(HERE):
            found.setdefault(point.yield_point, set()).add(point.awaits)
    return found


@pytest.mark.parametrize(
    "make_loop", [asyncio.SelectorEventLoop, uvloop.new_event_loop], ids=["asyncio", "uvloop"]
)
def test_a_handler_and_a_client_wait_at_their_lines(
    implementation: str, make_loop: Callable[[], asyncio.AbstractEventLoop]
) -> None:
    """The code that runs them is compiled, and so are the calls that they await."""
    grpc = pytest.importorskip("grpc")

    async def main() -> None:
        server = grpc.aio.server()
        methods = {"Find": grpc.unary_unary_rpc_method_handler(handle)}
        server.add_generic_rpc_handlers(
            (grpc.method_handlers_generic_handler("shop.Shop", methods),)
        )
        port = server.add_insecure_port(f"{LOCAL}:0")
        await server.start()
        async with grpc.aio.insecure_channel(f"{LOCAL}:{port}") as channel:
            await asyncio.create_task(call(channel.unary_unary("/shop.Shop/Find")))
        await server.stop(None)

    with every_loop(implementation) as instrumentation:
        with asyncio.Runner(loop_factory=make_loop) as runner:
            runner.run(main())
        seen = instrumentation.snapshot()
    found = waits(seen)
    assert {"asyncio.sleep"} == found[place(look_up)]
    assert {"grpc._UnaryResponseMixin.__await__"} == found[place(call)]
