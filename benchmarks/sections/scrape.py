"""Measures how long a scrape takes, and how it delays the loop in the same process.

Compares the exporter with the same samples served by prometheus_client.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections import defaultdict
from time import perf_counter
from typing import Any

from contenders.contender import Contender, Unavailable
from contenders.ours import CRecorder
from harness import child
from harness.peer_server import prometheus_client_port
from harness.plan import Plan
from harness.samples import percentile, quartiles
from harness.table import Table
from workloads.yield_points import visitor

SECONDS = 4.0
#: Number of series, and roughly the number of yield points that lead to it.
SERIES = {1_000: 16, 10_000: 350}
SERVERS = ("aiometrics", "prometheus_client")
#: One turn of a busy loop: about 0.2 ms of Python, as a handler may take.
WORK = range(10_000)


def measure(
    contender: Contender, loop: str, *, places: int, server: str, scale: float = 1.0
) -> dict[str, Any]:
    """Return scrape times with an idle and a busy loop, and the busy loop's turns.

    The turns are measured without scrapes and with scrapes in a row.
    """
    if not isinstance(contender, CRecorder):
        raise Unavailable("only aiometrics can be scraped")
    facade = contender.facade()
    exporter = facade.start_exporter(port=0, addr="127.0.0.1", registry=None)
    port = exporter.port if server == "aiometrics" else prometheus_client_port(facade)
    seconds = SECONDS * scale

    async def main() -> dict[str, Any]:
        await asyncio.create_task(visitor(places)())
        beside_idle = await _scrapes(port, seconds)
        undisturbed = _Turns()
        await _busy_until(asyncio.create_task(asyncio.sleep(seconds)), undisturbed)
        disturbed = _Turns()
        scraping = asyncio.create_task(_scrapes(port, seconds))
        await _busy_until(scraping, disturbed)
        beside_busy = scraping.result()
        return {
            "series": beside_idle["series"],
            "bytes": beside_idle["bytes"],
            "idle": beside_idle["seconds"],
            "busy": beside_busy["seconds"],
            "turns": undisturbed.summary(),
            "turns scraped": disturbed.summary(),
        }

    with asyncio.Runner(loop_factory=contender.loop_factory(loop)) as runner:
        return runner.run(main())


class _Turns:
    """The duration of each turn of the busy loop."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    def summary(self) -> dict[str, float]:
        """Return the median, p99 and worst turn in seconds, and their number."""
        at = {f"p{percent}": percentile(self.seconds, percent) for percent in (50, 99)}
        return {**at, "worst": max(self.seconds), "count": len(self.seconds)}


async def _busy_until(other: asyncio.Task[Any], turns: _Turns) -> None:
    previous = perf_counter()
    while not other.done():
        for _ in WORK:
            pass
        await asyncio.sleep(0)
        now = perf_counter()
        turns.seconds.append(now - previous)
        previous = now


async def _scrapes(port: int, seconds: float) -> dict[str, Any]:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-P",
        "-m",
        "harness.scraper",
        str(port),
        str(seconds),
        stdout=asyncio.subprocess.PIPE,
    )
    output, _ = await process.communicate()
    if process.returncode:
        raise RuntimeError(f"the scraper ended with {process.returncode}")
    answer: dict[str, Any] = json.loads(output)
    return answer


def run(plan: Plan) -> Table:
    """Measure both recorders, both servers and both sizes in turn."""
    measured: dict[str, list[dict[str, Any]]] = defaultdict(list)
    absent: dict[str, str] = {}
    rounds = min(plan.rounds, 3)
    for number in range(rounds):
        for series, places in SERIES.items():
            for name in plan.ours[1:]:
                for server in SERVERS:
                    plan.progress(
                        f"scrape, round {number + 1} of {rounds}: {name}, {series} series by "
                        f"{server}"
                    )
                    try:
                        answer = child.run(
                            "scrape",
                            name,
                            "asyncio",
                            places=places,
                            server=json.dumps(server),
                            scale=plan.scale,
                        )
                    except Unavailable as error:
                        absent[name] = str(error)
                        continue
                    measured[f"{name}|{server}|{series}"].append(answer)
    return _table(measured, absent, rounds)


def _table(measured: dict[str, list[dict[str, Any]]], absent: dict[str, str], rounds: int) -> Table:
    table = Table(
        f"A scrape, and how it delays a busy loop (OpenMetrics, medians of {rounds} rounds)",
        [
            "recorder",
            "served by",
            "series",
            "scrape ms, loop idle",
            "us per series",
            "scrape ms, loop busy",
            "p99 turn ms",
            "worst turn ms",
        ],
        data=measured,
    )
    for key, answers in measured.items():
        name, server, _ = key.split("|")
        table.rows.append([name, server, *_cells(answers)])
    table.notes.append(
        "Scrapes in a row from another process, more often than Prometheus would; turns of about "
        "0.2 ms; `without -> with` scrapes."
    )
    table.note_absent(absent)
    return table


def _cells(answers: list[dict[str, Any]]) -> list[str]:
    def median(values: list[float], digits: int) -> str:
        return f"{quartiles(values).median:.{digits}f}"

    def turns(field: str) -> str:
        before, after = (
            [answer[key][field] * 1e3 for answer in answers] for key in ("turns", "turns scraped")
        )
        return f"{median(before, 2)} -> {median(after, 2)}"

    series = [float(answer["series"]) for answer in answers]
    idle = [quartiles(answer["idle"]).median * 1e3 for answer in answers]
    busy = [quartiles(answer["busy"]).median * 1e3 for answer in answers]
    each = [took / count * 1e3 for took, count in zip(idle, series, strict=True)]
    return [
        median(series, 0),
        median(idle, 1),
        median(each, 2),
        median(busy, 1),
        turns("p99"),
        turns("worst"),
    ]
