"""Run tasks of every kind as fast as possible, and count them.

``python -P load.py SECONDS SEED LOOP`` prints the port of its metrics when it starts, and its
counts as JSON when the time is up. It then serves its metrics until its standard input ends.
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
from weakref import WeakSet

import aiometrics

BATCH = 500
TRICKLE = "trickle"
REQUEST = "order"
BLOCK_SECONDS = 0.15
#: One in this many batches blocks the loop.
BLOCKS_EVERY = 1000

Task = asyncio.Task[None]


class Oops(Exception):  # noqa: N818 - an application may name its errors as it likes
    """The program's own error."""


class Counts:
    """The true numbers: how tasks of each coroutine ended, and how often each was suspended."""

    def __init__(self) -> None:
        self.ended: dict[str, Counter[str]] = {}
        self.suspensions: Counter[str] = Counter()
        self.requests: Counter[str] = Counter()
        self.blocked_seconds = 0.0
        self.unhandled = 0

    def add(self, tasks: Iterable[tuple[str, Task]]) -> None:
        """Add tasks that have ended."""
        for name, task in tasks:
            self.ended.setdefault(name, Counter())[_status(task)] += 1

    def contents(self) -> dict[str, Any]:
        """Return the counts in a form that can be written as JSON."""
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


counts = Counts()


async def plain(_: asyncio.Event) -> None:
    """Return without an await."""


async def steps(_: asyncio.Event) -> None:
    """Take a few turns of the loop."""
    for _turn in range(3):
        counts.suspensions["steps"] += 1
        await asyncio.sleep(0)


async def sleeps(_: asyncio.Event) -> None:
    """Wait for a timer."""
    counts.suspensions["sleeps"] += 1
    await asyncio.sleep(random.random() / 1000)  # noqa: S311 - no secret


async def waits(gate: asyncio.Event) -> None:
    """Wait for an event."""
    if not gate.is_set():
        counts.suspensions["waits"] += 1
    await gate.wait()


async def nested(gate: asyncio.Event, depth: int = 5) -> None:
    """Suspend far below the root coroutine."""
    if depth:
        await nested(gate, depth - 1)
        return
    counts.suspensions["nested"] += 1
    await asyncio.sleep(0)


async def fails(_: asyncio.Event) -> None:
    """Raise an exception after a turn of the loop."""
    counts.suspensions["fails"] += 1
    await asyncio.sleep(0)
    raise Oops


async def stubborn(gate: asyncio.Event) -> None:
    """Suppress the cancellation and keep waiting."""
    with suppress(asyncio.CancelledError):
        if not gate.is_set():
            counts.suspensions["stubborn"] += 1
        await gate.wait()


async def parent(gate: asyncio.Event) -> None:
    """Run a request that creates child tasks and waits for each.

    If it fails or is cancelled first, the children outlive it.
    """
    status = "failed"
    try:
        with aiometrics.request(REQUEST):
            await _wait_for_children(gate)
        status = "completed"
    except asyncio.CancelledError:
        status = "cancelled"
        raise
    finally:
        counts.requests[status] += 1


async def _wait_for_children(gate: asyncio.Event) -> None:
    children = [("child", asyncio.create_task(child(gate))) for _ in range(2)]
    orphans.extend(children)
    for _, task in children:
        if not task.done():
            counts.suspensions["parent"] += 1
        await task
        if random.random() < 0.1:  # noqa: S311 - no secret
            raise Oops


async def child(_: asyncio.Event) -> None:
    """Take one turn, as a child task."""
    counts.suspensions["child"] += 1
    await asyncio.sleep(0)


async def blocks(_: asyncio.Event) -> None:
    """Block the loop."""
    counts.blocked_seconds += BLOCK_SECONDS
    time.sleep(BLOCK_SECONDS)  # noqa: ASYNC251 - it blocks on purpose


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
#: Tasks of the second loop that are not destroyed yet.
_abandoned: WeakSet[Task] = WeakSet()


async def drive(seconds: float) -> None:
    """Run one batch of random tasks after the other.

    One task in twenty is cancelled before it starts, and one in twenty after its first turn.
    """
    loop = asyncio.get_running_loop()
    ends = loop.time() + seconds
    batches = 0
    while loop.time() < ends:
        gate = asyncio.Event()
        kinds = random.choices(list(KINDS), list(KINDS.values()), k=BATCH)  # noqa: S311 - no secret
        if batches % BLOCKS_EVERY == 0:
            kinds.append(blocks)
        batches += 1
        tasks = [(kind.__name__, asyncio.create_task(kind(gate))) for kind in kinds]
        _cancel_some(tasks)
        await asyncio.sleep(0)
        _cancel_some(tasks)
        gate.set()
        await asyncio.wait([task for _, task in tasks])
        await _count_orphans()
        counts.add(tasks)


def _cancel_some(tasks: list[tuple[str, Task]]) -> None:
    for _, task in random.sample(tasks, len(tasks) // 20):
        task.cancel()


async def _count_orphans() -> None:
    """Wait for children whose parent was cancelled, and count them."""
    if orphans:
        await asyncio.wait([task for _, task in orphans])
    counts.add(orphans)
    orphans.clear()


async def abandoned() -> None:
    """Wait for a future that never gets a result."""
    await asyncio.get_running_loop().create_future()


async def trickle(seconds: float) -> None:
    """Create a few tasks a second that are destroyed before they are done."""
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(_count_unhandled)
    ends = loop.time() + seconds
    while loop.time() < ends:
        _abandon()
        await asyncio.sleep(0.05)
        gc.collect(0)
    while _abandoned:  # a collection does nothing while the other thread collects
        gc.collect()
        await asyncio.sleep(0.001)


def _abandon() -> None:
    _abandoned.add(asyncio.create_task(abandoned()))  # only a weak reference, so it is destroyed
    counts.ended.setdefault("abandoned", Counter())["destroyed"] += 1


def _count_unhandled(_: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    assert "destroyed" in context["message"]
    counts.unhandled += 1


def _run_trickle(seconds: float) -> None:
    """Run ``trickle`` on a bare loop, which has no other tasks."""
    loop = asyncio.new_event_loop()
    loop.run_until_complete(trickle(seconds))
    loop.close()
    counts.ended["trickle"] = Counter(completed=1)


def main(seconds: str, seed: str, kind: str) -> None:
    """Run both loops, then print the counts."""
    random.seed(int(seed))
    loop_factory = (
        import_module("uvloop").new_event_loop if kind == "uvloop" else asyncio.new_event_loop
    )
    logging.basicConfig(level=logging.ERROR)  # no warnings about blocked loops
    exporter = aiometrics.start_exporter(port=0, addr="127.0.0.1", registry=None)
    print(exporter.port, flush=True)
    thread = threading.Thread(target=_run_trickle, args=(float(seconds),), name=TRICKLE)
    thread.start()
    with asyncio.Runner(loop_factory=loop_factory) as runner:
        runner.run(drive(float(seconds)))
    counts.ended["drive"] = Counter(completed=1)
    thread.join()
    print(json.dumps(counts.contents()), flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    main(*sys.argv[1:])
