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
    """Suspend and resume ``count`` times: one turn of the loop each."""
    for _ in range(count):
        await asyncio.sleep(0)


async def nested(count: int, depth: int = DEPTH) -> None:
    """The same under ``depth`` nested awaits, which stand: whoever looks for the innermost one walks them at every step."""
    if depth == 0:
        await step(count)
        return
    await nested(count, depth - 1)


async def calls(count: int) -> None:
    """The same with the nested awaits entered anew for each step, as a request does."""
    for _ in range(count):
        await nested(1)


async def trivial() -> None:
    """A task that never awaits."""


def workloads(decorate: Decorate[Any]) -> dict[str, Workload]:
    """The workloads by name; each function that runs as a task is decorated."""
    decorated_trivial = decorate(trivial)

    async def spawn(count: int) -> None:
        for _ in range(count):
            # Looked up each time, as programs do: some contenders replace it.
            await asyncio.create_task(decorated_trivial())

    return {
        "step": decorate(step),
        "spawn": spawn,
        "depth 10": decorate(nested),
        "calls 10": decorate(calls),
    }
