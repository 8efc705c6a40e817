"""The price list: CPU time of a step, a task and a step ten awaits deep, on both loops."""

from __future__ import annotations

import asyncio
import statistics
from collections import defaultdict
from time import process_time_ns
from typing import Any

from contenders.contender import LOOPS, Contender, Unavailable
from contenders.registry import BARE, CONTENDERS
from harness import child
from harness.plan import Plan
from harness.samples import quartiles, ratios
from harness.table import Table
from workloads.steps import workloads

CHUNKS = 7
#: Calls per chunk: about 50 ms each on a bare loop.
COUNTS = {"step": 20_000, "spawn": 8_000, "depth 10": 20_000, "calls 10": 12_000}


def measure(contender: Contender, loop: str, *, scale: float = 1.0) -> dict[str, float]:
    """Return CPU nanoseconds per call of each workload: medians of chunks after a warm-up."""
    contender.prepare()
    programs = workloads(contender.decorate)

    async def main() -> dict[str, float]:
        async with contender.inside():
            return {
                name: await _cost(program, max(1, int(COUNTS[name] * scale)))
                for name, program in programs.items()
            }

    with asyncio.Runner(loop_factory=contender.loop_factory(loop)) as runner:
        return runner.run(main())


async def _cost(program: Any, count: int) -> float:
    await asyncio.create_task(program(count // 4))
    costs = []
    for _ in range(CHUNKS):
        # The task is created after the contender was set up, so that all of them see it.
        started = process_time_ns()
        await asyncio.create_task(program(count))
        costs.append((process_time_ns() - started) / count)
    return statistics.median(costs)


def run(plan: Plan) -> Table:
    """Measure every contender once per round and loop, each in its own process."""
    costs: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    absent: dict[str, str] = {}
    for number in range(plan.rounds):
        for loop in LOOPS:
            for name in plan.contenders:
                if f"{name} on {loop}" in absent:
                    continue
                plan.progress(f"price list, round {number + 1} of {plan.rounds}: {name} on {loop}")
                try:
                    answer = child.run(
                        "price", name, loop, scale=plan.scale * CONTENDERS[name].effort
                    )
                except (Unavailable, RuntimeError) as error:
                    absent[f"{name} on {loop}"] = str(error).strip().splitlines()[-1]
                    continue
                for workload, cost in answer.items():
                    costs[name][f"{loop} {workload}"].append(cost)
    return _table(plan, costs, absent)


def _table(plan: Plan, costs: dict[str, dict[str, list[float]]], absent: dict[str, str]) -> Table:
    programs = [f"{loop} {workload}" for loop in LOOPS for workload in COUNTS]
    table = Table(
        "CPU time per step, per task and per step ten awaits deep: ratio to bare, median "
        f"(quartiles) of {plan.rounds} rounds",
        ["contender", *programs, "what it gives"],
        data={"nanoseconds": costs, "absent": absent},
    )
    for name in plan.contenders:
        row = [_cell(name, costs[name].get(program), costs[BARE][program]) for program in programs]
        table.rows.append([name, *row, CONTENDERS[name].gives])
    table.notes.append(
        "The first row is microseconds of process CPU time; every other cell is a ratio to the "
        "bare run of the same round."
    )
    table.note_absent(absent)
    return table


def _cell(name: str, costs: list[float] | None, bare: list[float]) -> str:
    if not costs:
        return "did not run"
    if name == BARE:
        return f"{quartiles([cost / 1000 for cost in costs]).format(2)} us"
    return "x" + ratios(costs, bare).format(2)
