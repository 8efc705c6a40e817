"""Real services under load: requests per second, p99 and CPU time, compared with bare ones."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from contenders.contender import LOOPS, Unavailable
from contenders.registry import BARE, environment
from harness import wrk
from harness.plan import Plan
from harness.samples import quartiles, ratios
from harness.table import Table
from workloads.service import SERVERS

PATHS = {"hello": "/", "ten awaits": "/ten"}
SLICE_SECONDS = 2
Measured = dict[str, dict[str, list[wrk.Load]]]


@contextmanager
def serving(server: str, loop: str, name: str, seed: int) -> Iterator[tuple[int, str]]:
    """Run a service in a process of its own on the first core; yield its process id and URL.

    ``seed`` is the seed of its hashes. Raises ``Unavailable`` with the contender's message if the
    service does not start.
    """
    core = str(min(os.sched_getaffinity(0)))
    service = ["-P", "-m", "workloads.service", server, loop, name]
    command = ["taskset", "-c", core, sys.executable, *service]
    with subprocess.Popen(
        command,
        env={**environment(name), "PYTHONHASHSEED": str(seed)},
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None  # noqa: S101 - stdout is a pipe
        try:
            output = process.stdout.readline().strip()
            if not output.isdigit():
                raise Unavailable(output or f"{name} did not start {server}")
            yield process.pid, f"http://127.0.0.1:{output}"
        finally:
            process.kill()


def run(plan: Plan) -> Table:
    """Measure all contenders of each service.

    They run at the same time and take turns under load every second or two, while the others are
    idle. Each round has new processes with another seed of hashes, since the layout of memory makes
    one process a few per cent faster than the next.
    """
    if shutil.which("wrk") is None:
        raise Unavailable("wrk is not installed (Debian: apt-get install wrk)")
    measured: Measured = defaultdict(lambda: defaultdict(list))
    absent: dict[str, str] = {}
    for number in range(plan.rounds):
        for server in SERVERS:
            for loop in LOOPS:
                plan.progress(f"services, round {number + 1} of {plan.rounds}: {server} on {loop}")
                _measure(plan, (server, loop), number, measured, absent)
    return _table(plan, measured, absent)


def _measure(
    plan: Plan, service: tuple[str, str], number: int, measured: Measured, absent: dict[str, str]
) -> None:
    with ExitStack() as stack:
        up = {}
        for name in plan.ours if number % 2 else plan.ours[::-1]:
            try:
                up[name] = stack.enter_context(serving(*service, name, number))
            except Unavailable as error:
                absent[name] = str(error)
        for pid, url in up.values():
            wrk.load(pid, url + "/ten", 1)
        for handler, path in PATHS.items():
            for name, (pid, url) in up.items():
                measured[" ".join((*service, handler))][name].append(
                    wrk.load(pid, url + path, max(1, round(SLICE_SECONDS * plan.scale)))
                )


def _table(plan: Plan, measured: Measured, absent: dict[str, str]) -> Table:
    raw = {
        case: {name: [_raw(load) for load in loads] for name, loads in by_name.items()}
        for case, by_name in measured.items()
    }
    table = Table(
        f"Services under load (wrk, {wrk.CONNECTIONS} connections; medians and quartiles of "
        "rounds)",
        [
            "service",
            "contender",
            "requests/s",
            "ratio",
            "p99 ms",
            "ratio",
            "CPU us per request",
            "ratio",
        ],
        data=raw,
    )
    for case, by_name in measured.items():
        bare = by_name[BARE]
        for name in plan.ours:
            if name in by_name:
                table.rows.append([case, name, *_cells(by_name[name], bare)])
    table.notes.append(
        "Service and load each have a core; a ratio is to the bare service of the same round."
    )
    table.note_absent(absent)
    return table


def _raw(load: wrk.Load) -> dict[str, float]:
    """Return the load as it is kept in JSON."""
    return {
        "requests_per_second": load.requests_per_second,
        "p99_seconds": load.p99_seconds,
        "cpu_seconds": load.cpu_seconds,
    }


def _cells(loads: list[wrk.Load], bare: list[wrk.Load]) -> list[str]:
    cells = []
    for field, unit, digits in (
        ("requests_per_second", 1.0, 0),
        ("p99_seconds", 1e3, 2),
        ("cpu_seconds", 1e6, 1),
    ):
        mine, theirs = (
            [getattr(load, field) for load in loads],
            [getattr(load, field) for load in bare],
        )
        cells += [
            quartiles([value * unit for value in mine]).format(digits),
            ratios(mine, theirs).format(3),
        ]
    return cells
