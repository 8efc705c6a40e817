"""Loops in many threads beside a reader, with a switch of threads as often as can be.

This is the nearest that a Python with the GIL comes to one without it.
"""

from __future__ import annotations

import asyncio
import sys
import threading
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor

import pytest
from support.tracing import every_loop

from aiometrics.pages import page
from aiometrics.pages.layout import STATUSES
from aiometrics.pages.snapshot import Snapshot
from aiometrics.recorder.implementation import IMPLEMENTATIONS

THREADS, CHILDREN, AWAITS = 6, 300, 5


@pytest.fixture(autouse=True)
def frequent_switches(monkeypatch: pytest.MonkeyPatch) -> Generator[None, None, None]:
    """Let the interpreter switch threads whenever it can, and readers wait for a consistent copy.

    A scrape gives up and takes what there is, since it must not take long.
    """
    monkeypatch.setattr(page, "_COPIES", 100_000)
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(interval)


async def child(number: int) -> None:
    """Suspend a few times, then fail if it is one of three."""
    for _ in range(AWAITS):
        await asyncio.sleep(0)
    if number % 3 == 0:
        raise ValueError(number)


async def main() -> None:
    """Run all children of one loop."""
    await asyncio.gather(*map(child, range(CHILDREN)), return_exceptions=True)


def ended(seen: Snapshot, coroutine: str) -> dict[str, int]:
    """Count the ended tasks of one coroutine by status, and check that none is missing."""
    found = dict.fromkeys(STATUSES, 0)
    for entry in seen.coroutines:
        if entry.coroutine == coroutine:
            found = {status: entry.wall[status].count for status in STATUSES}
            assert entry.created == entry.live + sum(found.values())
    return found


def check_sums(seen: Snapshot) -> None:
    """Check that start delays, segments and waits add up to the wall time of tasks."""
    wall_ns = sum(entry.wall[status].sum_ns for entry in seen.coroutines for status in STATUSES)
    parts_ns = sum(
        point.segments.sum_ns + point.waits.sum_ns
        for point in seen.yield_points
        if point.coroutine != "(callback)"
    )
    assert wall_ns == sum(loop.start_delay.sum_ns for loop in seen.loops) + parts_ns


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_nothing_is_lost_when_threads_switch_all_the_time(implementation: str) -> None:
    """Counts never fall meanwhile, and in the end times add up to the nanosecond."""
    finished = threading.Event()
    name = f"{__name__}.child"

    def read() -> None:
        """Read all pages again and again while they are written."""
        before = ended(instrumentation.snapshot(), name)
        while not finished.is_set():
            now = ended(instrumentation.snapshot(), name)
            assert all(now[status] >= before[status] for status in STATUSES)
            before = now

    with (
        every_loop(implementation, max_loops=THREADS) as instrumentation,
        ThreadPoolExecutor(THREADS + 1) as pool,
    ):
        reader = pool.submit(read)
        loops = [pool.submit(asyncio.run, main()) for _ in range(THREADS)]
        for loop in loops:
            loop.result()
        finished.set()
        reader.result()
        seen = instrumentation.snapshot()
    failed = THREADS * len(range(0, CHILDREN, 3))
    expected = {"completed": THREADS * CHILDREN - failed, "failed": failed, "cancelled": 0}
    assert ended(seen, name) == expected
    check_sums(seen)
