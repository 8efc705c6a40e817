"""The shoppers: a separate process, so that the shop's loop only serves. Ends with the shop."""

from __future__ import annotations

import asyncio
import contextlib
import random
import subprocess
import sys
from collections.abc import Iterator
from typing import NamedTuple

import aiohttp


class Habit(NamedTuple):
    """A request that a number of shoppers repeat, after pauses of that mean length."""

    shoppers: int
    method: str
    path: str
    pause_seconds: float


HABITS = (
    Habit(10, "GET", "/orders/{number}", 0.05),
    Habit(3, "GET", "/search?q=gren+woven+lmap", 0.5),
    Habit(4, "GET", "/export", 0.2),
    Habit(2, "POST", "/checkout", 0.6),
)


@contextlib.contextmanager
def load(url: str) -> Iterator[None]:
    """Have another process shop at ``url`` for as long as the context lasts."""
    safe_path = ["-P"] if sys.flags.safe_path else []
    # In a session of its own, Ctrl-C in the terminal does not reach it: the context ends it.
    process = subprocess.Popen(
        [sys.executable, *safe_path, "-m", __name__, url],
        stdin=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        yield
    finally:
        process.terminate()
        process.wait()


async def shop_at(url: str) -> None:
    """Run all shoppers until the shop refuses connections."""
    async with aiohttp.ClientSession(url) as session, asyncio.TaskGroup() as group:
        for habit in HABITS:
            for _ in range(habit.shoppers):
                group.create_task(_shopper(session, habit))


async def _shopper(session: aiohttp.ClientSession, habit: Habit) -> None:
    while True:
        await asyncio.sleep(random.expovariate(1 / habit.pause_seconds))
        try:
            async with session.request(
                habit.method, habit.path.format(number=random.randrange(1000))
            ) as response:
                await response.read()
        except aiohttp.ClientConnectorError:
            return
        except aiohttp.ClientError:
            continue


if __name__ == "__main__":
    asyncio.run(shop_at(sys.argv[1]))
