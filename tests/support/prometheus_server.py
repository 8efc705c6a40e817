"""Programs that run beside a test, and a real Prometheus that scrapes them."""

from __future__ import annotations

import json
import re
import subprocess
import threading
import time
import urllib.parse
import urllib.request
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import yaml

_WINDOW = re.compile(r"(?<=\[)(\d+)([smhd])(?=\])|(?<=offset )(\d+)([smhd])")
_STUCK = re.compile(r"(?<= > )300$", re.MULTILINE)
_MS = {"s": 1_000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}


@dataclass(frozen=True)
class Prometheus:
    """A Prometheus; its clients give up at the deadline, in seconds of the monotonic clock."""

    url: str
    deadline: float

    def get(self, path: str, **parameters: str) -> Any:
        """The ``data`` of an API call."""
        with urllib.request.urlopen(  # noqa: S310 - to itself
            f"{self.url}/api/v1/{path}?{urllib.parse.urlencode(parameters)}", timeout=60
        ) as answer:
            return json.load(answer)["data"]

    def ask(self, query: str) -> list[tuple[dict[str, str], float]]:
        """Labels and value of each series that an instant query returns, largest value first."""
        found = [
            (series["metric"], float(series["value"][1]))
            for series in self.get("query", query=query)["result"]
        ]
        return sorted(found, key=lambda entry: entry[1], reverse=True)

    def firing(self, job: str) -> dict[str, str]:
        """Alerts that fire for a job by name, with the description of the last of each."""
        alerts = [
            alert
            for alert in self.get("alerts")["alerts"]
            if alert["state"] == "firing" and alert["labels"].get("job") == job
        ]
        return {
            alert["labels"]["alertname"]: alert["annotations"]["description"] for alert in alerts
        }

    def until(self, accept: Callable[[Any], bool], question: Callable[[], Any]) -> Any:
        """The first answer that is accepted, or the last one when the time is up."""
        waiting = threading.Event()
        while not accept(answer := question()) and time.monotonic() < self.deadline:
            waiting.wait(0.25)
        return answer


@contextmanager
def running(*program: str | Path, announces: Collection[str]) -> Iterator[str]:
    """Run a program, and give what it printed until all ``announces`` were there.

    What it prints later is read and dropped.
    """
    with subprocess.Popen(
        program, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        assert process.stdout is not None
        try:
            printed = ""
            while not all(announcement in printed for announcement in announces):
                line = process.stdout.readline()
                assert line, f"{program[0]} ended before it announced {announces}: {printed}"
                printed += line
            reader = threading.Thread(target=process.stdout.read)
            reader.start()
            yield printed
        finally:
            process.terminate()
            process.wait()
        reader.join()


@contextmanager
def run_prometheus(
    program: str,
    root: Path,
    directory: Path,
    targets: Mapping[str, str],
    *features: str,
    seconds: float,
    every_ms: int = 1_000,
    shorter: int = 1,
    patience: int | None = None,
    stuck_seconds: int = 300,
    alertmanager: str | None = None,
    scrape: Any = MappingProxyType({}),
) -> Iterator[Prometheus]:
    """Run Prometheus with the configuration of the repository and these targets, by job.

    Intervals are short, and windows are ``shorter`` times shorter, as is the time for which alerts
    wait, or ``patience`` times. From an age of ``stuck_seconds`` on, a wait may be stuck.
    ``features`` are enabled besides the default ones, and ``scrape`` is added to the configuration
    of each job. Alerts go to the address of an ``alertmanager``.
    """
    configuration = yaml.safe_load((root / "prometheus.yml").read_text(encoding="utf-8"))
    for pattern in configuration["rule_files"]:
        for path in root.glob(pattern):
            rules = yaml.safe_load(path.read_text(encoding="utf-8"))
            (directory / path.name).write_text(
                yaml.safe_dump(
                    _hastened(rules, every_ms, shorter, patience or shorter, stuck_seconds)
                ),
                encoding="utf-8",
            )
    configuration["rule_files"] = [str(directory / "*.rules.yml"), str(directory / "*.alerts.yml")]
    configuration["global"] = {
        "scrape_interval": f"{every_ms}ms",
        "evaluation_interval": f"{every_ms}ms",
    }
    configuration["scrape_configs"] = [
        {
            "job_name": job,
            "scrape_timeout": f"{every_ms}ms",
            "static_configs": [{"targets": [address]}],
            **scrape,
        }
        for job, address in targets.items()
    ]
    managers = [] if alertmanager is None else [{"targets": [alertmanager]}]
    configuration["alerting"] = {"alertmanagers": [{"static_configs": managers}]}
    file = directory / "prometheus.yml"
    file.write_text(yaml.safe_dump(configuration), encoding="utf-8")
    options = (
        f"--config.file={file}",
        f"--storage.tsdb.path={directory / 'data'}",
        "--web.listen-address=127.0.0.1:0",
    )
    enabled = [f"--enable-feature={','.join(features)}"] if features else []
    with running(
        program, *options, *enabled, announces=['msg="Listening on"', "Server is ready"]
    ) as printed:
        yield Prometheus(f"http://{listening(printed)}", time.monotonic() + seconds)


def version(program: str) -> tuple[int, ...]:
    """The version of a Prometheus, as (3, 5, 3)."""
    printed = subprocess.run((program, "--version"), capture_output=True, text=True, check=True)
    (found,) = re.findall(r"prometheus, version ([0-9.]+)", printed.stdout + printed.stderr)
    return tuple(map(int, found.split(".")))


def listening(log: str) -> str:
    """The address that a Prometheus announced, of version 2 or 3."""
    (address,) = re.findall(r'msg="Listening on".* address=(\S+)', log)
    return str(address)


def shortened(text: str, times: int) -> str:
    """A query, or a text with queries, with windows that are ``times`` times shorter."""

    def shorten(found: re.Match[str]) -> str:
        number, unit = (part for part in found.groups() if part is not None)
        return f"{max(1, int(number) * _MS[unit] // times)}ms"

    return text if times == 1 else _WINDOW.sub(shorten, text)


def _hastened(rules: Any, every_ms: int, times: int, patience: int, stuck_seconds: int) -> Any:
    for group in rules["groups"]:
        group["interval"] = f"{every_ms}ms"
        for rule in group["rules"]:
            rule["expr"] = _STUCK.sub(str(stuck_seconds), shortened(rule["expr"], times))
            if "for" in rule:
                rule["for"] = shortened(f"[{rule['for']}]", patience).strip("[]")
            rule["annotations"] = {
                name: shortened(text, times) for name, text in rule.get("annotations", {}).items()
            }
            if "record" in rule:
                del rule["annotations"]
    return rules
