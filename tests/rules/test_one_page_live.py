"""One fault sends one page, by a real Prometheus with our rules and a real Alertmanager."""

from __future__ import annotations

import json
import subprocess
import threading
import time
import urllib.request
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import requests
import yaml
from support import prometheus_server

pytestmark = pytest.mark.once

#: Queries are repeated until the answer is right or this time is up.
SECONDS = 240
#: Alerts wait this many times shorter than in the rules until they fire; windows are as they are.
PATIENCE = 300
HOUR = 3600
#: Name, labels and value, given the seconds since the fault began, of the series of a fault.
Series = tuple[str, Mapping[str, str], Callable[[float], float]]

LOOP = {"loop": "MainThread"}
UP: Series = ("up", {}, lambda _: 1)
KIN = {"coroutine": "shop.pay", "yield_point": "shop.py:7 pay", "awaits": "asyncpg.Pool.acquire"}
RATE = "job_request:asyncio_request_{}:rate5m"


def blocked(share: float) -> list[Series]:
    """A loop is blocked for a share of the time."""
    return [UP, ("asyncio_loop_blocking_seconds_total", LOOP, lambda since: share * since)]


def late(share: float) -> list[Series]:
    """A share of ten requests a second misses its objective."""
    labels = {"request": "GET /"}
    return [
        UP,
        (RATE.format("wall_seconds_count"), labels, lambda _: 10),
        (RATE.format("objective_violations"), labels, lambda _: 10 * share),
    ]


def hung(began: float) -> list[Series]:
    """A loop has not turned since then."""
    return [*blocked(1), ("asyncio_loop_heartbeat_timestamp_seconds", LOOP, lambda _: began)]


def stuck(began: float) -> list[Series]:
    """A task waits for what others get in a moment."""
    return [
        UP,
        ("asyncio_oldest_suspension_timestamp_seconds", KIN, lambda _: began),
        ("asyncio_wait_seconds_sum", KIN, lambda _: 2),
        ("asyncio_wait_seconds_count", KIN, lambda _: 1000),
        ("asyncio_wait_max_seconds", KIN, lambda _: 0.5),
    ]


def gone() -> list[Series]:
    """There was an exporter."""
    return [("job:aiometrics_build_info:count", {}, lambda _: 1)]


#: By fault: how long ago it began, its series, and the alerts that fire; the first is sent.
Faults = dict[str, tuple[float, list[Series], list[str]]]
STARVED = [f"AsyncioLoopStarved{burn}" for burn in ("FastBurn", "SlowBurn", "BudgetSpent")]
LATE = [f"AsyncioRequestObjective{burn}" for burn in ("FastBurn", "SlowBurn", "BudgetSpent")]
#: The worst alerts that page somebody; the others open a ticket.
PAGES = {*STARVED[:2], *LATE[:2], "AsyncioLoopHung"}


def faults(now: float) -> Faults:
    """All faults, as they are at this moment."""
    return {
        "blocked": (1200, blocked(0.3), STARVED),
        "blocked for hours": (12 * HOUR, blocked(0.008), STARVED[1:]),
        "late": (400, late(0.5), LATE),
        "late for hours": (12 * HOUR, late(0.08), LATE[1:]),
        "hung": (1200, hung(now - 1200), ["AsyncioLoopHung", *STARVED]),
        "stuck": (600, stuck(now - 600), ["AsyncioAwaitStuck"]),
        "gone": (600, gone(), ["AsyncioExporterDown", "AsyncioExporterAbsent"]),
        "no longer known": (600, gone(), ["AsyncioExporterAbsent"]),
    }


def history(known: Faults, now: float) -> str:
    """The series that Prometheus would have stored of the faults until now."""
    samples = defaultdict(list)
    for job, (seconds, series, _) in known.items():
        step = 15 if seconds < HOUR else 60
        end = now - 330 if series[0][0].endswith("info:count") else now
        for name, labels, value in series:
            target = {"job": job} if name.startswith("job") else {"job": job, "instance": "a:9400"}
            text = ",".join(f'{key}="{text}"' for key, text in {**target, **labels}.items())
            at = now - seconds
            while at <= end:
                samples[name].append(f"{name}{{{text}}} {value(at - now + seconds)} {at:.3f}\n")
                at += step
    return "".join(line for lines in samples.values() for line in lines) + "# EOF\n"


class Receiver(ThreadingHTTPServer):
    """Keeps the alerts that Alertmanager sends, by job, and the groups as which it does."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.sent: defaultdict[str, list[str]] = defaultdict(list)
        self.pages: defaultdict[str, set[str]] = defaultdict(set)


class _Handler(BaseHTTPRequestHandler):
    server: Receiver

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        for alert in body["alerts"]:
            job = alert["labels"]["job"]
            if body["receiver"] == "page":
                self.server.pages[job].add(body["groupKey"])
            # Last, since a test goes on as soon as it sees this.
            self.server.sent[job].append(alert["labels"]["alertname"])
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Print nothing."""


@contextmanager
def receiving() -> Iterator[Receiver]:
    """Run a receiver of alerts."""
    with Receiver() as receiver:
        thread = threading.Thread(target=receiver.serve_forever)
        thread.start()
        yield receiver
        receiver.shutdown()
        thread.join()


@contextmanager
def run_alertmanager(
    program: str, root: Path, directory: Path, receiver: Receiver, group_wait: str
) -> Iterator[str]:
    """Run Alertmanager with our inhibitions and give its address; it sends to the receiver."""
    text = (root / "deploy/alertmanager/alertmanager.yml").read_text(encoding="utf-8")
    configuration = yaml.safe_load(text)
    configuration["route"] |= {"group_wait": group_wait, "group_interval": "5s"}
    url = f"http://127.0.0.1:{receiver.server_port}/"
    for each in configuration["receivers"]:
        each["webhook_configs"] = [{"url": url, "send_resolved": False}]
    file = directory / "alertmanager.yml"
    file.write_text(yaml.safe_dump(configuration), encoding="utf-8")
    options = (
        f"--config.file={file}",
        f"--storage.path={directory / 'alertmanager'}",
        "--web.listen-address=127.0.0.1:0",
        "--cluster.listen-address=",
    )
    with prometheus_server.running(program, *options, announces=['msg="Listening on"']) as printed:
        yield prometheus_server.listening(printed)


def states(address: str) -> dict[str, dict[str, str]]:
    """The state of each alert that Alertmanager knows, by job and name."""
    url = f"http://{address}/api/v2/alerts"
    with urllib.request.urlopen(url, timeout=60) as answer:
        alerts: list[dict[str, Any]] = json.load(answer)
    found: defaultdict[str, dict[str, str]] = defaultdict(dict)
    for alert in alerts:
        found[alert["labels"]["job"]][alert["labels"]["alertname"]] = alert["status"]["state"]
    return dict(found)


def test_each_fault_sends_one_alert(binary: Callable[..., str], root: Path, tmp_path: Path) -> None:
    """Of all that fire, Alertmanager holds back all but the one that says most, which it sends.

    A ticket of one that fires earlier may have been sent by then, but there is one page at most.
    """
    alertmanager = binary("prometheus-alertmanager")
    now = time.time()
    known = faults(now)
    (tmp_path / "history").write_text(history(known, now), encoding="utf-8")
    backfill = ("tsdb", "create-blocks-from", "openmetrics", "history", "data")
    subprocess.run((binary("promtool"), *backfill), cwd=tmp_path, check=True, capture_output=True)
    firing = {
        job: {name: "suppressed" if place else "active" for place, name in enumerate(alerts)}
        for job, (_, _, alerts) in known.items()
    }
    with (
        receiving() as receiver,
        run_alertmanager(alertmanager, root, tmp_path, receiver, "20s") as address,
        prometheus_server.run_prometheus(
            binary("prometheus"),
            root,
            tmp_path,
            {"gone": "127.0.0.1:1"},
            seconds=SECONDS,
            patience=PATIENCE,
            alertmanager=address,
        ) as prometheus,
    ):
        assert firing == prometheus.until(lambda found: found == firing, lambda: states(address))
        worst = {job: alerts[0] for job, (_, _, alerts) in known.items()}
        sent = prometheus.until(
            lambda sent: all(alert in sent.get(job, ()) for job, alert in worst.items()),
            lambda: dict(receiver.sent),
        )
        assert worst == {job: alert for job, alert in worst.items() if alert in sent[job]}
        pages = {job: len(keys) for job, keys in receiver.pages.items()}
        assert {job: 1 for job, alert in worst.items() if alert in PAGES} == pages


def test_a_cause_that_is_found_later_joins_the_page(
    binary: Callable[..., str], root: Path, tmp_path: Path
) -> None:
    """Requests are late at once; only later their loop was blocked for long enough to tell.

    Receivers take what comes with the same key for the same incident.
    """
    alertmanager = binary("prometheus-alertmanager")
    pages = {"job": "shop", "severity": "critical"}
    request, starved = LATE[0], STARVED[0]
    with (
        receiving() as receiver,
        run_alertmanager(alertmanager, root, tmp_path, receiver, "1s") as address,
    ):
        for alertname in (request, starved):
            fire(address, {"alertname": alertname, "instance": "a:9400", "loop": "1", **pages})
            await_alert(receiver, alertname)
        assert ({"shop": [request, starved]}, 1) == (receiver.sent, len(receiver.pages["shop"]))


def fire(address: str, labels: dict[str, str]) -> None:
    """Tell Alertmanager that an alert fires."""
    url = f"http://{address}/api/v2/alerts"
    requests.post(url, json=[{"labels": labels}], timeout=60).raise_for_status()


def await_alert(receiver: Receiver, alertname: str) -> None:
    """Wait until an alert was sent."""
    end = time.monotonic() + SECONDS
    while alertname not in receiver.sent["shop"] and time.monotonic() < end:
        time.sleep(0.1)
