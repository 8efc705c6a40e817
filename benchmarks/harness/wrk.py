"""Load from wrk, which runs on the last core while the service runs on the first."""

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
    """The result of one slice of load.

    ``cpu_seconds`` is the service's CPU time per request, the number that other processes on the
    machine disturb least.
    """

    requests_per_second: float
    p99_seconds: float
    cpu_seconds: float


def cpu_seconds(pid: int) -> float:
    """Return the CPU time that all threads of a process have taken so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def load(pid: int, url: str, seconds: int, connections: int = CONNECTIONS) -> Load:
    """Put a service under load for a whole number of seconds.

    Raises ``RuntimeError`` with wrk's output if any request failed.
    """
    core = str(max(os.sched_getaffinity(0)))
    command = [
        "taskset",
        "-c",
        core,
        "wrk",
        "-t1",
        f"-c{connections}",
        f"-d{seconds}s",
        "--timeout",
        "30s",
        "--latency",
        url,
    ]
    before = cpu_seconds(pid)
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    spent = cpu_seconds(pid) - before
    if "Non-2xx" in output or "Socket errors" in output:
        raise RuntimeError(f"the load on {url} failed:\n{output}")
    done = int(_search(r"(\d+) requests in", output)[1])
    slowest = _search(r"99%\s+([\d.]+)(us|ms|s)", output)
    rate = float(_search(r"Requests/sec:\s+([\d.]+)", output)[1])
    return Load(rate, float(slowest[1]) * _UNITS[slowest[2]], spent / done)


def _search(pattern: str, output: str) -> re.Match[str]:
    found = re.search(pattern, output)
    if found is None:
        raise RuntimeError(f"wrk's output has no {pattern!r}:\n{output}")
    return found
