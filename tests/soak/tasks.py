"""The soak of tasks: one process under full load with three scrapers.

At the end the metrics are compared with the program's own counts, and with each other to the
nanosecond.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .metrics import OPENMETRICS, TEXT, Exposition, fetch
from .outcome import Outcome
from .scraper import Scraper, summary, watching

LOAD = Path(__file__).with_name("load.py")
STATUSES = ("completed", "failed", "cancelled")
#: Coroutines of the second loop, whose tasks are destroyed before they are done: they have no end.
TRICKLE = {"__main__.trickle", "__main__.abandoned"}
REQUEST_TIME = ("asyncio_request_active_seconds_sum", "asyncio_request_background_seconds_total")
#: Accept header and compression of each scraper.
SCRAPERS = ((OPENMETRICS, True), (OPENMETRICS, False), (TEXT, True))
MEBIBYTE = 2**20
GROWTH_BYTES = 2 * MEBIBYTE
PAGE_SIZE = os.sysconf("SC_PAGE_SIZE")


@dataclass
class Memory:
    """The resident memory of a process, read every second."""

    pid: int
    resident: list[int] = field(default_factory=list)

    def run(self, over: threading.Event) -> None:
        """Read until ``over`` is set."""
        while not over.wait(1.0):
            pages = Path(f"/proc/{self.pid}/statm").read_text(encoding="ascii").split()[1]
            self.resident.append(int(pages) * PAGE_SIZE)


def soak(seconds: float, seed: int, loop: str) -> Outcome:
    """Run the load for ``seconds`` and compare the metrics at the end with its counts."""
    outcome = Outcome()
    started = time.monotonic()
    with _load(seconds, seed, loop) as process:
        assert process.stdout is not None
        port = int(process.stdout.readline())
        memory = Memory(process.pid)
        scrapers = [
            Scraper(port, accept, compressed, every=min(1.0, seconds / 10))
            for accept, compressed in SCRAPERS
        ]
        with watching([*scrapers, memory]):
            counted = json.loads(process.stdout.readline())
            took = time.monotonic() - started
        exposition = fetch(port)
    _check_counts(outcome, exposition, counted)
    _check_laws(outcome, exposition)
    _check_memory(outcome, memory.resident, seconds)
    for scraper in scrapers:
        scraper.compare(exposition)
        outcome.problems += scraper.failures + scraper.fallen
    made = int(exposition.sum("asyncio_tasks_created_total"))
    outcome.lines[:0] = [
        f"{took:.0f} s on {loop}, seed {seed}: {made} tasks, {made / took:.0f} a second",
        f"ended: {dict(sum(map(Counter, counted['ended'].values()), Counter()))}",
        f"scrapes: {summary(scrapers)}",
    ]
    return outcome


@contextmanager
def _load(seconds: float, seed: int, loop: str) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-P", str(LOAD), str(seconds), str(seed), loop]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            yield process
        except BaseException:
            process.kill()
            raise


def _check_counts(outcome: Outcome, exposition: Exposition, counted: dict[str, Any]) -> None:
    """Check that the metrics equal what the program counted: nothing is lost or counted twice."""
    for name, ended in counted["ended"].items():
        coroutine = f"__main__.{name}"
        outcome.expect(
            f"{name} created",
            sum(ended.values()),
            exposition.sum("asyncio_tasks_created_total", coroutine=coroutine),
        )
        for status in STATUSES:
            count = exposition.sum(
                "asyncio_task_wall_seconds_count", coroutine=coroutine, status=status
            )
            outcome.expect(f"{name} {status}", ended.get(status, 0), count)
        destroyed = exposition.sum("asyncio_tasks_destroyed_pending_total", coroutine=coroutine)
        outcome.expect(f"{name} destroyed", ended.get("destroyed", 0), destroyed)
    for name, suspended in counted["suspensions"].items():
        outcome.expect(
            f"waits of {name}",
            suspended,
            exposition.sum("asyncio_wait_seconds_count", coroutine=f"__main__.{name}"),
        )
    for status in STATUSES:
        count = exposition.sum("asyncio_request_wall_seconds_count", status=status)
        outcome.expect(f"requests {status}", counted["requests"].get(status, 0), count)
    outcome.expect("requests in progress", 0, exposition.sum("asyncio_requests_in_progress"))
    outcome.expect(
        "unhandled exceptions",
        counted["unhandled"],
        exposition.sum("asyncio_unhandled_exceptions_total"),
    )
    blocked = exposition.sum("asyncio_blocking_seconds_total", coroutine="__main__.blocks")
    outcome.demand(
        f"blocked for {counted['blocked_seconds']} s, shown as {blocked} s",
        holds=counted["blocked_seconds"] <= blocked,
    )


def _check_laws(outcome: Outcome, exposition: Exposition) -> None:
    created = exposition.by("coroutine", "asyncio_tasks_created_total")
    ended, destroyed, live = (
        exposition.by("coroutine", name)
        for name in (
            "asyncio_task_wall_seconds_count",
            "asyncio_tasks_destroyed_pending_total",
            "asyncio_tasks",
        )
    )
    for coroutine, count in created.items():
        outcome.expect(
            f"{coroutine}: its tasks",
            count,
            ended[coroutine] + destroyed[coroutine] + live[coroutine],
        )
    segments, waits, active, wall = (
        exposition.ns_by("coroutine", f"asyncio_{name}_seconds_sum")
        for name in ("segment", "wait", "task_active", "task_wall")
    )
    traced = wall.keys() - TRICKLE
    for coroutine in traced:
        outcome.expect(f"{coroutine}: active time", active[coroutine], segments.get(coroutine, 0))
    start_delay = exposition.ns_by("loop", "asyncio_loop_start_delay_seconds_sum")["MainThread"]
    parts = start_delay + sum(
        segments.get(coroutine, 0) + waits.get(coroutine, 0) for coroutine in traced
    )
    whole = sum(wall[coroutine] for coroutine in traced)
    outcome.expect("start delay + segments + waits, in ns", whole, parts)
    outcome.lines.append(
        f"wall time {whole} ns = start delay {start_delay} "
        f"+ segments and waits {parts - start_delay}"
    )
    requests = sum(exposition.ns_by("request", name)["order"] for name in REQUEST_TIME)
    both = active["__main__.parent"] + active["__main__.child"]
    outcome.demand(
        f"requests took {requests} ns, and their tasks only {both}", holds=requests <= both
    )
    outcome.expect("suspended tasks", 0, exposition.sum("asyncio_suspended_tasks"))
    outcome.expect("names without room", 0, exposition.sum("aiometrics_overflow_total"))
    outcome.expect("internal errors", 0, exposition.sum("aiometrics_errors_total"))


def _check_memory(outcome: Outcome, resident: list[int], seconds: float) -> None:
    """Check that memory in the last fifth of the run is not above that in the second fifth.

    A short run is too short even if a busy machine makes it last.
    """
    if min(len(resident), seconds) < 10:
        outcome.lines.append("memory: the run was too short to compare")
        return
    fifth = len(resident) // 5
    early, late = (
        statistics.median(part) for part in (resident[fifth : 2 * fifth], resident[-fifth:])
    )
    course = ", ".join(
        f"{resident[round(share * (len(resident) - 1))] / MEBIBYTE:.1f}"
        for share in (0, 0.2, 0.4, 0.6, 0.8, 1)
    )
    outcome.lines.append(
        f"memory in MiB from start to end: {course}; growth {(late - early) / MEBIBYTE:+.2f}, "
        f"highest {max(resident) / MEBIBYTE:.1f}"
    )
    outcome.demand(f"memory grew from {early} to {late} bytes", holds=late - early <= GROWTH_BYTES)
