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

import live
import pytest

from aiometrics.demo.faults import SYMPTOMS, Fault
from aiometrics.demo.payments import Payments

pytestmark = pytest.mark.once

SECONDS = 60
#: An hour of the rules lasts half a minute.
SHORTER = 120
EVERY_MS = 500
#: As many fill every window up to half an hour, and the time for which an alert must last.
SCRAPES = 40
#: What the machine is to blame for, if it has fewer cores than programs that want to run.
MACHINE = "AsyncioLoopThreadStarvedByScheduler"

IDLE = """
async def main():
    await asyncio.Event().wait()
"""
#: Thousands of tasks a second of some microseconds each, six times as long as the loop then sleeps.
BUSY = """
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
    since = time.perf_counter()
    while True:
        await asyncio.sleep(0.002)
        now = time.perf_counter()
        ends = now + 6 * (now - since)
        while (since := time.perf_counter()) < ends:
            await asyncio.gather(*(make() for make in (red, green, blue) * 20))
"""
PROGRAM = """
import asyncio, time
import aiometrics
{main}
print("metrics ", aiometrics.start_exporter(port=0).url, flush=True)
asyncio.run(main())
"""


@pytest.fixture(scope="module")
def prometheus(binary: Callable[[str], str], root: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[live.Prometheus]:
    """Prometheus with three targets, the demo with its blocking fault switched on among them."""
    programs = {
        "shop": ["-m", "aiometrics", "demo", "--port", "0", "--every", "3600", "--faults", "blocking"],
        "idle": ["-c", PROGRAM.format(main=IDLE)],
        "busy": ["-c", PROGRAM.format(main=BUSY)],
    }
    with ExitStack() as stack:
        targets = {}
        for job, program in programs.items():
            printed = stack.enter_context(live.running(sys.executable, *program, announces=["metrics  "]))
            targets[job] = urllib.parse.urlsplit(printed.split("metrics  ")[1].split()[0]).netloc
        directory = tmp_path_factory.mktemp("prometheus")
        options = {"seconds": SECONDS, "every_ms": EVERY_MS, "shorter": SHORTER}
        yield stack.enter_context(live.prometheus(binary("prometheus"), root, directory, targets, **options))


def runbook(root: Path, alert: str) -> list[str]:
    """The queries of an alert's runbook, for the demo, with windows as short as the rules'."""
    text = (root / "docs/runbooks.md").read_text(encoding="utf-8")
    section = text.split(f"\n## {alert}\n")[1].split("\n## ")[0]
    (block,) = re.findall(r"```promql\n(.*?)```", section, re.DOTALL)
    return [live.shortened(re.sub(r',?instance="[^"]*"', "", query), SHORTER) for query in block.splitlines()]


def test_a_starved_loop_fires_and_names_the_function_and_the_line(prometheus: live.Prometheus, root: Path) -> None:
    """The alert's own description says who and where, and so do the queries of its runbook."""
    alert = "AsyncioLoopStarvedFastBurn"
    source, first = inspect.getsourcelines(Payments.charge_card)
    line = first + next(number for number, text in enumerate(source) if "time.sleep(" in text)
    place = f"aiometrics/demo/payments.py:{line} Payments.charge_card"
    owner = re.compile(r"RequestHandler\._handle_request at aiometrics/demo/payments.py:\d+ Payments\.charge_card \(\d")

    def told(found: dict[str, str]) -> bool:
        return owner.search(found.get(alert, "")) is not None and place in found[alert]

    fired = prometheus.until(told, lambda: prometheus.firing("shop"))
    assert owner.search(fired[alert]), fired
    # The other one is synchronous sqlite3, which may be as bad on a slow disk.
    held_at = fired[alert].rpartition(" held at ")[2]
    assert held_at == f"{place}." or "Stock.reserve_stock" in held_at, fired
    harm, samples = (prometheus.ask(query) for query in runbook(root, alert))
    guilty = [labels["yield_point"].split()[-1] for labels, _ in harm][: len(SYMPTOMS[Fault.BLOCKING].functions)]
    assert "Payments.charge_card" in guilty
    assert place in [labels["blocked_at"] for labels, _ in samples]


def shares(prometheus: live.Prometheus) -> dict[str, float]:
    """How much of the time the loops of each job are active."""
    return {labels["job"]: share for labels, share in prometheus.ask("job:asyncio_loop_active_seconds:avg_rate5m")}


def test_idle_and_busy_loops_fire_nothing(prometheus: live.Prometheus) -> None:
    """Not even when what must last a quarter of an hour has, while the alert of the loop that is starved still fires.

    Where the machine has no CPU left for the busy loop, it is starved indeed: then the alert that blames the machine must be there.
    """
    prometheus.until(lambda found: bool(found) and found[0][1] >= SCRAPES, lambda: prometheus.ask("count_over_time(up{job='busy'}[1h])"))
    active = prometheus.until(lambda found: found.keys() >= {"idle", "busy"}, lambda: shares(prometheus))
    assert (True, True) == (active["idle"] < 0.1, active["busy"] > 0.75), active
    assert "AsyncioLoopStarvedFastBurn" in prometheus.firing("shop")
    assert {} == prometheus.firing("idle")
    busy = prometheus.firing("busy")
    assert {} == busy or MACHINE in busy
