"""The programs of the price list: one step, one task, one step under ten nested awaits."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

Function = TypeVar("Function", bound=Callable[..., Coroutine[Any, Any, Any]])
Decorate = Callable[[Function], Function]
Workload = Callable[[int], Coroutine[Any, Any, None]]

DEPTH = 10


async def step(count: int) -> None:
    """Suspend and resume ``count`` times, once per turn of the loop."""
    for _ in range(count):
        await asyncio.sleep(0)


async def nested(count: int, depth: int = DEPTH) -> None:
    """Take ``count`` steps under ``depth`` nested awaits, which are entered once.

    To find the innermost await, a recorder has to walk all of them at every step.
    """
    if depth == 0:
        await step(count)
        return
    await nested(count, depth - 1)


async def calls(count: int) -> None:
    """Take ``count`` steps, and enter the nested awaits again for each, as a request does."""
    for _ in range(count):
        await nested(1)


async def trivial() -> None:
    """Return without an await."""


async def suspended(gate: asyncio.Future[None]) -> None:
    """Stay suspended until ``gate`` is done."""
    await asyncio.shield(gate)


def workloads(decorate: Decorate[Any]) -> dict[str, Workload]:
    """Return the workloads by name; ``decorate`` is applied to functions that run as tasks."""
    decorated_trivial = decorate(trivial)

    async def spawn(count: int) -> None:
        for _ in range(count):
            # create_task is looked up each time, as in programs: some contenders replace it.
            await asyncio.create_task(decorated_trivial())

    return {
        "step": decorate(step),
        "spawn": spawn,
        "depth 10": decorate(nested),
        "calls 10": decorate(calls),
    }
