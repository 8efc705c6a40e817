"""Compares the metrics with stalls of known number, place and length.

They are read during the last stall, and again after it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from support.samples import FACTS
from support.tracing import Stall

from aiometrics.exposition.families import Distribution, families
from aiometrics.pages.snapshot import Snapshot
from aiometrics.testing import traced_loop

FILE = f"{__name__.replace('.', '/')}.py"
STALL_MS, LONG_MS, SEEN_MS = 300, 3_000, 2_000
#: Tasks that become ready before each stall and run after it.
WAITING_TASKS = 3
Numbers = dict[str, float]


async def waiting_task() -> None:
    """Has to wait for the stall to end."""


async def red(stall: Stall) -> None:
    """Stall, then await."""
    stall(STALL_MS)
    await asyncio.sleep(0)


async def green(stall: Stall) -> None:
    """Stall at another line, then await."""
    stall(STALL_MS)
    await asyncio.sleep(0)


async def blue(stall: Stall) -> None:
    """Stall at a third line, then await."""
    stall(STALL_MS)
    await asyncio.sleep(0)


async def grey(stall: Stall) -> None:
    """Stall without ever awaiting."""
    stall(STALL_MS)


TIMES: dict[Callable[[Stall], Coroutine[Any, Any, None]], int] = {
    red: 4,
    green: 3,
    blue: 2,
    grey: 1,
}


def line(function: Callable[..., Any]) -> str:
    """Return the place of the stall in a function, and what it called."""
    number = function.__code__.co_firstlineno + 2
    return f"{FILE}:{number} {function.__qualname__} > support.Stall.__call__"


def rows(seen: Snapshot) -> dict[str, dict[tuple[str, ...], Any]]:
    """Return the rows of every metric by its name."""
    return {metric.name: dict(found) for metric, found in families(seen, FACTS)}


def sums(seen: Snapshot, metric: str) -> Numbers:
    """Return the values that are not 0 by coroutine, or by ``(running)`` if in progress."""
    found: Numbers = {}
    for (coroutine, yield_point, _), value in rows(seen)[metric].items():
        name = coroutine.rpartition(".")[2] if yield_point != "(running)" else yield_point
        found[name] = round(found.get(name, 0) + value, 9)
    return {name: value for name, value in found.items() if value}


def over_threshold(seen: Snapshot, metric: str) -> Numbers:
    """Return how many durations were longer than 0.1 s, by the last part of the first label."""
    found: Numbers = {}
    for labels, value in rows(seen)[metric].items():
        assert isinstance(value, Distribution)
        name = labels[0].rpartition(".")[2]
        found[name] = (
            found.get(name, 0)
            + value.cumulative[-1]
            - value.cumulative[value.bounds_seconds.index(0.1)]
        )
    return {name: count for name, count in found.items() if count}


def test_ten_stalls_and_one_in_progress(implementation: str) -> None:
    """Every metric is true to the nanosecond, two seconds into the long stall and after it.

    There are ten stalls of 300 ms at four lines, then one of 3 s.
    """
    during: list[Snapshot] = []

    async def long(stall: Stall) -> None:
        """Stall for long, with a snapshot in between."""
        stall(SEEN_MS)
        during.append(traced.snapshot())
        stall(LONG_MS - SEEN_MS)

    async def main() -> None:
        for function in [
            *(function for function, times in TIMES.items() for _ in range(times)),
            long,
        ]:
            first = asyncio.create_task(function(stall))
            await asyncio.gather(
                first, *(asyncio.create_task(waiting_task()) for _ in range(WAITING_TASKS))
            )

    with traced_loop(implementation=implementation, library=["support"]) as traced:
        stall = Stall(traced)
        traced.run(main())
        stall.dog.look()
        after = traced.snapshot()

    times = {function.__name__: times for function, times in TIMES.items()}
    seconds = {name: count * STALL_MS / 1000 for name, count in times.items()}
    inflicted = {name: count * WAITING_TASKS * STALL_MS / 1000 for name, count in times.items()}
    (seen,) = during
    assert {**seconds, "(running)": 2} == sums(seen, "asyncio_blocking_seconds_total")
    assert {**seconds, "(running)": 2, "long": 1} == sums(after, "asyncio_blocking_seconds_total")
    assert inflicted == sums(seen, "asyncio_inflicted_wait_seconds_total")
    assert {**inflicted, "long": WAITING_TASKS * LONG_MS / 1000} == sums(
        after, "asyncio_inflicted_wait_seconds_total"
    )
    assert times == over_threshold(seen, "asyncio_segment_seconds")
    assert {**times, "long": 1} == over_threshold(after, "asyncio_segment_seconds")
    for when, blocking, stalls in (seen, 5, 10), (after, 6, 11):
        found = rows(when)
        assert {("MainThread",): blocking} == found["asyncio_loop_blocking_seconds_total"]
        assert {"MainThread": stalls} == over_threshold(when, "asyncio_loop_iteration_seconds")
        assert {"MainThread": stalls * WAITING_TASKS} == over_threshold(
            when, "asyncio_loop_start_delay_seconds"
        )
        assert blocking == found["asyncio_loop_time_seconds_total"]["MainThread", "active"]
    assert (
        seen.taken_ns / 1e9 - 2
        == rows(seen)["asyncio_loop_heartbeat_timestamp_seconds"]["MainThread",]
    )
    # At 100, 150, 200, 250 and 300 ms of each short stall, and every 50 ms of the long one.
    samples: Numbers = {line(function): 5 * times for function, times in TIMES.items()}
    assert {**samples, line(long): 39} == {
        place: count for (_, place), count in rows(seen)["asyncio_block_samples_total"].items()
    }
