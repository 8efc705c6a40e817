"""The preview of dashboards and the simulated fleet, with a server that answers like Prometheus."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest

ROOT = Path(__file__).resolve().parents[2]
LABELS = {
    "job": "shop",
    "instance": "a:1",
    "loop": "MainThread",
    "coroutine": "shop.handle",
    "awaits": "asyncio.sleep",
    "le": "0.5",
}


class Answers(BaseHTTPRequestHandler):
    """Answers every query with two series: a guilty one at 3 and an innocent one at 1."""

    def do_GET(self) -> None:
        """Answer an instant or a range query."""
        asked = parse_qs(urlsplit(self.path).query)
        instant = "time" in asked
        start, end = (
            float(asked[name][0]) for name in (("time", "time") if instant else ("start", "end"))
        )
        result = [
            {
                "metric": LABELS | {"yield_point": name},
                **(
                    {"value": [end, value]}
                    if instant
                    else {"values": [[start, value], [(start + end) / 2, "NaN"], [end, value]]}
                ),
            }
            for name, value in (("shop.py:1 innocent", "1"), ("shop.py:2 <guilty>", "3"))
        ]
        body = json.dumps({"data": {"result": result}}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Log nothing."""


@pytest.fixture
def server() -> Iterator[str]:
    """Return the address of a server that answers every query."""
    with ThreadingHTTPServer(("127.0.0.1", 0), Answers) as listening:
        thread = threading.Thread(target=listening.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{listening.server_port}"
        listening.shutdown()
        thread.join()


@pytest.mark.parametrize("name", ["hotspots", "event-loop", "coroutine", "fleet"])
def test_preview_draws_every_panel_with_the_worst_row_first(
    name: str, server: str, tmp_path: Path
) -> None:
    """Every panel of an open row is drawn, markup in labels is escaped, and tables are sorted."""
    out = tmp_path / "page.html"
    subprocess.run(
        [
            sys.executable,
            "-m",
            "grafana.preview",
            name,
            "--prometheus",
            server,
            "--out",
            out,
            "--end",
            "1000",
        ],
        cwd=ROOT,
        check=True,
    )
    page = out.read_text(encoding="utf-8")
    board = json.loads((ROOT / f"grafana/dashboards/{name}.json").read_text(encoding="utf-8"))
    assert [] == [
        panel["title"]
        for panel in board["panels"]
        if panel["title"].replace("'", "&#x27;") not in page
    ]
    assert "preview, not Grafana" in page
    assert "no data" not in page
    assert "<guilty>" not in page
    assert 0 < page.index("shop.py:2 &lt;guilty&gt;") < page.index("shop.py:1 innocent")


def test_numbers_are_written_as_grafana_writes_them() -> None:
    """A number has three significant digits, in the largest scale of the unit that it reaches."""
    code = (
        "from grafana.parts.units import written;print([written(*a) for a in [(0.12345, 's'), "
        "(90, 's'), (0, 's'), (2e-7, 's'), (0.98765, 'percentunit'), (2412, 'short'), (12, "
        "'short'), (0.5, 'cps'), (float('nan'), 's'), (120, 'percentunit')]])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert (
        "['123 ms', '1.5 min', '0 s', '200 ns', '98.8%', '2.41 K', '12', '0.5 c/s', '-', '12000%']"
        == done.stdout.strip()
    )


def test_remote_write_message_is_what_prometheus_reads() -> None:
    """Labels are sorted, values little-endian, milliseconds varints, and all is Snappy literals."""
    code = (
        "from grafana.checks.simulation import course, series, snappy;"
        "message = series({'a': 'b', '__name__': 'up'}, course([300], [1.0]));"
        "print(message.hex()); print(snappy(message).hex())"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    labels = "0a0e" + "0a085f5f6e616d655f5f" + "12027570" + "0a06" + "0a0161" + "120162"
    sample = "120c" + "09000000000000f03f" + "10ac02"
    message = "0a26" + labels + sample
    assert [message, "28" + "f4" + "2700" + message] == done.stdout.split()


def test_it_says_what_to_install_where_the_sdk_is_missing(root: Path) -> None:
    """Not everybody who draws a board has installed what dashboards are made with."""
    program = (
        "import sys; sys.modules['grafana_foundation_sdk'] = None; "
        "import runpy; runpy.run_module('grafana.preview', run_name='__main__')"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=root, capture_output=True, text=True, check=False
    )
    assert 1 == done.returncode
    assert "pip install --group dashboards" in done.stderr
    assert "Traceback" not in done.stderr
