"""Tasks of every kind as fast as they go, and a true account of them: ``python -P load.py SECONDS SEED LOOP``.

Prints the port of its metrics when it starts, and when the time is up its account as JSON; serves on until its standard input ends.
"""

from __future__ import annotations

import asyncio
import gc
import json
import logging
import random
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Coroutine, Iterable
from contextlib import suppress
from importlib import import_module
from typing import Any

import aiometrics

BATCH = 500
TRICKLE = "trickle"
REQUEST = "order"
BLOCK_SECONDS = 0.15
#: One in so many batches blocks the loop.
BLOCKS_EVERY = 1000

Task = asyncio.Task[None]


class Oops(Exception):  # noqa: N818 - what the application calls its errors is its own affair
    """The programs' own error."""


class ProcessStats:
    """What is true: how many tasks of each coroutine ended how, and how often each was suspended."""

    def __init__(self) -> None:
        self.ended: dict[str, Counter[str]] = {}
        self.suspensions: Counter[str] = Counter()
        self.requests: Counter[str] = Counter()
        self.blocked_seconds = 0.0
        self.unhandled = 0

    def take(self, tasks: Iterable[tuple[str, Task]]) -> None:
        """Add tasks that are over."""
        for name, task in tasks:
            self.ended.setdefault(name, Counter())[_status(task)] += 1

    def contents(self) -> dict[str, Any]:
        """As JSON."""
        return {
            "ended": self.ended,
            "suspensions": self.suspensions,
            "requests": self.requests,
            "blocked_seconds": self.blocked_seconds,
            "unhandled": self.unhandled,
        }


def _status(task: Task) -> str:
    if task.cancelled():
        return "cancelled"
    return "failed" if task.exception() else "completed"


account = ProcessStats()


async def plain(_: asyncio.Event) -> None:
    """Never awaits."""


async def steps(_: asyncio.Event) -> None:
    """A few turns of the loop."""
    for _turn in range(3):
        account.suspensions["steps"] += 1
        await asyncio.sleep(0)


async def sleeps(_: asyncio.Event) -> None:
    """Waits for a timer."""
    account.suspensions["sleeps"] += 1
    await asyncio.sleep(random.random() / 1000)  # noqa: S311 - no secret


async def waits(gate: asyncio.Event) -> None:
    """Waits for somebody else."""
    if not gate.is_set():
        account.suspensions["waits"] += 1
    await gate.wait()


async def nested(gate: asyncio.Event, depth: int = 5) -> None:
    """Suspends far below its root."""
    if depth:
        await nested(gate, depth - 1)
        return
    account.suspensions["nested"] += 1
    await asyncio.sleep(0)


async def fails(_: asyncio.Event) -> None:
    """Raises after a turn."""
    account.suspensions["fails"] += 1
    await asyncio.sleep(0)
    raise Oops


async def stubborn(gate: asyncio.Event) -> None:
    """Does not take a cancellation for an answer."""
    with suppress(asyncio.CancelledError):
        if not gate.is_set():
            account.suspensions["stubborn"] += 1
        await gate.wait()


async def parent(gate: asyncio.Event) -> None:
    """A request with children. It waits for each, unless it fails or is cancelled before: then they outlive it."""
    status = "failed"
    try:
        with aiometrics.request(REQUEST):
            await _wait_for_children(gate)
        status = "completed"
    except asyncio.CancelledError:
        status = "cancelled"
        raise
    finally:
        account.requests[status] += 1


async def _wait_for_children(gate: asyncio.Event) -> None:
    children = [("child", asyncio.create_task(child(gate))) for _ in range(2)]
    orphans.extend(children)
    for _, task in children:
        if not task.done():
            account.suspensions["parent"] += 1
        await task
        if random.random() < 0.1:  # noqa: S311 - no secret
            raise Oops


async def child(_: asyncio.Event) -> None:
    """Somebody's child."""
    account.suspensions["child"] += 1
    await asyncio.sleep(0)


async def blocks(_: asyncio.Event) -> None:
    """Holds the loop."""
    account.blocked_seconds += BLOCK_SECONDS
    time.sleep(BLOCK_SECONDS)  # noqa: ASYNC251 - that is its fault


KINDS: dict[Callable[[asyncio.Event], Coroutine[Any, Any, None]], int] = {
    plain: 4,
    steps: 2,
    sleeps: 2,
    waits: 3,
    nested: 2,
    fails: 2,
    stubborn: 1,
    parent: 1,
}
orphans: list[tuple[str, Task]] = []


async def drive(seconds: float) -> None:
    """One batch of random tasks after the other; one in twenty is cancelled before it starts, and one in twenty in the middle."""
    loop = asyncio.get_running_loop()
    ends = loop.time() + seconds
    batches = 0
    while loop.time() < ends:
        gate = asyncio.Event()
        chosen = random.choices(list(KINDS), list(KINDS.values()), k=BATCH)  # noqa: S311 - no secret
        if batches % BLOCKS_EVERY == 0:
            chosen.append(blocks)
        batches += 1
        tasks = [(kind.__name__, asyncio.create_task(kind(gate))) for kind in chosen]
        _cancel_some(tasks)
        await asyncio.sleep(0)
        _cancel_some(tasks)
        gate.set()
        await asyncio.wait([task for _, task in tasks])
        await _adopt_orphans()
        account.take(tasks)


def _cancel_some(tasks: list[tuple[str, Task]]) -> None:
    for _, task in random.sample(tasks, len(tasks) // 20):
        task.cancel()


async def _adopt_orphans() -> None:
    """Children whose parent was cancelled are still on their way."""
    if orphans:
        await asyncio.wait([task for _, task in orphans])
    account.take(orphans)
    orphans.clear()


async def abandoned() -> None:
    """Waits for what nobody will ever do."""
    await asyncio.get_running_loop().create_future()


async def trickle(seconds: float) -> None:
    """A few tasks a second that are destroyed before they are done."""
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(_count_unhandled)
    ends = loop.time() + seconds
    while loop.time() < ends:
        _abandon()
        await asyncio.sleep(0.05)
        gc.collect(0)
    gc.collect()


def _abandon() -> None:
    _task = asyncio.create_task(abandoned())  # noqa: RUF006 - nobody keeps it, so that it is destroyed
    account.ended.setdefault("abandoned", Counter())["destroyed"] += 1


def _count_unhandled(_: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    assert "destroyed" in context["message"]
    account.unhandled += 1


def _run_trickle(seconds: float) -> None:
    """On a bare loop, which has no tasks but its own."""
    loop = asyncio.new_event_loop()
    loop.run_until_complete(trickle(seconds))
    loop.close()
    account.ended["trickle"] = Counter(completed=1)


def main(seconds: str, seed: str, kind: str) -> None:
    """Run both loops, then tell."""
    random.seed(int(seed))
    loop_factory = (
        import_module("uvloop").new_event_loop if kind == "uvloop" else asyncio.new_event_loop
    )
    logging.basicConfig(level=logging.ERROR)  # of the blocks the metrics tell
    exporter = aiometrics.start_exporter(port=0, addr="127.0.0.1", registry=None)
    print(exporter.port, flush=True)
    thread = threading.Thread(target=_run_trickle, args=(float(seconds),), name=TRICKLE)
    thread.start()
    with asyncio.Runner(loop_factory=loop_factory) as runner:
        runner.run(drive(float(seconds)))
    account.ended["drive"] = Counter(completed=1)
    thread.join()
    print(json.dumps(account.contents()), flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    main(*sys.argv[1:])
