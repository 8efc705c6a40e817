"""The share of a loop's active time that has an owner, in real services under load.

An owner is a segment of a task or a callback.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
from collections import defaultdict
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from contenders.contender import Contender, Unavailable
from contenders.ours import CRecorder
from harness import child, wrk
from harness.plan import Plan
from harness.samples import quartiles
from harness.table import Table
from workloads.service import SERVERS, SERVICES

from sections.services import PATHS

SECONDS = 4
CORES = os.sched_getaffinity(0)


@dataclass(frozen=True, slots=True)
class LoopTotals:
    """The work that a loop has done so far. Segments are those of tasks and of callbacks."""

    active_ns: int
    turns: int
    owned_ns: int
    segments: int

    def __sub__(self, before: LoopTotals) -> LoopTotals:
        return LoopTotals(
            *(
                now - then
                for now, then in zip(asdict(self).values(), asdict(before).values(), strict=True)
            )
        )


def totals(snapshot: Any) -> LoopTotals:
    """Return the totals of the only loop in a snapshot."""
    (loop,) = snapshot.loops
    segments = [point.segments for point in snapshot.yield_points]
    return LoopTotals(
        loop.active_ns,
        loop.iterations.count,
        sum(segment.sum_ns for segment in segments),
        sum(segment.count for segment in segments),
    )


def measure(
    contender: Contender, loop: str, *, server: str, path: str, scale: float = 1.0
) -> dict[str, int]:
    """Return what the loop of a service did while it was under load."""
    if not isinstance(contender, CRecorder):
        raise Unavailable("only aiometrics knows owners")
    os.sched_setaffinity(0, {min(CORES)})
    contender.prepare()
    with asyncio.Runner(loop_factory=contender.loop_factory(loop)) as runner:
        seconds = max(1, round(SECONDS * scale))
        return runner.run(
            under_load(server, path, seconds, lambda: totals(contender.facade().snapshot()))
        )


async def under_load(
    server: str,
    path: str,
    seconds: int,
    read: Callable[[], Any],
    connections: int = wrk.CONNECTIONS,
) -> dict[str, int]:
    """Put a service on the running loop under load; return by how much what ``read()`` tells grew.

    Another thread reads it, since the loop is busy.
    """
    port: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    serving = asyncio.create_task(SERVICES[server](port.set_result))
    url = f"http://127.0.0.1:{await port}{path}"

    def load() -> Any:
        os.sched_setaffinity(0, CORES)  # for this thread only
        wrk.load(os.getpid(), url, 1, connections)
        before = read()
        wrk.load(os.getpid(), url, seconds, connections)
        return read() - before

    seen = await asyncio.to_thread(load)
    serving.cancel()
    await asyncio.wait([serving])
    return asdict(seen)


def run(plan: Plan) -> Table:
    """Measure both recorders on asyncio.

    On uvloop everything in a turn that is no step of a task has one of two rows, so nothing is left
    without an owner.
    """
    if shutil.which("wrk") is None:
        raise Unavailable("wrk is not installed (Debian: apt-get install wrk)")
    measured: dict[str, list[LoopTotals]] = defaultdict(list)
    absent: dict[str, str] = {}
    rounds = max(1, plan.rounds // 3)
    for number in range(rounds):
        for server in SERVERS:
            for handler, path in PATHS.items():
                for name in plan.ours[1:]:
                    plan.progress(
                        f"owners, round {number + 1} of {rounds}: {name}, {server}, {handler}"
                    )
                    asked = json.dumps(server), json.dumps(path)
                    try:
                        seen = child.run(
                            "owners",
                            name,
                            "asyncio",
                            server=asked[0],
                            path=asked[1],
                            scale=plan.scale,
                        )
                        measured[f"{server} {handler}|{name}"].append(LoopTotals(**seen))
                    except Unavailable as error:
                        absent[name] = str(error)
    return _table(measured, absent)


def _table(measured: dict[str, list[LoopTotals]], absent: dict[str, str]) -> Table:
    table = Table(
        f"Owners of a loop's active time (asyncio, wrk, {wrk.CONNECTIONS} connections)",
        [
            "service",
            "recorder",
            "with an owner",
            "segments per turn",
            "without, us per turn",
            "without, us per segment",
        ],
        data={case: [asdict(seen) for seen in all_totals] for case, all_totals in measured.items()},
    )
    for case, all_totals in measured.items():
        table.rows.append([*case.split("|"), *_cells(all_totals)])
    table.notes.append(
        "With an owner: segments of tasks and callbacks over "
        '`asyncio_loop_time_seconds_total{state="active"}`.'
    )
    table.note_absent(absent)
    return table


def _cells(all_totals: list[LoopTotals]) -> list[str]:
    share = quartiles([100 * seen.owned_ns / seen.active_ns for seen in all_totals])
    rest_us = [(seen.active_ns - seen.owned_ns) / 1000 for seen in all_totals]
    per_turn = [rest / seen.turns for rest, seen in zip(rest_us, all_totals, strict=True)]
    per_segment = [rest / seen.segments for rest, seen in zip(rest_us, all_totals, strict=True)]
    return [
        f"{share.median:.1f} %",
        f"{quartiles([seen.segments / seen.turns for seen in all_totals]).median:.1f}",
        f"{quartiles(per_turn).median:.1f}",
        f"{quartiles(per_segment).median:.2f}",
    ]
