"""Each fault of the demo, as a real Prometheus shows it: the dashboard's first row and an alert.

Both name the line. The rules are the repository's; only their windows are shorter, and so is the
age from which on a wait may be stuck.
"""

from __future__ import annotations

import json
import re
import sys
import threading
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from support import prometheus_server

from aiometrics import demo
from aiometrics.demo.faults import SYMPTOMS, Fault

pytestmark = pytest.mark.once

#: Queries are repeated until the answer is right or this time is up.
SECONDS = 180
#: Durations in the rules are divided by this, so that five minutes last five seconds.
SHORTER = 60
EVERY_MS = 1_000
#: A place in the demo.
PLACE = re.compile(r"aiometrics/demo/(\w+\.py):(\d+) ")
LINES = "Which lines hold the loop?"


class Shown(NamedTuple):
    """Where a fault is shown: by which alert, and in the first row of which panel.

    A ``line`` of the fault has one of these texts. Under the load of the demo alone some faults are
    harmless, or take long to show: those are ``pressed`` by the requests of more clients.
    """

    alert: str
    panel: str
    line: tuple[str, ...]
    pressed: tuple[str, str] | None = None
    clients: int = 1
    #: The panel has a row for each coroutine.
    of_coroutines: bool = False


SHOWN = {
    Fault.CPU: Shown(
        "AsyncioHotYieldPoint", LINES, ("get_close_matches(",), ("GET", "/search?q=gren+woven+lmap")
    ),
    Fault.BLOCKING: Shown(
        "AsyncioLoopStarvedFastBurn", LINES, ("time.sleep(charge", "_database.execute(")
    ),
    Fault.SLOW: Shown(
        "AsyncioRequestObjectiveFastBurn",
        "Where do tasks wait longest?",
        ("_free.acquire()",),
        ("GET", "/orders/7"),
        clients=20,
    ),
    Fault.STUCK: Shown(
        "AsyncioAwaitStuck", "Which await is stuck?", ("await confirmed",), ("POST", "/checkout")
    ),
    Fault.FAILING: Shown(
        "AsyncioTaskFailures",
        "Which tasks fail, or are destroyed while pending?",
        ("asyncio.sleep(mail",),
        ("POST", "/checkout"),
        of_coroutines=True,
    ),
    Fault.TINY: Shown(
        "AsyncioRequestObjectiveFastBurn",
        "Which code yields too often?",
        ("asyncio.sleep(0)",),
        ("GET", "/export"),
        clients=200,
    ),
}


@contextmanager
def pressed(clients: int, url: str, method: str) -> Iterator[None]:
    """Let clients send one request after the other while the block lasts."""
    over = threading.Event()

    def press() -> None:
        while not over.is_set():
            request = urllib.request.Request(url, method=method)  # noqa: S310 - to itself
            with urllib.request.urlopen(request, timeout=300) as answer:  # noqa: S310
                answer.read()

    threads = [threading.Thread(target=press) for _ in range(clients)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        over.set()
        for thread in threads:
            thread.join()


@pytest.fixture(params=SHOWN, ids=str)
def fault(request: pytest.FixtureRequest) -> Fault:
    """A fault of the demo."""
    return Fault(request.param)


@pytest.fixture
def prometheus(
    fault: Fault, binary: Callable[..., str], root: Path, tmp_path: Path
) -> Iterator[prometheus_server.Prometheus]:
    """Return a Prometheus that scrapes a shop with the fault."""
    command = (sys.executable, "-m", "aiometrics", "demo", "--faults", fault, "--port", "0")
    options: Any = {
        "seconds": SECONDS,
        "every_ms": EVERY_MS,
        "shorter": SHORTER,
        "stuck_seconds": 5,
    }
    with ExitStack() as stack:
        words = stack.enter_context(
            prometheus_server.running(*command, "--every", "3600", announces=["metrics  "])
        ).split()
        shop, metrics = (words[words.index(name) + 1] for name in ("shop", "metrics"))
        if (press := SHOWN[fault].pressed) is not None:
            method, path = press
            stack.enter_context(pressed(SHOWN[fault].clients, shop + path, method))
        targets = {str(fault): urllib.parse.urlsplit(metrics).netloc}
        program = binary("prometheus", "/opt/debian-forky/bin")
        yield stack.enter_context(
            prometheus_server.run_prometheus(program, root, tmp_path, targets, **options)
        )


def names_line(text: str, fault: Fault) -> bool:
    """Whether a text names a line of a fault."""
    for file, number in PLACE.findall(text):
        lines = Path(demo.__file__).with_name(file).read_text(encoding="utf-8").splitlines()
        if any(part in lines[int(number) - 1] for part in SHOWN[fault].line):
            return True
    return False


def is_shown(fault: Fault, row: str, alert: str) -> bool:
    """Whether the first row of the panel and the text of the alert name the line of a fault."""
    if SHOWN[fault].of_coroutines:
        return row.endswith(SYMPTOMS[fault].functions) and names_line(alert, fault)
    return names_line(row, fault) and names_line(alert, fault)


def first_row(prometheus: prometheus_server.Prometheus, root: Path, fault: Fault) -> str:
    """Return the labels of the row with the largest value in the panel, as Grafana would ask."""
    board = json.loads((root / "grafana/dashboards/hotspots.json").read_text(encoding="utf-8"))
    (panel,) = (one for one in board["panels"] if one.get("title") == SHOWN[fault].panel)
    query = panel["targets"][0]["expr"]
    chosen = {"job": fault, "topk": "10", "__rate_interval": "5s", "__range": "10s"}
    for variable, value in {"instance": ".*", "coroutine": ".*", **chosen}.items():
        query = query.replace(f"${variable}", value)
    return next((" ".join(labels.values()) for labels, _ in prometheus.ask(query)), "")


def test_the_dashboard_and_an_alert_name_the_line(
    fault: Fault, prometheus: prometheus_server.Prometheus, root: Path
) -> None:
    """It is the first row, and it stands in the text of the alert."""

    def texts() -> tuple[str, str]:
        alerts = prometheus.firing(fault)
        return first_row(prometheus, root, fault), alerts.get(SHOWN[fault].alert, "")

    row, alert = prometheus.until(lambda found: is_shown(fault, *found), texts)
    assert is_shown(fault, row, alert), (row, alert)
