"""The cost of a step when many tasks are alive."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from time import process_time_ns

from contenders.contender import LOOPS, Contender, Unavailable
from contenders.registry import BARE
from harness import child
from harness.plan import Plan
from harness.samples import quartiles, ratios
from harness.table import Table
from workloads.steps import step, suspended

POPULATIONS = (10, 1_000, 100_000)
STEPS = 200_000


def measure(
    contender: Contender, loop: str, *, tasks: int, stepping: int, scale: float = 1.0
) -> float:
    """Return CPU nanoseconds per step with ``tasks`` live tasks.

    ``stepping`` of them take turns while the others are suspended.
    """
    contender.prepare()

    async def main() -> float:
        async with contender.inside():
            gate: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            others = [asyncio.create_task(suspended(gate)) for _ in range(tasks - stepping)]
            await asyncio.sleep(0)
            each = max(2, int(STEPS * scale) // stepping)
            costs = [await _cost(stepping, each) for _ in range(3)]
            gate.set_result(None)
            await asyncio.gather(*others)
            return min(costs)

    with asyncio.Runner(loop_factory=contender.loop_factory(loop)) as runner:
        return runner.run(main())


async def _cost(tasks: int, each: int) -> float:
    """Return nanoseconds per step; the first and the last step of each task are not timed."""
    waiting = [asyncio.create_task(step(each + 1)) for _ in range(tasks)]
    await asyncio.sleep(0)
    started = process_time_ns()
    for _ in range(each - 1):
        await asyncio.sleep(0)
    cost = (process_time_ns() - started) / ((each - 1) * (tasks + 1))
    await asyncio.gather(*waiting)
    return cost


def run(plan: Plan) -> Table:
    """Compare aiometrics with a bare loop: with ten tasks stepping, and with all of them."""
    cases = {f"{tasks} live": (tasks, 10) for tasks in POPULATIONS}
    cases |= {f"{tasks} stepping": (tasks, tasks) for tasks in POPULATIONS[1:]}
    costs: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    absent: dict[str, str] = {}
    rounds = min(plan.rounds, 5)
    for number in range(rounds):
        for loop in LOOPS:
            for case, (tasks, stepping) in cases.items():
                for name in plan.ours:
                    plan.progress(
                        f"live tasks, round {number + 1} of {rounds}: {name} on {loop}, {case}"
                    )
                    try:
                        cost = child.run(
                            "live", name, loop, tasks=tasks, stepping=stepping, scale=plan.scale
                        )
                        costs[name][f"{loop} {case}"].append(cost)
                    except Unavailable as error:
                        absent[name] = str(error)
    columns = [f"{loop} {case}" for loop in LOOPS for case in cases]
    table = Table(
        f"Cost of a step with many live tasks (CPU time, median of {rounds} rounds)",
        ["contender", *columns],
        data=costs,
    )
    for name in plan.ours:
        table.rows.append([name, *(_cell(name, costs, column) for column in columns)])
    table.notes.append(
        "`live`: ten tasks step, the others are suspended; `stepping`: all step in turn. "
        "Microseconds, and the ratio to a bare loop."
    )
    table.note_absent(absent)
    return table


def _cell(name: str, costs: dict[str, dict[str, list[float]]], column: str) -> str:
    values = costs[name][column]
    if not values:
        return "did not run"
    median = f"{quartiles(values).median / 1000:.2f} us"
    return (
        median if name == BARE else f"{median} (x{ratios(values, costs[BARE][column]).median:.2f})"
    )
