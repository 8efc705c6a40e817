"""The starvation alerts on real loops: one that a fault of the demo blocks, one that is idle, and one that is busy and healthy.

A real Prometheus evaluates the repository's rules; only their windows are shorter.
"""

from __future__ import annotations

import inspect
import re
import sys
import urllib.parse
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from support import live

from aiometrics.demo.faults import SYMPTOMS, Fault
from aiometrics.demo.payments import Payments

pytestmark = pytest.mark.once

#: Whatever is asked is asked again until the answer is right or this time is up.
SECONDS = 300
#: An hour of the rules lasts half a minute.
SHORTER = 120
EVERY_MS = 500
#: As many fill every window up to half an hour, and the time for which an alert must last.
SCRAPES = 40
#: What the machine is to blame for, if it has fewer cores than programs that want to run.
MACHINE = "AsyncioLoopThreadStarvedByScheduler"
#: A loop that was stopped for the blocking threshold was starved, whoever stopped it.
STARVED = {
    "AsyncioLoopStarvedFastBurn",
    "AsyncioLoopStarvedSlowBurn",
    "AsyncioLoopStarvedBudgetSpent",
}

IDLE = """
async def main():
    await asyncio.Event().wait()
"""
#: Thousands of tasks a second of some microseconds each, six times as long as the loop sleeps. Between two looks at the clock it does
#: nothing that takes 100 ms by itself: where it took that long, the machine stopped it, and the program counts for how long.
BUSY = """
from prometheus_client import Counter

STOPPED = Counter("stopped_seconds", "Time between two looks at the clock, where it was as long as the blocking threshold.")
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
PROGRAM = """
import asyncio, time
import aiometrics
{main}
print("metrics ", aiometrics.start_exporter(port=0).url, flush=True)
asyncio.run(main())
"""


@pytest.fixture(scope="module")
def prometheus(
    binary: Callable[[str], str], root: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[live.Prometheus]:
    """Prometheus with three targets, the demo with its blocking fault switched on among them."""
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
        "idle": ["-c", PROGRAM.format(main=IDLE)],
        "busy": ["-c", PROGRAM.format(main=BUSY)],
    }
    with ExitStack() as stack:
        targets = {}
        for job, program in programs.items():
            printed = stack.enter_context(
                live.running(sys.executable, *program, announces=["metrics  "])
            )
            targets[job] = urllib.parse.urlsplit(printed.split("metrics  ")[1].split()[0]).netloc
        directory = tmp_path_factory.mktemp("prometheus")
        options = {"seconds": SECONDS, "every_ms": EVERY_MS, "shorter": SHORTER}
        yield stack.enter_context(
            live.prometheus(binary("prometheus"), root, directory, targets, **options)
        )


def runbook(root: Path, alert: str) -> list[str]:
    """The queries of an alert's runbook, for the demo. They look back at more than a test lasts, and so at all of it."""
    text = (root / "docs/runbooks.md").read_text(encoding="utf-8")
    section = text.split(f"\n## {alert}\n")[1].split("\n## ")[0]
    (block,) = re.findall(r"```promql\n(.*?)```", section, re.DOTALL)
    return [re.sub(r',?instance="[^"]*"', "", query) for query in block.splitlines()]


def test_a_starved_loop_fires_and_names_the_function_and_the_line(
    prometheus: live.Prometheus, root: Path
) -> None:
    """The alert's own description says who and where, and so do the queries of its runbook."""
    alert = "AsyncioLoopStarvedFastBurn"
    source, first = inspect.getsourcelines(Payments.charge_card)
    line = first + next(number for number, text in enumerate(source) if "time.sleep(" in text)
    place = f"aiometrics/demo/payments.py:{line} Payments.charge_card"
    owner = re.compile(
        r"RequestHandler\._handle_request at aiometrics/demo/payments.py:\d+ Payments\.charge_card \(\d"
    )

    def told(found: dict[str, str]) -> bool:
        return owner.search(found.get(alert, "")) is not None and place in found[alert]

    fired = prometheus.until(told, lambda: prometheus.firing("shop"))
    assert owner.search(fired[alert]), fired
    # The other one is synchronous sqlite3, which may be as bad on a slow disk.
    held_at = fired[alert].rpartition(" held at ")[2]
    assert held_at == f"{place}." or "Stock.reserve_stock" in held_at, fired
    harm, samples = runbook(root, alert)

    def guilty() -> list[str]:
        return [labels["yield_point"].split()[-1] for labels, _ in prometheus.ask(harm)][
            : len(SYMPTOMS[Fault.BLOCKING].functions)
        ]

    # The first blocks may have nothing ready behind them and do no harm.
    assert "Payments.charge_card" in prometheus.until(
        lambda found: "Payments.charge_card" in found, guilty
    )
    held = prometheus.until(
        lambda found: place in found,
        lambda: [labels["blocked_at"] for labels, _ in prometheus.ask(samples)],
    )
    assert place in held


def shares(prometheus: live.Prometheus) -> dict[str, float]:
    """How much of the time counted so far the loops of each job were active: a late scrape is late for both."""
    seconds = "sum by (job) (rate(asyncio_loop_time_seconds_total{}[5m]))"
    active = seconds.format("{state='active'}")
    return {
        labels["job"]: share for labels, share in prometheus.ask(f"{active} / {seconds.format('')}")
    }


def test_idle_and_busy_loops_fire_nothing(prometheus: live.Prometheus) -> None:
    """Not even when what must last a quarter of an hour has, while the alert of the loop that is starved still fires.

    Where the machine stops the busy loop, it is starved indeed: then the alert that blames the machine must be there, or, where all
    that runs was paused and no thread stood in line for a CPU, the program must have seen a pause itself.
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
