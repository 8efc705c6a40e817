"""Draw a preview of a dashboard from real query results, without Grafana.

    python -m grafana.preview hotspots --prometheus http://127.0.0.1:9090 --out docs/hotspots.png

Draws every panel in its place and takes a picture with headless Chromium. With a name that ends in
.html it writes the HTML instead.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import tempfile
import time
from collections.abc import Mapping
from html import escape
from pathlib import Path
from typing import Any

from grafana.checks.prometheus import Prometheus, Window, fill
from grafana.generate import DASHBOARDS, ROOT
from grafana.preview.drawing import Line, Size, big_number, chart, heat, ranking, stripes

COLUMN, ROW, GAP, TITLE = 75, 38, 8, 26
STYLE = """
body { background: #111217; color: #ccccdc; margin: 0; width: 1816px; }
body { font: 12px Inter, "DejaVu Sans", sans-serif; }
h1 { font-size: 18px; margin: 12px 8px 2px; }
h1 small { color: #ff9830; border: 1px solid; padding: 1px 8px; margin-left: 12px; }
.board { position: relative; }
.panel { position: absolute; overflow: hidden; }
.panel { background: #181b1f; border: 1px solid #2c3235; border-radius: 3px; }
.panel h2 { font-size: 13px; font-weight: 500; white-space: nowrap; }
.panel h2 { margin: 0; padding: 5px 8px; height: 16px; }
.row { position: absolute; font-size: 15px; padding: 8px; }
text { fill: #9fa7b3; font-size: 11px; }
.empty { color: #8e8e8e; text-align: center; padding-top: 50px; }
.number { display: flex; flex-direction: column; justify-content: flex-end; }
.number b { font-size: 30px; text-align: center; color: #fff; }
.chart.beside { display: flex; }
.legend { border-spacing: 0; font-size: 11px; width: 100%; }
.chart.beside .legend { width: 610px; height: 1px; }
.legend td, .legend th { padding: 0 6px; height: 17px; text-align: right; white-space: nowrap; }
.legend td:first-child { text-align: left; max-width: 470px; }
.legend td:first-child { overflow: hidden; text-overflow: ellipsis; }
.legend i { display: inline-block; width: 14px; height: 4px; }
.legend i { margin-right: 6px; vertical-align: middle; }
.rows { width: 100%; border-collapse: collapse; }
.rows th { text-align: left; color: #6e9fff; padding: 4px 8px; font-weight: 500; }
.rows td { border-top: 1px solid #2c3235; padding: 4px 8px; }
.rows .n { text-align: right; width: 90px; }
.rows td.n { color: #fff; }
.bar { width: 170px; white-space: nowrap; }
.bar span { display: inline-block; height: 14px; margin-right: 6px; vertical-align: middle; }
"""


def lines_of(
    panel: Mapping[str, Any], server: Prometheus, window: Window, variables: Mapping[str, str]
) -> list[Line]:
    """Return the series that the range queries of ``panel`` return."""
    found = []
    for target in panel["targets"]:
        for series in server.ask(target, window, variables)["result"]:
            times, values = zip(
                *((at, float(value)) for at, value in series["values"]), strict=True
            )
            found.append(
                Line(named(target.get("legendFormat", ""), series["metric"]), times, values)
            )
    return found


def named(legend: str, labels: Mapping[str, str]) -> str:
    """Return ``legend`` with every ``{{label}}`` replaced."""
    return fill(legend.replace("{{", "${").replace("}}", "}"), labels)


def drawn(
    panel: Mapping[str, Any],
    server: Prometheus,
    window: Window,
    variables: Mapping[str, str],
    size: Size,
) -> str:
    """Return the HTML of the content of ``panel``."""
    if panel["type"] == "table":
        return ranking(
            panel,
            [server.ask(target, window, variables)["result"] for target in panel["targets"]],
            size,
        )
    lines = lines_of(panel, server, window, variables)
    span = (window.start, window.end)
    if panel["type"] == "stat":
        return big_number(panel, lines, size)
    if not lines:
        return '<p class="empty">no data</p>'
    draw = {"timeseries": chart, "heatmap": heat, "status-history": stripes}[panel["type"]]
    return draw(panel, lines, size, span)


def page(
    board: Mapping[str, Any], server: Prometheus, window: Window, variables: Mapping[str, str]
) -> tuple[str, Size]:
    """Return the HTML of the whole dashboard and its size; collapsed rows stay closed."""
    parts, bottom = [], 0
    for panel in board["panels"]:
        grid = panel["gridPos"]
        left, top, wide, tall = (
            grid["x"] * COLUMN + GAP,
            grid["y"] * ROW,
            grid["w"] * COLUMN - GAP,
            grid["h"] * ROW - GAP,
        )
        bottom = max(bottom, top + tall)
        where = f"left:{left}px;top:{top}px;width:{wide}px;height:{tall}px"
        title = escape(panel["title"])
        if panel["type"] == "row":
            parts.append(f'<div class="row" style="{where}">⌄ {title}</div>')
            continue
        inside = drawn(panel, server, window, variables, Size(wide, tall - TITLE - 4))
        parts.append(f'<div class="panel" style="{where}"><h2>{title}</h2>{inside}</div>')
    head = f"<h1>{escape(board['title'])} <small>preview, not Grafana</small></h1>"
    document = f'<!doctype html><meta charset="utf-8"><style>{STYLE}</style>{head}'
    body = f'<div class="board">{"".join(parts)}</div>'
    return document + body, Size(1816, bottom + 50)


def photograph(html: str, size: Size, out: Path) -> None:
    """Write a PNG of ``html``; raise FileNotFoundError if Chromium is not installed."""
    chromium = shutil.which("chromium")
    if chromium is None:
        raise FileNotFoundError(
            "no chromium on the PATH: install it (Debian: apt-get install chromium), or give --out "
            "a name that ends in .html"
        )
    with tempfile.TemporaryDirectory() as directory:
        source = Path(directory, "page.html")
        source.write_text(html)
        subprocess.run(
            [
                chromium,
                *(
                    "--headless",
                    "--no-sandbox",
                    "--disable-gpu",
                    "--disable-background-networking",
                    "--hide-scrollbars",
                ),
                f"--user-data-dir={directory}/profile",
                f"--window-size={size.width},{size.height}",
                f"--screenshot={out.resolve()}",
                source.as_uri(),
            ],
            check=True,
            capture_output=True,
        )


def main() -> None:
    """Draw one dashboard."""
    parser = argparse.ArgumentParser(
        prog="python -m grafana.preview", description="Draw a dashboard from real query results."
    )
    parser.add_argument("board", choices=sorted(DASHBOARDS))
    parser.add_argument("--prometheus", default="http://127.0.0.1:9090", metavar="URL")
    parser.add_argument("--out", type=Path, required=True, help="a .png or .html file")
    parser.add_argument("--seconds", type=float, default=300, help="how far back to look")
    parser.add_argument(
        "--end", type=float, default=None, help="Unix time of the right edge (default: now)"
    )
    parser.add_argument("--scrape", type=float, default=5, help="scrape interval in seconds")
    parser.add_argument(
        "--instance",
        default=".*",
        help="a regular expression; all instances are read from the recording rules",
    )
    arguments = parser.parse_args()
    end = arguments.end or time.time()
    board = json.loads((ROOT / f"grafana/dashboards/{arguments.board}.json").read_text())
    window = Window(end - arguments.seconds, end, arguments.scrape)
    html, size = page(
        board,
        Prometheus(arguments.prometheus.rstrip("/")),
        window,
        {"instance": arguments.instance},
    )
    if arguments.out.suffix == ".html":
        arguments.out.write_text(html)
    else:
        photograph(html, size, arguments.out)


if __name__ == "__main__":
    main()
