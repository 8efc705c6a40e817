"""A loop that was closed leaves nothing behind: what was put into it is out again."""

from __future__ import annotations

import asyncio
import gc
import weakref
from typing import Any

import pytest
from support.tracing import every_loop


class Client(asyncio.Protocol):
    """A protocol that can be referred to weakly."""


async def child() -> None:
    """Suspend once."""
    await asyncio.sleep(0)


async def use(alive: dict[str, weakref.ref[Any]]) -> None:
    """Use what a loop offers, and refer to all of it weakly."""
    loop = asyncio.get_running_loop()
    task = asyncio.create_task(child())
    handle = loop.call_soon(int)
    await task
    await loop.run_in_executor(None, int)
    server = await loop.create_server(Client, "127.0.0.1", 0)
    transport, protocol = await loop.create_connection(Client, *server.sockets[0].getsockname())
    alive.update(
        task=weakref.ref(task),
        coroutine=weakref.ref(task.get_coro()),
        handle=weakref.ref(handle),
        executor=weakref.ref(vars(loop)["_default_executor"]),
        server=weakref.ref(server),
        transport=weakref.ref(transport),
        protocol=weakref.ref(protocol),
    )
    transport.close()
    server.close()
    await asyncio.sleep(0.01)


def left_behind() -> set[str]:
    """What is still alive when a loop was closed, and nothing was collected."""
    alive: dict[str, weakref.ref[Any]] = {}
    gc.collect()
    gc.disable()
    try:
        loop = asyncio.new_event_loop()
        alive |= {"loop": weakref.ref(loop), "selector": weakref.ref(vars(loop)["_selector"])}
        loop.run_until_complete(use(alive))
        loop.run_until_complete(loop.shutdown_default_executor())
        loop.close()
        del loop
        return {name for name, reference in alive.items() if reference() is not None}
    finally:
        gc.enable()
        gc.collect()


def test_a_closed_loop_and_all_its_objects_are_gone_as_without_us(implementation: str) -> None:
    """No cycle keeps one of them until the next collection."""
    bare = left_behind()
    with every_loop(implementation):
        assert bare == left_behind()


def test_a_selector_that_is_gone_cannot_be_asked(implementation: str) -> None:
    """The function that stands for its method does not keep it alive."""
    with every_loop(implementation):
        loop = asyncio.SelectorEventLoop()
        loop.run_until_complete(child())
        select = vars(loop)["_selector"].select
        loop.close()
        del loop
        gc.collect()
        with pytest.raises(ReferenceError, match="the selector is gone"):
            select(0)
