"""The soak of tasks: one process under full load, three scrapers, and at the end the laws, to the nanosecond."""

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

from .metrics import OPENMETRICS, TEXT, Page, fetch
from .outcome import Outcome
from .scraper import Scraper, told, watching

LOAD = Path(__file__).with_name("load.py")
STATUSES = ("completed", "failed", "cancelled")
#: Those of the second loop, whose tasks are destroyed before they are done and so have a start and no end.
TRICKLE = {"__main__.trickle", "__main__.abandoned"}
REQUEST_TIME = ("asyncio_request_active_seconds_sum", "asyncio_request_background_seconds_total")
#: Accept header and compression of each scraper.
SCRAPERS = ((OPENMETRICS, True), (OPENMETRICS, False), (TEXT, True))
MEBIBYTE = 2**20
GROWTH_BYTES = 2 * MEBIBYTE
PAGE_SIZE = os.sysconf("SC_PAGE_SIZE")


@dataclass
class Memory:
    """What a process has in RAM, every second."""

    pid: int
    resident: list[int] = field(default_factory=list)

    def run(self, over: threading.Event) -> None:
        """Until it is over."""
        while not over.wait(1.0):
            pages = Path(f"/proc/{self.pid}/statm").read_text(encoding="ascii").split()[1]
            self.resident.append(int(pages) * PAGE_SIZE)


def soak(seconds: float, seed: int, loop: str) -> Outcome:
    """Run the load for so long, and hold what is served at its end to its account."""
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
            account = json.loads(process.stdout.readline())
            took = time.monotonic() - started
        page = fetch(port)
    _check_accounts(outcome, page, account)
    _check_laws(outcome, page)
    _check_memory(outcome, memory.resident)
    for scraper in scrapers:
        scraper.see(page)
        outcome.problems += scraper.failures + scraper.fallen
    made = int(page.sum("asyncio_tasks_created_total"))
    outcome.lines[:0] = [
        f"{took:.0f} s on {loop}, seed {seed}: {made} tasks, {made / took:.0f} a second",
        f"ended: {dict(sum(map(Counter, account['ended'].values()), Counter()))}",
        f"scrapes: {told(scrapers)}",
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


def _check_accounts(outcome: Outcome, page: Page, account: dict[str, Any]) -> None:
    """Nothing is lost and nothing counted twice: as many as the program counted itself."""
    for name, ended in account["ended"].items():
        coroutine = f"__main__.{name}"
        outcome.expect(
            f"{name} created",
            sum(ended.values()),
            page.sum("asyncio_tasks_created_total", coroutine=coroutine),
        )
        for status in STATUSES:
            count = page.sum("asyncio_task_wall_seconds_count", coroutine=coroutine, status=status)
            outcome.expect(f"{name} {status}", ended.get(status, 0), count)
        destroyed = page.sum("asyncio_tasks_destroyed_pending_total", coroutine=coroutine)
        outcome.expect(f"{name} destroyed", ended.get("destroyed", 0), destroyed)
    for name, suspended in account["suspensions"].items():
        outcome.expect(
            f"waits of {name}",
            suspended,
            page.sum("asyncio_wait_seconds_count", coroutine=f"__main__.{name}"),
        )
    for status in STATUSES:
        count = page.sum("asyncio_request_wall_seconds_count", status=status)
        outcome.expect(f"requests {status}", account["requests"].get(status, 0), count)
    outcome.expect("requests in progress", 0, page.sum("asyncio_requests_in_progress"))
    outcome.expect(
        "unhandled exceptions", account["unhandled"], page.sum("asyncio_unhandled_exceptions_total")
    )
    blocked = page.sum("asyncio_blocking_seconds_total", coroutine="__main__.blocks")
    outcome.demand(
        f"blocked for {account['blocked_seconds']} s, shown as {blocked} s",
        held=account["blocked_seconds"] <= blocked,
    )


def _check_laws(outcome: Outcome, page: Page) -> None:
    created = page.by("coroutine", "asyncio_tasks_created_total")
    ended, destroyed, live = (
        page.by("coroutine", name)
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
        page.ns_by("coroutine", f"asyncio_{name}_seconds_sum")
        for name in ("segment", "wait", "task_active", "task_wall")
    )
    traced = wall.keys() - TRICKLE
    for coroutine in traced:
        outcome.expect(f"{coroutine}: active time", active[coroutine], segments.get(coroutine, 0))
    start_delay = page.ns_by("loop", "asyncio_loop_start_delay_seconds_sum")["MainThread"]
    parts = start_delay + sum(
        segments.get(coroutine, 0) + waits.get(coroutine, 0) for coroutine in traced
    )
    whole = sum(wall[coroutine] for coroutine in traced)
    outcome.expect("start delay + segments + waits, in ns", whole, parts)
    outcome.lines.append(
        f"wall time {whole} ns = start delay {start_delay} + segments and waits {parts - start_delay}"
    )
    requests = sum(page.ns_by("request", name)["order"] for name in REQUEST_TIME)
    both = active["__main__.parent"] + active["__main__.child"]
    outcome.demand(
        f"requests took {requests} ns, and their tasks only {both}", held=requests <= both
    )
    outcome.expect("suspended tasks", 0, page.sum("asyncio_suspended_tasks"))
    outcome.expect("names without room", 0, page.sum("aiometrics_overflow_total"))
    outcome.expect("internal errors", 0, page.sum("aiometrics_errors_total"))


def _check_memory(outcome: Outcome, resident: list[int]) -> None:
    """The last fifth of the run is not above the second one."""
    if len(resident) < 10:
        outcome.lines.append("memory: too short a run to tell")
        return
    fifth = len(resident) // 5
    early, late = (
        statistics.median(part) for part in (resident[fifth : 2 * fifth], resident[-fifth:])
    )
    told = ", ".join(
        f"{resident[round(share * (len(resident) - 1))] / MEBIBYTE:.1f}"
        for share in (0, 0.2, 0.4, 0.6, 0.8, 1)
    )
    outcome.lines.append(
        f"memory in MiB from start to end: {told}; growth {(late - early) / MEBIBYTE:+.2f}, highest {max(resident) / MEBIBYTE:.1f}"
    )
    outcome.demand(f"memory grew from {early} to {late} bytes", held=late - early <= GROWTH_BYTES)
