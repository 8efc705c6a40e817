"""Memory per live task and per loop, compared with a bare loop."""

from __future__ import annotations

import asyncio
import gc
import json
import os
from collections import defaultdict
from pathlib import Path

from contenders.contender import LOOPS, Contender, Unavailable
from contenders.registry import BARE
from harness import child
from harness.plan import Plan
from harness.samples import quartiles
from harness.table import Table
from workloads.steps import suspended
from workloads.yield_points import visitor

TASKS = 50_000
OPEN_LOOPS = 16
PER_TASK, PER_LOOP, PER_FULL_LOOP = MEASURES = ("task", "loop", "full loop")
#: More yield points than a stats page has room for by default, so that the page is full.
PLACES = 1_200
PAGE_SIZE = os.sysconf("SC_PAGE_SIZE")


def resident_bytes() -> int:
    """Return the resident memory of this process."""
    gc.collect()
    return int(Path("/proc/self/statm").read_text().split()[1]) * PAGE_SIZE


def measure(contender: Contender, loop: str, *, what: str) -> float:
    """Return bytes per suspended task, per open loop, or per open loop whose page is full.

    A loop has run one step, or has met more yield points than its page has room for. Each kind is
    measured in a process of its own, since memory that one frees would be used by the next.
    """
    contender.prepare()
    if what != PER_TASK:
        return _per_loop(contender, loop, PLACES if what == PER_FULL_LOOP else 1)
    with asyncio.Runner(loop_factory=contender.loop_factory(loop)) as runner:
        return runner.run(_per_task(contender))


async def _per_task(contender: Contender) -> float:
    async with contender.inside():
        gate: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        tasks = [asyncio.create_task(suspended(gate)) for _ in range(100)]
        await asyncio.sleep(0)
        before = resident_bytes()
        tasks += [asyncio.create_task(suspended(gate)) for _ in range(TASKS)]
        await asyncio.sleep(0)
        grown = resident_bytes() - before
        gate.set_result(None)
        await asyncio.gather(*tasks)
    return grown / TASKS


def _per_loop(contender: Contender, kind: str, places: int) -> float:
    visit = visitor(places)
    factory = contender.loop_factory(kind)
    loops = [factory()]
    loops[0].run_until_complete(visit())
    before = resident_bytes()
    for _ in range(OPEN_LOOPS):
        loops.append(factory())
        loops[-1].run_until_complete(visit())
    grown = resident_bytes() - before
    for loop in loops:
        loop.close()
    return grown / OPEN_LOOPS


def run(plan: Plan) -> Table:
    """Compare aiometrics with a bare loop."""
    grown: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    absent: dict[str, str] = {}
    table = Table(
        "Memory per task, per loop and per full loop: resident bytes, and the difference to bare",
        ["contender", *(f"{loop} {name}" for loop in LOOPS for name in MEASURES)],
        data=grown,
    )
    for number in range(min(plan.rounds, 3)):
        for loop in LOOPS:
            for name in plan.ours:
                plan.progress(f"memory, round {number + 1}: {name} on {loop}")
                try:
                    for what in MEASURES:
                        grown[name][f"{loop} {what}"].append(
                            child.run("memory", name, loop, what=json.dumps(what))
                        )
                except Unavailable as error:
                    absent[name] = str(error)
    for name in plan.ours:
        table.rows.append([name, *(_cell(name, grown, column) for column in table.columns[1:])])
    table.notes.append(
        f"{TASKS} tasks suspended at one place; {OPEN_LOOPS} loops open at once; a full loop has "
        f"met {PLACES} yield points."
    )
    table.note_absent(absent)
    return table


def _cell(name: str, grown: dict[str, dict[str, list[float]]], column: str) -> str:
    if not grown[name][column]:
        return "did not run"
    value = quartiles(grown[name][column]).median
    if name == BARE:
        return f"{value:.0f}"
    return f"+{value - quartiles(grown[BARE][column]).median:.0f}"
