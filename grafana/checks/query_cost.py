"""Measure what each panel costs a Prometheus with a large fleet: series, samples and seconds.

    python -m grafana.checks.query_cost --instances 200 --points 500

Starts a Prometheus (found on the PATH) with the project's rules in a temporary directory, and fills
it with half an hour of a simulated fleet. Then it evaluates every recording rule once, at the end
of that half hour, stores the results, and runs the queries of every panel, one after another.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from grafana.checks.prometheus import Prometheus, Window, fill, panels
from grafana.checks.simulation import (
    RECORDED,
    SCRAPE_SECONDS,
    Fleet,
    course,
    point_labels,
    series,
    write,
)
from grafana.generate import DASHBOARDS, ROOT

HISTORY_SECONDS = 1800
SELECTOR = re.compile(r"[a-zA-Z_:][\w:]*\{[^}]*\}")


@dataclass(frozen=True, slots=True)
class Cost:
    """Totals of one panel's queries.

    ``series`` were selected, ``samples`` loaded, and ``seconds`` passed until the last result.
    """

    board: str
    panel: str
    series: int
    samples: int
    seconds: float


@contextmanager
def prometheus(port: int) -> Iterator[tuple[Prometheus, subprocess.Popen[bytes]]]:
    """Run a Prometheus that scrapes nothing and has the project's rules, but never evaluates them.

    Raises FileNotFoundError if there is no binary.
    """
    binary = shutil.which("prometheus")
    if binary is None:
        raise FileNotFoundError(
            "no prometheus on the PATH: install it (Debian: apt-get install prometheus)"
        )
    with tempfile.TemporaryDirectory() as directory:
        for path in (ROOT / "rules").glob("*.yml"):
            Path(directory, path.name).write_text(
                re.sub(r"^ +interval: .*\n", "", path.read_text(), flags=re.MULTILINE)
            )
        configuration = Path(directory, "prometheus.yml")
        configuration.write_text(
            "global: {evaluation_interval: 1d}\nrule_files: [aiometrics.*.yml]\n"
        )
        process = subprocess.Popen(
            [
                binary,
                f"--config.file={configuration}",
                f"--storage.tsdb.path={directory}/data",
                f"--web.listen-address=127.0.0.1:{port}",
                "--web.enable-remote-write-receiver",
                "--log.level=warn",
            ]
        )
        try:
            server = Prometheus(f"http://127.0.0.1:{port}")
            await_readiness(server)
            yield server, process
        finally:
            process.terminate()
            process.wait()


def await_readiness(server: Prometheus) -> None:
    """Wait until ``server`` answers; raise TimeoutError after half a minute."""
    for _ in range(60):
        try:
            with urllib.request.urlopen(f"{server.url}/-/ready", timeout=5):  # noqa: S310 - our own server
                return
        except (urllib.error.URLError, ConnectionError):
            time.sleep(0.5)
    raise TimeoutError(f"{server.url} is not ready after 30 s: is its port taken?")


def record(server: Prometheus, at: int) -> Iterator[tuple[str, int, float]]:
    """Evaluate the recording rules at ``at`` and store their results for the whole half hour.

    Yields the name of each rule, the number of its series and the seconds that it took.
    """
    for group in server.get("rules", type="record")["groups"]:
        for rule in group["rules"]:
            begun = time.perf_counter()
            found = server.get("query", query=rule["query"], time=at)["result"]
            seconds = time.perf_counter() - begun
            labels = [{**one["metric"], "__name__": rule["name"]} for one in found]
            times = (
                [at * 1000]
                if rule["name"] in RECORDED
                else range((at - HISTORY_SECONDS) * 1000, at * 1000 + 1, SCRAPE_SECONDS * 1000)
            )
            samples = [course(times, [float(one["value"][1])] * len(times)) for one in found]
            write(server.url, map(series, labels, samples))
            yield rule["name"], len(found), seconds


def costs(server: Prometheus, window: Window) -> Iterator[Cost]:
    """Yield the cost of every panel.

    The dashboard of a coroutine is opened for one coroutine, all others for the whole fleet.
    """
    for name in DASHBOARDS:
        board = json.loads((ROOT / f"grafana/dashboards/{name}.json").read_text())
        variables = {"coroutine": point_labels(0)["coroutine"]} if name == "coroutine" else {}
        for panel in panels(board):
            yield panel_cost(server, window, variables, name, panel)


def panel_cost(
    server: Prometheus, window: Window, variables: dict[str, str], board: str, panel: dict[str, Any]
) -> Cost:
    """Run the queries of one panel and return what they cost."""
    selectors = {
        fill(selector, variables)
        for target in panel["targets"]
        for selector in SELECTOR.findall(target["expr"])
    }
    series = sum(count(server, selector, window.end) for selector in selectors)
    samples = 0
    begun = time.perf_counter()
    for target in panel["targets"]:
        samples += server.ask(target, window, variables, stats="all")["stats"]["samples"][
            "totalQueryableSamples"
        ]
    return Cost(board, panel["title"], series, samples, time.perf_counter() - begun)


def count(server: Prometheus, selector: str, at: float) -> int:
    """Return the number of series that ``selector`` matches."""
    found = server.get("query", query=f"count({selector})", time=at)["result"]
    return int(found[0]["value"][1]) if found else 0


def resident_bytes(process: subprocess.Popen[bytes]) -> int:
    """Return the resident memory of ``process`` in bytes."""
    status = Path(f"/proc/{process.pid}/status").read_text()
    return int(status.split("VmRSS:")[1].split()[0]) * 1024


def main() -> None:
    """Print a line for each rule and each panel."""
    parser = argparse.ArgumentParser(
        prog="python -m grafana.checks.query_cost",
        description="Measure what each panel costs Prometheus.",
    )
    parser.add_argument("--instances", type=int, default=200)
    parser.add_argument("--points", type=int, default=500, help="yield points of each instance")
    parser.add_argument("--port", type=int, default=19099)
    arguments = parser.parse_args()
    now = int(time.time()) // SCRAPE_SECONDS * SCRAPE_SECONDS
    fleet = Fleet(arguments.instances, arguments.points, now - HISTORY_SECONDS, now)
    with prometheus(arguments.port) as (server, process):
        written = write(server.url, fleet.all_series())
        print(
            f"{written} series, {resident_bytes(process) / 2**30:.1f} GiB, written in "
            f"{time.time() - now:.0f} s",
            flush=True,
        )
        for name, recorded, seconds in record(server, now):
            print(f"{seconds:7.2f} s {recorded:8} series recorded  {name}", flush=True)
        window = Window(now - HISTORY_SECONDS, now, SCRAPE_SECONDS)
        for cost in costs(server, window):
            print(
                f"{cost.seconds:7.2f} s {cost.series:8} series {cost.samples:10} samples  "
                f"{cost.board}: {cost.panel}",
                flush=True,
            )


if __name__ == "__main__":
    main()
