"""Real services under load: requests per second, p99 and CPU time per request, beside bare ones."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import wrk
from contender import LOOPS, Unavailable
from contenders import BARE, environment
from plan import Plan
from samples import quartiles, ratios
from service import SERVERS
from table import Table

PATHS = {"hello": "/", "ten awaits": "/ten"}
SLICES = 3
Measured = dict[str, dict[str, list[wrk.Load]]]


@contextmanager
def serving(server: str, loop: str, name: str) -> Iterator[tuple[int, str]]:
    """A service in a process of its own, pinned to the first core: its process id and URL.

    Raises ``Unavailable`` with the contender's words if it does not come up.
    """
    core = str(min(os.sched_getaffinity(0)))
    script = str(Path(__file__).with_name("service.py"))
    command = ["taskset", "-c", core, sys.executable, script, server, loop, name]
    with subprocess.Popen(command, env=environment(name), stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None  # noqa: S101 - it was asked for
        try:
            said = process.stdout.readline().strip()
            if not said.isdigit():
                raise Unavailable(said or f"{name} did not start {server}")
            yield process.pid, f"http://127.0.0.1:{said}"
        finally:
            process.kill()


def run(plan: Plan) -> Table:
    """All contenders of one service are up at once, idle but for the one under load; they take turns second by second."""
    if shutil.which("wrk") is None:
        raise Unavailable("wrk is not installed (Debian: apt-get install wrk)")
    measured: Measured = defaultdict(lambda: defaultdict(list))
    absent: dict[str, str] = {}
    rounds = max(1, plan.rounds // 3)
    for number in range(rounds):
        for server in SERVERS:
            for loop in LOOPS:
                plan.progress(f"services, round {number + 1} of {rounds}: {server} on {loop}")
                _measure(plan, server, loop, measured, absent)
    return _table(plan, measured, absent)


def _measure(plan: Plan, server: str, loop: str, measured: Measured, absent: dict[str, str]) -> None:
    with ExitStack() as stack:
        up = {}
        for name in plan.ours:
            try:
                up[name] = stack.enter_context(serving(server, loop, name))
            except Unavailable as error:
                absent[name] = str(error)
        for pid, url in up.values():
            wrk.load(pid, url + "/ten", 1)
        for handler, path in PATHS.items():
            for _ in range(SLICES):
                for name, (pid, url) in up.items():
                    measured[f"{server} {loop} {handler}"][name].append(wrk.load(pid, url + path, max(1, round(3 * plan.scale))))


def _table(plan: Plan, measured: Measured, absent: dict[str, str]) -> Table:
    raw = {case: {name: [_raw(load) for load in loads] for name, loads in by_name.items()} for case, by_name in measured.items()}
    table = Table(
        f"Services under load (wrk, {wrk.CONNECTIONS} connections; medians and quartiles of slices that take turns)",
        ["service", "contender", "requests/s", "ratio", "p99 ms", "ratio", "CPU us per request", "ratio"],
        data=raw,
    )
    for case, by_name in measured.items():
        bare = by_name[BARE]
        for name in plan.ours:
            if name in by_name:
                table.rows.append([case, name, *_cells(by_name[name], bare)])
    table.notes.append("Service and load each have a core; a ratio is to the bare slice of the same turn.")
    table.notes.extend(f"{name} did not run: {reason}" for name, reason in absent.items())
    return table


def _raw(load: wrk.Load) -> dict[str, float]:
    """The load as JSON keeps it."""
    return {"requests_per_second": load.requests_per_second, "p99_seconds": load.p99_seconds, "cpu_seconds": load.cpu_seconds}


def _cells(loads: list[wrk.Load], bare: list[wrk.Load]) -> list[str]:
    cells = []
    for field, unit, digits in (("requests_per_second", 1.0, 0), ("p99_seconds", 1e3, 2), ("cpu_seconds", 1e6, 1)):
        mine, theirs = [getattr(load, field) for load in loads], [getattr(load, field) for load in bare]
        cells += [quartiles([value * unit for value in mine]).format(digits), ratios(mine, theirs).format(3)]
    return cells
