"""A sample of tasks: its estimates have no bias, however short loops and processes live."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from math import sqrt
from pathlib import Path
from random import Random

import pytest
from support.tracing import every_loop

#: Five standard deviations: of two million correct estimates, one is refused.
DEVIATIONS = 5
#: Any number will do. It is fixed so that a run can be repeated.
SEED = 17

#: Prints how many of 4 loops traced their first task, in each of 16 forked workers.
WORKERS = """
import asyncio, os, sys
import aiometrics

async def main():
    pass

exporter = aiometrics.start_exporter(
    0, "127.0.0.1", directory=sys.argv[1], registry=None, sample=1 / 2
)
for _ in range(16):
    child = os.fork()
    if child:
        os.waitpid(child, 0)
        continue
    for _ in range(4):
        asyncio.run(main())
    os._exit(0)
created = {entry.coroutine: entry.created for entry in exporter.snapshot().coroutines}
print(created["__main__.main"])
"""


async def child() -> None:
    """Suspend once."""
    await asyncio.sleep(0)


async def main() -> None:
    """Wait for five children."""
    await asyncio.gather(*[child() for _ in range(5)])


def likely(estimate: float, tasks: int, weight: int) -> bool:
    """Whether the number of ``tasks`` may be estimated like that from one in ``weight``."""
    return abs(estimate - tasks) <= DEVIATIONS * sqrt(tasks * (weight - 1))


@pytest.mark.parametrize(("weight", "loops"), [(4, 200), (10, 300)])
def test_estimates_over_many_short_loops_have_no_bias(
    implementation: str, weight: int, loops: int
) -> None:
    """Main tasks, one for each loop, and their children are estimated alike."""
    draw = Random(SEED)  # noqa: S311 - to be repeated
    with every_loop(
        implementation, sample=1 / weight, seed=lambda: draw.randrange(1, 1 << 64)
    ) as traced:
        for _ in range(loops):
            asyncio.run(main())
        seen = {entry.coroutine: entry.created for entry in traced.snapshot().coroutines}
    assert likely(seen.get(f"{__name__}.main", 0), loops, weight)
    assert likely(seen[f"{__name__}.child"], 5 * loops, weight)


def test_the_loops_of_a_process_draw_from_seeds_of_their_own(implementation: str) -> None:
    """Else the first tasks of all loops would be traced, or none."""
    with every_loop(implementation, sample=1 / 2) as traced:
        for _ in range(60):
            asyncio.run(main())
        created = {entry.coroutine: entry.created for entry in traced.snapshot().coroutines}
    assert likely(created[f"{__name__}.main"], 60, 2)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
def test_forked_workers_draw_from_seeds_of_their_own(implementation: str, tmp_path: Path) -> None:
    """Workers that a server forks after the start have no seed in common."""
    environ = {**os.environ, "AIOMETRICS_NO_EXTENSIONS": "1" if implementation == "python" else ""}
    done = subprocess.run(
        [sys.executable, "-W", "ignore::DeprecationWarning", "-c", WORKERS, str(tmp_path)],
        env=environ,
        stdout=subprocess.PIPE,
        check=True,
        timeout=300,
    )
    assert likely(int(done.stdout), 64, 2)
