"""How much of a loop's active time has an owner, the segment of a task or a callback, in real services under load."""

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
class ProcessStats:
    """What a loop did so far. Segments are those of tasks and callbacks alike."""

    active_ns: int
    turns: int
    owned_ns: int
    segments: int

    def __sub__(self, before: ProcessStats) -> ProcessStats:
        return ProcessStats(
            *(
                now - then
                for now, then in zip(asdict(self).values(), asdict(before).values(), strict=True)
            )
        )


def account(snapshot: Any) -> ProcessStats:
    """Of the only loop of a snapshot."""
    (loop,) = snapshot.loops
    segments = [point.segments for point in snapshot.yield_points]
    return ProcessStats(
        loop.active_ns,
        loop.iterations.count,
        sum(segment.sum_ns for segment in segments),
        sum(segment.count for segment in segments),
    )


def measure(
    contender: Contender, loop: str, *, server: str, path: str, scale: float = 1.0
) -> dict[str, int]:
    """The account of a service's loop while it was under load."""
    if not isinstance(contender, CRecorder):
        raise Unavailable("only aiometrics knows owners")
    os.sched_setaffinity(0, {min(CORES)})
    contender.prepare()
    with asyncio.Runner(loop_factory=contender.loop_factory(loop)) as runner:
        seconds = max(1, round(SECONDS * scale))
        return runner.run(
            _under_load(server, path, seconds, lambda: account(contender.facade().snapshot()))
        )


async def _under_load(
    server: str, path: str, seconds: int, look: Callable[[], ProcessStats]
) -> dict[str, int]:
    port: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    serving = asyncio.create_task(SERVICES[server](port.set_result))
    url = f"http://127.0.0.1:{await port}{path}"

    def load() -> ProcessStats:
        os.sched_setaffinity(0, CORES)  # of this thread
        wrk.load(os.getpid(), url, 1)
        before = look()
        wrk.load(os.getpid(), url, seconds)
        return look() - before

    seen = await asyncio.to_thread(load)
    serving.cancel()
    await asyncio.wait([serving])
    return asdict(seen)


def run(plan: Plan) -> Table:
    """Our recorders on asyncio, whose turns can be timed; on uvloop what has an owner is all that is known to be active."""
    if shutil.which("wrk") is None:
        raise Unavailable("wrk is not installed (Debian: apt-get install wrk)")
    measured: dict[str, list[ProcessStats]] = defaultdict(list)
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
                        measured[f"{server} {handler}|{name}"].append(ProcessStats(**seen))
                    except Unavailable as error:
                        absent[name] = str(error)
    return _table(measured, absent)


def _table(measured: dict[str, list[ProcessStats]], absent: dict[str, str]) -> Table:
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
        data={case: [asdict(seen) for seen in accounts] for case, accounts in measured.items()},
    )
    for case, accounts in measured.items():
        table.rows.append([*case.split("|"), *_cells(accounts)])
    table.notes.append(
        'With an owner: segments of tasks and callbacks over `asyncio_loop_time_seconds_total{state="active"}`.'
    )
    table.notes.extend(f"{name} did not run: {reason}" for name, reason in absent.items())
    return table


def _cells(accounts: list[ProcessStats]) -> list[str]:
    share = quartiles([100 * seen.owned_ns / seen.active_ns for seen in accounts])
    rest_us = [(seen.active_ns - seen.owned_ns) / 1000 for seen in accounts]
    return [
        f"{share.median:.1f} %",
        f"{quartiles([seen.segments / seen.turns for seen in accounts]).median:.1f}",
        f"{quartiles([rest / seen.turns for rest, seen in zip(rest_us, accounts, strict=True)]).median:.1f}",
        f"{quartiles([rest / seen.segments for rest, seen in zip(rest_us, accounts, strict=True)]).median:.2f}",
    ]
