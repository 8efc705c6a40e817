"""Load from a second process: wrk on the last core, the service on the first."""

from __future__ import annotations

import os
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

CONNECTIONS = 32
TICKS = os.sysconf("SC_CLK_TCK")
_UNITS = {"us": 1e-6, "ms": 1e-3, "s": 1.0}


@dataclass(frozen=True, slots=True)
class Load:
    """What one slice of load measured; ``cpu_seconds`` is the service's CPU time per request, which neighbours disturb least."""

    requests_per_second: float
    p99_seconds: float
    cpu_seconds: float


def cpu_seconds(pid: int) -> float:
    """CPU time of all threads of a process so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def load(pid: int, url: str, seconds: int) -> Load:
    """Load a service for whole seconds.

    Raises ``RuntimeError`` with what wrk said if any request failed.
    """
    core = str(max(os.sched_getaffinity(0)))
    command = [
        "taskset",
        "-c",
        core,
        "wrk",
        "-t1",
        f"-c{CONNECTIONS}",
        f"-d{seconds}s",
        "--timeout",
        "30s",
        "--latency",
        url,
    ]
    before = cpu_seconds(pid)
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    spent = cpu_seconds(pid) - before
    if "Non-2xx" in said or "Socket errors" in said:
        raise RuntimeError(f"the load on {url} failed:\n{said}")
    done = int(_search(r"(\d+) requests in", said)[1])
    slowest = _search(r"99%\s+([\d.]+)(us|ms|s)", said)
    rate = float(_search(r"Requests/sec:\s+([\d.]+)", said)[1])
    return Load(rate, float(slowest[1]) * _UNITS[slowest[2]], spent / done)


def _search(pattern: str, said: str) -> re.Match[str]:
    found = re.search(pattern, said)
    if found is None:
        raise RuntimeError(f"wrk's answer has no {pattern!r}:\n{said}")
    return found
