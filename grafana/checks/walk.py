"""Check that the dashboard *Hotspots* leads from each fault of the demo to the line that causes it.

    python -m grafana.checks.walk --prometheus http://127.0.0.1:9090

Needs a Prometheus that has scraped ``python -m aiometrics demo`` with all faults on for two
minutes. For each fault, takes the panel that shows it, sorted by the column about such faults, and
prints what its first row says. Exits 1 if a first row does not name the function or route that is
at fault, or names a line outside the function.
"""

from __future__ import annotations

import argparse
import ast
import json
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from grafana.checks.prometheus import Prometheus, Window, panels
from grafana.generate import ROOT

#: By fault: panel of the hotspots dashboard, number of the column to sort by, label that names what
#: is at fault, and its function or route.
STEPS = {
    "blocking": ("Which yield points do the most harm?", 6, "yield_point", "charge_card"),
    "blocking, by route": ("Which requests take the loop's time?", 2, "request", "POST /checkout"),
    "cpu": ("Which yield points do the most harm?", 3, "yield_point", "rank_results"),
    "tiny": ("Which code yields too often?", 0, "yield_point", "write_rows"),
    "slow": ("Where do tasks wait longest?", 0, "yield_point", "acquire"),
    "slow, by route": (
        "Which requests miss their objective?",
        0,
        "request",
        "GET /orders/{number}",
    ),
    "stuck": ("Which await is stuck?", 0, "yield_point", "wait_for_confirmation"),
    "failing": (
        "Which tasks fail, or are destroyed while pending?",
        0,
        "coroutine",
        "send_receipt",
    ),
    "failing, cancelled": (
        "Which tasks fail, or are destroyed while pending?",
        1,
        "coroutine",
        "ask_warehouse",
    ),
}
PLACE = re.compile(r"(?P<file>\S+\.py):(?P<line>\d+) (?P<name>\S+)")


@dataclass(frozen=True, slots=True)
class Found:
    """The first row of a panel."""

    panel: str
    row: str
    value: float

    def names(self, function: str) -> bool:
        """Whether the row names ``function`` and, if it names a line, one inside the function."""
        if self.row.split(".")[-1] != function:
            return False
        place = PLACE.fullmatch(self.row)
        return place is None or int(place["line"]) in lines_of(place["file"], function)


def lines_of(file: str, function: str) -> range:
    """Return the lines of ``function`` in ``file``, a path in the checkout; empty if not found."""
    for node in ast.walk(ast.parse((ROOT / file).read_text())):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name == function:
            return range(node.lineno, (node.end_lineno or node.lineno) + 1)
    return range(0)


def first_row(
    server: Prometheus, window: Window, panel: Mapping[str, Any], query: int, label: str
) -> Found:
    """Return the row with the largest value: the value now, or the mean over the window."""
    result = server.ask(panel["targets"][query], window, {})["result"]
    if not result:
        return Found(panel["title"], "no data", 0)
    worst = max(result, key=value_of)
    return Found(panel["title"], worst["metric"].get(label, ""), value_of(worst))


def value_of(series: Mapping[str, Any]) -> float:
    """Return the only value of ``series``, or the mean of its values."""
    values = [float(value) for _, value in series.get("values", [series.get("value")])]
    return sum(values) / len(values)


def main() -> int:
    """Check every fault and return the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m grafana.checks.walk",
        description="Check that the dashboard leads from each fault of the demo to its line.",
    )
    parser.add_argument("--prometheus", default="http://127.0.0.1:9090", metavar="URL")
    parser.add_argument("--seconds", type=float, default=120, help="how far back to look")
    parser.add_argument(
        "--end", type=float, default=None, help="Unix time of the right edge (default: now)"
    )
    parser.add_argument("--scrape", type=float, default=5, help="scrape interval in seconds")
    arguments = parser.parse_args()
    end = arguments.end or time.time()
    window = Window(end - arguments.seconds, end, arguments.scrape)
    board = json.loads((ROOT / "grafana/dashboards/hotspots.json").read_text())
    by_title = {panel["title"]: panel for panel in panels(board)}
    wrong = 0
    for fault, (title, query, label, function) in STEPS.items():
        found = first_row(
            Prometheus(arguments.prometheus.rstrip("/")), window, by_title[title], query, label
        )
        right = found.names(function)
        wrong += not right
        print(
            f"{'right' if right else 'WRONG'}  {fault:18}  {found.panel:48}  {found.row} "
            f"({found.value:.3g})"
        )
    return 1 if wrong else 0


if __name__ == "__main__":
    raise SystemExit(main())
