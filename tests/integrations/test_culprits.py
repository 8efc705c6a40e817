"""Services with a planted culprit: the first row of the hotspots names its line."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest
from support.culprits import FUNCTION, LOOPS, SERVICES, Culprit, sampled
from support.tracing import every_loop

from aiometrics.exposition.hotspots import find_hotspots

#: How often each culprit runs, and how far it counts each time, which takes tens of ms.
TIMES, COUNT = 20, 1_000_000
#: Between two samples, on average.
INTERVAL_NS = 5_000_000
#: What a service needs besides what is always installed.
NEEDS = {"asyncpg": "asyncpg", "redis": "redis.asyncio", "grpc.aio": "grpc"}


@pytest.mark.once
@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("service", SERVICES)
def test_the_first_row_names_the_line(
    implementation: str, loop: str, service: str, binary: Callable[..., str]
) -> None:
    """It is the culprit's, and not that of an await before or after it."""
    if (service, implementation, loop) == ("a protocol", "python", "uvloop"):
        pytest.skip("what uvloop does outside of tasks is only seen in C")
    if service in NEEDS:
        pytest.importorskip(NEEDS[service])

    async def main() -> None:
        async with SERVICES[service](Culprit((COUNT,)), binary) as work:
            with sampled(instrumentation, INTERVAL_NS):  # not what it takes to start a database
                for _ in range(TIMES):
                    await work()

    with every_loop(implementation) as instrumentation:
        with asyncio.Runner(loop_factory=LOOPS[loop]) as runner:
            runner.run(main())
        held = find_hotspots(instrumentation.snapshot()).holders[0].held_at
    path, _, name = held.partition(" ")
    assert f"support/culprits.py {FUNCTION}" == f"{path.partition(':')[0]} {name}"
