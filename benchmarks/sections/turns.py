"""Hold the turns of loops against other accounts: the clock's, the kernel's, and known sleeps.

Active and idle time must be the time that passed, and active time what the loop's thread ran and
slept on purpose. ``AIOMETRICS_UVLOOPS`` names directories with other versions of uvloop, as it does
for the tests.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import Any

from contenders.contender import Contender, Unavailable
from contenders.ours import CRecorder
from contenders.registry import BENCHMARKS
from harness import child
from harness.plan import Plan
from harness.table import Table

from sections.owners import CORES, under_load

SECONDS = 10
#: What the loop does: its work, or a service with so many connections.
WORKS = {"sleeps, computes, handles events": 0, "uvicorn, 1 connection": 1, "uvicorn, 32": 32}


@dataclass(frozen=True, slots=True)
class Account:
    """The page's account of a loop, and others of the same time: all but two know nothing of it."""

    active_ns: int
    idle_ns: int
    wall_ns: int
    ran_ns: int
    queued_ns: int
    slept_ns: int

    def __sub__(self, before: Account) -> Account:
        earlier = asdict(before)
        return Account(**{name: now - earlier[name] for name, now in asdict(self).items()})


class Work:
    """Computes and sleeps in all places where a loop calls something."""

    def __init__(self) -> None:
        self.slept_ns = 0

    def do(self) -> None:
        """Do some of it, and add up the time of the sleep that the thread did not run."""
        sum(range(100_000))
        started, ran = time.monotonic_ns(), time.thread_time_ns()
        time.sleep(0.003)
        self.slept_ns += time.monotonic_ns() - started - (time.thread_time_ns() - ran)

    async def everywhere(self, read: Callable[[], Account], seconds: int) -> dict[str, int]:
        """Do it in tasks, callbacks, timers and protocols, and return the account of that time."""
        loop = asyncio.get_running_loop()
        ours, theirs = socket.socketpair()
        transport, _ = await loop.create_connection(partial(Receives, self.do), sock=ours)
        await asyncio.sleep(0.1)
        before, ends = read(), loop.time() + seconds
        while loop.time() < ends:
            self.do()
            loop.call_soon(self.do)
            loop.call_later(0.001, self.do)
            theirs.send(b"x")
            await asyncio.sleep(0.03)
        seen = asdict(read() - before)
        transport.close()
        theirs.close()
        return seen


class Receives(asyncio.Protocol):
    """Does something with what it receives."""

    def __init__(self, do: Callable[[], None]) -> None:
        self._do = do

    def data_received(self, _: bytes) -> None:
        self._do()


def account(snapshot: Callable[[], Any], work: Work) -> Account:
    """Return all accounts of the main thread's loop up to now."""
    thread = threading.main_thread()
    clock = time.pthread_getcpuclockid(thread.ident or 0)
    queued_ns = int(Path(f"/proc/self/task/{thread.native_id}/schedstat").read_text().split()[1])
    began, ran_ns = time.monotonic_ns(), time.clock_gettime_ns(clock)
    (loop,) = snapshot().loops
    ended, ran_later_ns = time.monotonic_ns(), time.clock_gettime_ns(clock)
    if loop.idle_ns is None:
        raise Unavailable("its turns are not known")
    middle = (began + ended) // 2, (ran_ns + ran_later_ns) // 2
    return Account(loop.active_ns, loop.idle_ns, *middle, queued_ns, work.slept_ns)


def measure(
    contender: Contender, loop: str, *, seconds: int, connections: int
) -> tuple[str, dict[str, int]]:
    """Return what the loop is, and the accounts."""
    if not isinstance(contender, CRecorder):
        raise Unavailable("only aiometrics shows turns, on uvloop with the C recorder")
    os.sched_setaffinity(0, {min(CORES)})
    contender.prepare()
    work = Work()
    read = partial(account, contender.facade().snapshot, work)
    with asyncio.Runner(loop_factory=contender.loop_factory(loop)) as runner:
        if connections:
            seen = runner.run(under_load("uvicorn", "/", seconds, read, connections))
        else:
            seen = runner.run(work.everywhere(read, seconds))
    return _name(loop), seen


def _name(loop: str) -> str:
    if loop == "asyncio":
        return f"asyncio of {sys.version.split()[0]}"
    module = import_module("uvloop.loop")
    return f"uvloop {version('uvloop')}, {Path(module.__file__ or '').parents[1].name}"


def run(plan: Plan) -> Table:
    """Measure asyncio, and every version of uvloop that there is."""
    table = Table(
        "Turns of loops, as the page shows them and as others do",
        [
            "loop",
            "work",
            "s",
            "active + idle - wall",
            "active",
            "ran + slept",
            "active / (ran + slept) - 1",
            "had to wait for a CPU",
        ],
        data=[],
    )
    loads = [
        connections for connections in WORKS.values() if shutil.which("wrk") or not connections
    ]
    for loop, path in _loops():
        for work, connections in WORKS.items():
            if connections not in loads:
                continue
            plan.progress(f"turns: {loop} {path or ''}, {work}")
            try:
                name, seen = child.run(
                    "turns",
                    CRecorder.name,
                    loop,
                    prefix=(
                        "env",
                        f"PYTHONPATH={os.pathsep.join(filter(None, (str(BENCHMARKS), path)))}",
                    ),
                    seconds=max(1, round(SECONDS * plan.scale)),
                    connections=connections,
                )
            except Unavailable as error:
                table.notes.append(f"{loop} {path} did not run: {error}")
                continue
            table.data.append([name, work, seen])
            table.rows.append([name, work, *_cells(Account(**seen))])
    table.notes.append(
        "Ran is the CPU time of the loop's thread, slept the time of `time.sleep` in which it did "
        "not run. A thread that must wait for a CPU is active, and does not run."
    )
    return table


def _loops() -> Iterator[tuple[str, str]]:
    yield "asyncio", ""
    yield "uvloop", ""
    for path in filter(None, os.environ.get("AIOMETRICS_UVLOOPS", "").split(os.pathsep)):
        yield "uvloop", path


def _cells(seen: Account) -> list[str]:
    busy_ns = seen.ran_ns + seen.slept_ns
    return [
        f"{seen.wall_ns / 1e9:.2f}",
        f"{100 * ((seen.active_ns + seen.idle_ns) / seen.wall_ns - 1):+.4f} %",
        f"{100 * seen.active_ns / seen.wall_ns:.2f} %",
        f"{100 * busy_ns / seen.wall_ns:.2f} %",
        f"{100 * (seen.active_ns / busy_ns - 1):+.2f} %",
        f"{100 * seen.queued_ns / seen.wall_ns:.2f} %",
    ]
