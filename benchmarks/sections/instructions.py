"""Instructions per call as counted by callgrind, which noise does not disturb.

Only the recorder is measured, without the threads of an exporter.
"""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import tempfile
from pathlib import Path
from typing import Any

from contenders.contender import LOOPS, Contender, Unavailable
from contenders.ours import CRecorder
from contenders.registry import BARE
from harness import child
from harness.plan import Plan
from harness.table import Table
from workloads.steps import workloads

WORKLOADS = ("step", "spawn", "depth 10", "calls 10")
SHORT, LONG = 500, 1_500
#: The C function behind ``os.getppid``, whose calls mark measurements: callgrind writes its counts
#: at each one.
MARKER = "getppid"


def measure(contender: Contender, loop: str) -> list[str]:
    """Run every workload short and long, with a marker before each run and after the last."""
    programs = workloads(contender.decorate)

    async def main() -> None:
        for name in WORKLOADS:
            await asyncio.create_task(programs[name](LONG))
        for name in WORKLOADS:
            for count in (SHORT, LONG):
                os.getppid()
                await asyncio.create_task(programs[name](count))
        os.getppid()

    new_loop = contender.loop_factory(loop)()
    if isinstance(contender, CRecorder):
        contender.facade().instrument(new_loop)
    with asyncio.Runner(loop_factory=lambda: new_loop) as runner:
        runner.run(main())
    return list(WORKLOADS)


def run(plan: Plan) -> Table:
    """Compare aiometrics with a bare loop, by the difference between the long and the short run.

    What happens once in a run cancels out.
    """
    if shutil.which("valgrind") is None:
        raise Unavailable("valgrind is not installed (Debian: apt-get install valgrind)")
    counts: dict[str, dict[str, float]] = {}
    table = Table(
        "Instructions per call (callgrind)",
        ["contender", *(f"{loop} {name}" for loop in LOOPS for name in WORKLOADS)],
        data=counts,
    )
    for name in plan.ours:
        counts[name] = {}
        for loop in LOOPS:
            plan.progress(f"instructions: {name} on {loop}")
            try:
                counts[name].update(_counts(name, loop))
            except Unavailable as error:
                table.notes.append(f"{name} on {loop} did not run: {error}")
        table.rows.append([name, *(_cell(name, counts, column) for column in table.columns[1:])])
    table.notes.append(
        "The recorder alone (`instrument(loop)`), so that no exporter thread is counted."
    )
    return table


def _counts(name: str, loop: str) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as directory:
        prefix = (
            "valgrind",
            "--tool=callgrind",
            f"--dump-before={MARKER}",
            f"--callgrind-out-file={directory}/out",
        )
        child.run("instructions", name, loop, prefix=prefix)
        # out.1 is the start-up; out is written at exit and is what came after the last marker.
        dumps = [
            _total(Path(directory) / f"out.{number}") for number in range(2, 2 + 2 * len(WORKLOADS))
        ]
    pairs = zip(dumps[::2], dumps[1::2], strict=True)
    return {
        f"{loop} {workload}": (long - short) / (LONG - SHORT)
        for workload, (short, long) in zip(WORKLOADS, pairs, strict=True)
    }


def _total(dump: Path) -> int:
    if not dump.exists():
        raise Unavailable(f"callgrind saw no call of {MARKER}: use a Python that has symbols")
    found = re.search(r"^(?:totals|summary): (\d+)", dump.read_text(), re.MULTILINE)
    if found is None:
        raise Unavailable(f"no totals in {dump.name}")
    return int(found[1])


def _cell(name: str, counts: dict[str, dict[str, Any]], column: str) -> str:
    if column not in counts[name]:
        return "did not run"
    if name == BARE:
        return f"{counts[name][column]:.0f}"
    return f"{counts[name][column]:.0f} (x{counts[name][column] / counts[BARE][column]:.3f})"
