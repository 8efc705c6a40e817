"""Stalls whose number, place and length are known, and what every metric says of them: during the last one, and after it."""

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
BEHIND = 3
Numbers = dict[str, float]


async def behind() -> None:
    """Has to wait."""


async def red(stall: Stall) -> None:
    """One of those who stall."""
    stall(STALL_MS)
    await asyncio.sleep(0)


async def green(stall: Stall) -> None:
    """Another, at a line of its own."""
    stall(STALL_MS)
    await asyncio.sleep(0)


async def blue(stall: Stall) -> None:
    """Another."""
    stall(STALL_MS)
    await asyncio.sleep(0)


async def grey(stall: Stall) -> None:
    """And one that never awaits."""
    stall(STALL_MS)


TIMES: dict[Callable[[Stall], Coroutine[Any, Any, None]], int] = {
    red: 4,
    green: 3,
    blue: 2,
    grey: 1,
}


def line(function: Callable[..., Any]) -> str:
    """The place of the stall in a function, and what it called."""
    return f"{FILE}:{function.__code__.co_firstlineno + 2} {function.__qualname__} > support.Stall.__call__"


def rows(seen: Snapshot) -> dict[str, dict[tuple[str, ...], Any]]:
    """The rows of every metric by its name."""
    return {metric.name: dict(found) for metric, found in families(seen, FACTS)}


def sums(seen: Snapshot, metric: str) -> Numbers:
    """Values that are not 0, by coroutine; what is in progress by its pseudo point."""
    found: Numbers = {}
    for (coroutine, yield_point, _), value in rows(seen)[metric].items():
        name = coroutine.rpartition(".")[2] if yield_point != "(running)" else yield_point
        found[name] = round(found.get(name, 0) + value, 9)
    return {name: value for name, value in found.items() if value}


def over_threshold(seen: Snapshot, metric: str) -> Numbers:
    """How many durations were longer than 0.1 s, by the last word of the first label."""
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
    """What each metric says is what was true, to the nanosecond: ten stalls of 300 ms by four lines, and one of 3 s after two of them."""
    during: list[Snapshot] = []

    async def long(stall: Stall) -> None:
        """Lasts."""
        stall(SEEN_MS)
        during.append(traced.snapshot())
        stall(LONG_MS - SEEN_MS)

    async def main() -> None:
        for function in [
            *(function for function, times in TIMES.items() for _ in range(times)),
            long,
        ]:
            first = asyncio.create_task(function(stall))
            await asyncio.gather(first, *(asyncio.create_task(behind()) for _ in range(BEHIND)))

    with traced_loop(implementation=implementation, library=["support"]) as traced:
        stall = Stall(traced)
        traced.run(main())
        stall.dog.look()
        after = traced.snapshot()

    times = {function.__name__: times for function, times in TIMES.items()}
    seconds = {name: count * STALL_MS / 1000 for name, count in times.items()}
    harm = {name: count * BEHIND * STALL_MS / 1000 for name, count in times.items()}
    (seen,) = during
    assert {**seconds, "(running)": 2} == sums(seen, "asyncio_blocking_seconds_total")
    assert {**seconds, "(running)": 2, "long": 1} == sums(after, "asyncio_blocking_seconds_total")
    assert harm == sums(seen, "asyncio_inflicted_wait_seconds_total")
    assert {**harm, "long": BEHIND * LONG_MS / 1000} == sums(
        after, "asyncio_inflicted_wait_seconds_total"
    )
    assert times == over_threshold(seen, "asyncio_segment_seconds")
    assert {**times, "long": 1} == over_threshold(after, "asyncio_segment_seconds")
    for when, blocking, stalls in (seen, 5, 10), (after, 6, 11):
        found = rows(when)
        assert {("MainThread",): blocking} == found["asyncio_loop_blocking_seconds_total"]
        assert {"MainThread": stalls} == over_threshold(when, "asyncio_loop_iteration_seconds")
        assert {"MainThread": stalls * BEHIND} == over_threshold(
            when, "asyncio_loop_start_delay_seconds"
        )
        assert blocking == found["asyncio_loop_time_seconds_total"]["MainThread", "active"]
    assert (
        seen.taken_ns / 1e9 - 2
        == rows(seen)["asyncio_loop_heartbeat_timestamp_seconds"]["MainThread",]
    )
    # At 100, 150, 200, 250 and 300 ms of each short one, and every 50 ms of the long one.
    looks: Numbers = {line(function): 5 * times for function, times in TIMES.items()}
    assert {**looks, line(long): 39} == {
        place: count for (_, place), count in rows(seen)["asyncio_block_samples_total"].items()
    }
