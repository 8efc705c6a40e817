"""The cost of request scopes.

Compares a step inside a scope with a step outside, before and after any scope was entered, and
measures the scope itself.
"""

from __future__ import annotations

import asyncio
import statistics
from collections import defaultdict
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from importlib import import_module
from time import process_time_ns
from typing import Any

from contenders.contender import LOOPS, Contender, Unavailable
from contenders.ours import CRecorder
from contenders.registry import BARE
from harness import child
from harness.plan import Plan
from harness.samples import quartiles
from harness.table import Table
from workloads.steps import step, trivial

CHUNKS = 7
STEPS, REQUESTS = 20_000, 5_000
#: What is measured in turn, after the steps before any scope.
KINDS = (
    "step outside",
    "step inside",
    "request of one step",
    "with an objective",
    "request with a child task",
)
BEFORE = "step before any scope"

Scope = Callable[..., AbstractContextManager[object]]


async def visits(scope: Scope, count: int, **options: object) -> None:
    """Run requests of one step each."""
    for number in range(count):
        with scope("GET /orders/{id}", id=number, **options):
            await asyncio.sleep(0)


async def families(scope: Scope, count: int) -> None:
    """Run requests of one child task each."""
    for number in range(count):
        with scope("GET /orders/{id}", id=number):
            await asyncio.create_task(trivial())


async def inside(scope: Scope, count: int) -> None:
    """Take many steps in one request."""
    with scope("GET /orders/{id}"):
        await step(count)


def _no_scope(*_: object, **__: object) -> AbstractContextManager[object]:
    return nullcontext()


def measure(contender: Contender, loop: str, *, scale: float = 1.0) -> dict[str, float]:
    """Return CPU nanoseconds per step, or per request including its step or task.

    They are medians of chunks that took turns.
    """
    contender.prepare()
    scope: Scope = (
        import_module("aiometrics").request if isinstance(contender, CRecorder) else _no_scope
    )
    steps, requests = max(1, int(STEPS * scale)), max(1, int(REQUESTS * scale))

    async def main() -> dict[str, float]:
        before = [await _cost(step(steps), steps) for _ in range(CHUNKS + 1)][1:]
        costs: dict[str, list[float]] = defaultdict(list)
        for _ in range(CHUNKS + 1):
            chunks = (
                (step(steps), steps),
                (inside(scope, steps), steps),
                (visits(scope, requests), requests),
                (visits(scope, requests, objective=1.0), requests),
                (families(scope, requests), requests),
            )
            for kind, chunk in zip(KINDS, chunks, strict=True):
                costs[kind].append(await _cost(*chunk))
        return {
            BEFORE: statistics.median(before),
            **{kind: statistics.median(costs[kind][1:]) for kind in KINDS},
        }

    with asyncio.Runner(loop_factory=contender.loop_factory(loop)) as runner:
        return runner.run(main())


async def _cost(program: Any, count: int) -> float:
    started = process_time_ns()
    await asyncio.create_task(program)
    return (process_time_ns() - started) / count


def run(plan: Plan) -> Table:
    """Measure both recorders and a bare loop once per round and loop, each in its own process."""
    costs: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    table = Table(
        f"CPU time of request scopes in ns, median (quartiles) of {plan.rounds} rounds",
        ["contender", BEFORE, *KINDS],
        data=costs,
    )
    for number in range(plan.rounds):
        for loop in LOOPS:
            for name in plan.ours:
                plan.progress(f"scopes, round {number + 1} of {plan.rounds}: {name} on {loop}")
                try:
                    answer = child.run("scopes", name, loop, scale=plan.scale)
                except (Unavailable, RuntimeError) as error:
                    table.notes.append(
                        f"{name} on {loop} did not run: {str(error).strip().splitlines()[-1]}"
                    )
                    continue
                for kind, cost in answer.items():
                    costs[f"{name}, {loop}"][kind].append(cost)
    for name, found in costs.items():
        table.rows.append([name, *(quartiles(found[kind]).format(0) for kind in (BEFORE, *KINDS))])
    table.notes.append(
        f"In the rows of {BARE!r} there are no scopes: the difference to those rows is what "
        "scopes add to a request."
    )
    return table
