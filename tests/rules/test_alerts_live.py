"""The starvation alerts on real loops: one blocked by a fault of the demo, one idle, one busy.

A real Prometheus evaluates the repository's rules; only their windows are shorter.
"""

from __future__ import annotations

import inspect
import json
import re
import sys
import urllib.parse
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from support import prometheus_server

from aiometrics.demo.faults import SYMPTOMS, Fault
from aiometrics.demo.payments import Payments
from aiometrics.recorder.implementation import IMPLEMENTATION

pytestmark = pytest.mark.once

#: Queries are repeated until the answer is right or this time is up.
SECONDS = 300
#: Durations in the rules are divided by this, so that an hour lasts a minute.
SHORTER = 60
#: A scrape may take as long, and an exporter is down if five in a row take longer.
EVERY_MS = 1_000
#: This many scrapes fill every window up to half an hour, and the time for which an alert must
#: last.
SCRAPES = 40
#: Fires if the machine has fewer cores than programs that want to run.
MACHINE = "AsyncioLoopThreadStarvedByScheduler"
#: A loop that was stopped for the blocking threshold was starved, whatever stopped it.
STARVED = {
    "AsyncioLoopStarvedFastBurn",
    "AsyncioLoopStarvedSlowBurn",
    "AsyncioLoopStarvedBudgetSpent",
}

IDLE = """
async def main():
    await asyncio.Event().wait()
"""
#: Runs thousands of tasks a second of a few microseconds each, for six times as long as the loop
#: sleeps. Between two readings of the clock it does nothing that takes 100 ms by itself: if it took
#: that long, the machine stopped the program, which counts for how long.
BUSY = """
from prometheus_client import Counter

STOPPED = Counter("stopped_seconds", "Time between readings of the clock, if over the threshold.")
looked = time.perf_counter()

def look():
    global looked
    before, looked = looked, time.perf_counter()
    if looked - before >= 0.1:
        STOPPED.inc(looked - before)
    return looked

async def red():
    await asyncio.sleep(0)
    sum(range(500))

async def green():
    sum(range(500))
    await asyncio.sleep(0)

async def blue():
    sum(range(300))
    await asyncio.sleep(0)
    sum(range(300))

async def main():
    since, late = look(), 0
    while True:
        await asyncio.sleep(0.002 + late / 6)
        now = look()
        ends = now + 6 * (now - since) - late
        while (since := look()) < ends:
            await asyncio.gather(*(make() for make in (red, green, blue) * 20))
        late = since - ends
"""
#: Blocks its loop, which is one of uvloop's, half of the time in a protocol.
UVLOOP = """
import socket, uvloop

def hold():
    time.sleep(0.2)

class Blocks(asyncio.Protocol):
    def data_received(self, _):
        hold()

async def main():
    ours, theirs = socket.socketpair()
    await asyncio.get_running_loop().create_connection(Blocks, sock=ours)
    while True:
        theirs.send(b"x")
        await asyncio.sleep(0.4)
"""
PROGRAM = """
import asyncio, time
import aiometrics
{main}
print("metrics ", aiometrics.start_exporter(port=0).url, flush=True)
{run}(main())
"""


@pytest.fixture(scope="module")
def prometheus(
    binary: Callable[[str], str], root: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[prometheus_server.Prometheus]:
    """Return a Prometheus with four targets; one is the demo with its blocking fault."""
    programs = {
        "shop": [
            "-m",
            "aiometrics",
            "demo",
            "--port",
            "0",
            "--every",
            "3600",
            "--faults",
            "blocking",
        ],
        "idle": ["-c", PROGRAM.format(main=IDLE, run="asyncio.run")],
        "busy": ["-c", PROGRAM.format(main=BUSY, run="asyncio.run")],
        "uvloop": ["-c", PROGRAM.format(main=UVLOOP, run="uvloop.run")],
    }
    with ExitStack() as stack:
        targets = {}
        for job, program in programs.items():
            printed = stack.enter_context(
                prometheus_server.running(sys.executable, *program, announces=["metrics  "])
            )
            targets[job] = urllib.parse.urlsplit(printed.split("metrics  ")[1].split()[0]).netloc
        directory = tmp_path_factory.mktemp("prometheus")
        options: Any = {"seconds": SECONDS, "every_ms": EVERY_MS, "shorter": SHORTER}
        yield stack.enter_context(
            prometheus_server.run_prometheus(
                binary("prometheus"), root, directory, targets, **options
            )
        )


def runbook(root: Path, alert: str) -> list[str]:
    """Return the queries of an alert's runbook, for the demo.

    They look back over more than the duration of a test, and so over all of it.
    """
    text = (root / "docs/runbooks.md").read_text(encoding="utf-8")
    section = text.split(f"\n## {alert}\n")[1].split("\n## ")[0]
    (block,) = re.findall(r"```promql\n(.*?)```", section, re.DOTALL)
    return [re.sub(r',?instance="[^"]*"', "", query) for query in block.splitlines()]


def test_a_starved_loop_fires_and_names_the_function_and_the_line(
    prometheus: prometheus_server.Prometheus, root: Path
) -> None:
    """The alert's description names them, and so do the queries of its runbook."""
    alert = "AsyncioLoopStarvedFastBurn"
    source, first = inspect.getsourcelines(Payments.charge_card)
    line = first + next(number for number, text in enumerate(source) if "time.sleep(" in text)
    place = f"aiometrics/demo/payments.py:{line} Payments.charge_card"
    owner = re.compile(
        r"RequestHandler\._handle_request at aiometrics/demo/payments.py:\d+ "
        r"Payments\.charge_card \(\d"
    )

    def named(found: dict[str, str]) -> bool:
        return owner.search(found.get(alert, "")) is not None and place in found[alert]

    fired = prometheus.until(named, lambda: prometheus.firing("shop"))
    assert owner.search(fired[alert]), fired
    # The other function of the fault is synchronous sqlite3, which may be as slow on a slow disk.
    held_at = fired[alert].rpartition(" held at ")[2]
    assert held_at == f"{place}." or "Stock.reserve_stock" in held_at, fired
    harm, samples = runbook(root, alert)

    def guilty() -> list[str]:
        return [labels["yield_point"].split()[-1] for labels, _ in prometheus.ask(harm)][
            : len(SYMPTOMS[Fault.BLOCKING].functions)
        ]

    # The first blocks do no harm if no handles are ready behind them.
    assert "Payments.charge_card" in prometheus.until(
        lambda found: "Payments.charge_card" in found, guilty
    )
    blocked_at = prometheus.until(
        lambda found: place in found,
        lambda: [labels["blocked_at"] for labels, _ in prometheus.ask(samples)],
    )
    assert place in blocked_at


@pytest.mark.skipif(IMPLEMENTATION != "c", reason="on uvloop, the C recorder sees callbacks")
def test_a_loop_of_uvloop_that_is_starved_by_a_protocol_fires(
    prometheus: prometheus_server.Prometheus, root: Path
) -> None:
    """There is no task to blame, but the line is named, as the runbook says."""
    alert = "AsyncioLoopStarvedFastBurn"
    found = prometheus.until(
        lambda fired: "hold" in fired.get(alert, ""), lambda: prometheus.firing("uvloop")
    )
    assert "(callback)" in found[alert]
    samples = re.sub('job="[^"]*"', 'job="uvloop"', runbook(root, alert)[1])
    lines = prometheus.until(bool, lambda: prometheus.ask(samples))
    assert {"hold"} == {labels["blocked_at"].split()[-1] for labels, _ in lines}


def panel_query(root: Path, title: str, job: str) -> str:
    """Return the query of a table of the dashboard of hotspots, as Grafana asks it for one job."""
    board = json.loads((root / "grafana/dashboards/hotspots.json").read_text(encoding="utf-8"))
    (query,) = (
        target["expr"]
        for panel in board["panels"]
        if panel.get("title") == title
        for target in panel["targets"]
    )
    chosen = {"job": job, "instance": ".*", "coroutine": ".*", "topk": "10"}
    for variable, value in {**chosen, "__rate_interval": "5m"}.items():
        query = query.replace(f"${variable}", value)
    return str(query)


def lines_that_hold(
    prometheus: prometheus_server.Prometheus, root: Path, job: str
) -> Callable[[], list[str]]:
    """Return what asks for the functions in the rows of a table, the first of them first."""
    query = panel_query(root, "Which lines hold the loop?", job)

    def ask() -> list[str]:
        rows = sorted(prometheus.ask(query), key=lambda row: -row[1])
        return [labels["held_at"].partition(" > ")[0].split()[-1] for labels, _ in rows]

    return ask


def test_the_first_row_of_the_dashboard_is_the_line_that_holds_the_loop(
    prometheus: prometheus_server.Prometheus, root: Path
) -> None:
    """It is that of a fault of the demo, and that of a protocol of uvloop in the C recorder."""
    guilty = {"Payments.charge_card", "Stock.reserve_stock"}
    rows = lines_that_hold(prometheus, root, "shop")
    assert prometheus.until(lambda names: bool(guilty & {*names[:1]}), rows)[0] in guilty
    if IMPLEMENTATION == "c":
        rows = lines_that_hold(prometheus, root, "uvloop")
        assert ["hold"] == prometheus.until(lambda names: names[:1] == ["hold"], rows)[:1]


def shares(prometheus: prometheus_server.Prometheus) -> dict[str, float]:
    """Return the active share of the loops of each job.

    A late scrape does not matter, since it is late for both states.
    """
    seconds = "sum by (job) (rate(asyncio_loop_time_seconds_total{}[5m]))"
    active = seconds.format("{state='active'}")
    return {
        labels["job"]: share for labels, share in prometheus.ask(f"{active} / {seconds.format('')}")
    }


def test_idle_and_busy_loops_fire_nothing(prometheus: prometheus_server.Prometheus) -> None:
    """No alert fires even after a quarter of an hour, while that of the starved loop still fires.

    If the machine stops the busy loop, the loop really is starved. Then the alert about the machine
    must fire; or, if everything was paused and no thread waited for a CPU, the program itself must
    have noticed a pause.
    """
    prometheus.until(
        lambda found: bool(found) and found[0][1] >= SCRAPES,
        lambda: prometheus.ask("count_over_time(up{job='busy'}[1h])"),
    )
    active = prometheus.until(
        lambda found: found.keys() >= {"idle", "busy"}, lambda: shares(prometheus)
    )
    assert (True, True) == (active["idle"] < 0.1, active["busy"] > 0.75), active
    fired = prometheus.until(
        lambda found: "AsyncioLoopStarvedFastBurn" in found, lambda: prometheus.firing("shop")
    )
    assert "AsyncioLoopStarvedFastBurn" in fired
    assert {} == prometheus.firing("idle")
    busy = prometheus.firing("busy")
    if MACHINE in busy:
        return
    assert set() == busy.keys() - STARVED, busy
    if busy:
        assert prometheus.until(
            bool, lambda: prometheus.ask("increase(stopped_seconds_total{job='busy'}[5m]) > 0")
        ), busy
