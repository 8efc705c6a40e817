"""The soak of workers: gunicorn under load, scraped by a real Prometheus.

Now and then the worker that owns the metrics' port is killed.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from .fleet import Fleet, answers, fleet, until
from .metrics import Exposition, fetch
from .outcome import Outcome
from .prometheus import Prometheus, prometheus
from .scraper import Scraper, summary, watching

WORKERS = 2
CONNECTIONS = 16
WORK = "service.work"
#: Window of ``rate()``.
WINDOW_SECONDS = 10
#: Highest allowed ratio of ``rate()``, which extrapolates, to what the workers counted in as many
#: seconds.
SPIKE = 1.25


@dataclass
class Pulse:
    """Asks the port fifty times a second whether it answers, and remembers the results."""

    port: int
    answers: list[tuple[float, bool]] = field(default_factory=list)

    def run(self, over: threading.Event) -> None:
        """Ask until ``over`` is set."""
        while not over.wait(0.02):
            asked = time.monotonic()
            self.answers.append((asked, answers(self.port)))

    def silence(self, since: float) -> float | None:
        """Return the seconds from ``since`` to the first answer; ``None`` if there is none yet."""
        return next(
            (asked - since for asked, answered in list(self.answers) if answered and asked > since),
            None,
        )


@dataclass
class Rates:
    """The counts of the workers, read every second."""

    workers: Fleet
    created: list[tuple[float, int]] = field(default_factory=list)

    def run(self, over: threading.Event) -> None:
        """Read until ``over`` is set."""
        while not over.wait(1.0):
            self.read()

    def read(self) -> None:
        """Read once."""
        self.created.append((time.monotonic(), self.workers.counted()["created"]))

    def highest(self, seconds: float) -> float:
        """Return the highest rate between two readings that are at least ``seconds`` apart.

        If no readings are, it is the rate from the first to the last one.
        """
        later = (
            (start, next((end for end in self.created if end[0] - start[0] >= seconds), None))
            for start in self.created
        )
        spans = [(start, end) for start, end in later if end is not None] or [
            (self.created[0], self.created[-1])
        ]
        return max((after - before) / (end - start) for (start, before), (end, after) in spans)


def soak(seconds: float, kills: int) -> Outcome:
    """Put two workers under load, kill the port's owner ``kills`` times, and compare counts."""
    wrk, binary = (shutil.which(name) or "" for name in ("wrk", "prometheus"))
    if not wrk or not binary:
        raise FileNotFoundError(
            "wrk and prometheus are needed: install them (Debian: apt-get install wrk prometheus)"
        )
    outcome = Outcome()
    with (
        tempfile.TemporaryDirectory(dir="/dev/shm") as directory,
        fleet(Path(directory), WORKERS) as workers,
    ):
        pulse, rates, scraper = (
            Pulse(workers.metrics_port),
            Rates(workers),
            Scraper(workers.metrics_port),
        )
        with prometheus(binary, workers.metrics_port, Path(directory)) as server:
            until(lambda: server.number('up{job="soak"}') == 1, "Prometheus to reach the port")
            rates.read()
            started = time.monotonic()
            with watching([pulse, rates, scraper]), _load(wrk, workers, seconds):
                silences = [
                    _kill(outcome, workers, pulse, started + seconds * (number + 1) / (kills + 1))
                    for number in range(kills)
                ]
                time.sleep(max(0.0, started + seconds - time.monotonic()))
            rates.read()
            settled: list[tuple[Exposition, dict[str, int]]] = []
            until(lambda: _settled(workers, settled), "the workers to become idle")
            exposition, counted = settled[0]
            scraper.compare(exposition)
            _check_rates(outcome, server, exposition, rates)
        _check_totals(outcome, exposition, counted, kills)
    outcome.problems += scraper.fallen
    outcome.demand(
        "the port failed to answer although no worker was killed",
        holds=bool(kills) or not scraper.failures,
    )
    outcome.lines.append(
        f"scrapes: {summary([scraper])}; without an answer: {len(scraper.failures)}"
    )
    if kills:
        outcome.lines.append(
            "seconds without an answer after each kill -9 of the owner: "
            + ", ".join(f"{silence:.2f}" for silence in silences)
        )
    return outcome


@contextmanager
def _load(wrk: str, workers: Fleet, seconds: float) -> Iterator[None]:
    command = [
        wrk,
        "-t1",
        f"-c{CONNECTIONS}",
        f"-d{int(seconds)}s",
        f"http://127.0.0.1:{workers.port}/",
    ]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL):
        yield


def _kill(outcome: Outcome, workers: Fleet, pulse: Pulse, at: float) -> float:
    """Kill the owner of the port at ``at``, and wait for a new owner and a new worker.

    Returns the seconds without an answer.
    """
    time.sleep(max(0.0, at - time.monotonic()))
    owner, started = workers.owner(), workers.started()
    if owner is None:
        outcome.problems.append("no worker owned the port")
        return float("inf")
    killed = time.monotonic()
    os.kill(owner, signal.SIGKILL)
    until(lambda: pulse.silence(killed) is not None, "another worker to take the port")
    until(lambda: workers.started() > started, "a new worker")
    outcome.demand(f"{owner} still owns the port", holds=workers.owner() != owner)
    return pulse.silence(killed) or 0.0


def _check_totals(
    outcome: Outcome, exposition: Exposition, counted: dict[str, int], kills: int
) -> None:
    """Check that counts are equal.

    Each worker that is killed between its own count and that of its metrics may leave a difference
    of one.
    """
    shown = {
        "created": exposition.sum("asyncio_tasks_created_total", coroutine=WORK),
        "completed": exposition.sum(
            "asyncio_task_wall_seconds_count", coroutine=WORK, status="completed"
        ),
        "failed": exposition.sum(
            "asyncio_task_wall_seconds_count", coroutine=WORK, status="failed"
        ),
        "waits": exposition.sum("asyncio_wait_seconds_count", coroutine=WORK),
    }
    for name, count in counted.items():
        outcome.demand(
            f"{name}: the workers counted {count}, the port shows {shown[name]}",
            holds=abs(count - shown[name]) <= kills,
        )
        outcome.lines.append(
            f"{name}: the workers counted {count}, the port shows {shown[name]:.0f}"
        )
    loops = set(exposition.by("loop", "asyncio_loop_start_delay_seconds_count"))
    outcome.lines.append(f"loops: {sorted(loops)}")
    outcome.expect("loops", WORKERS, len(loops))
    outcome.expect("internal errors", 0, exposition.sum("aiometrics_errors_total"))


def _check_rates(
    outcome: Outcome, server: Prometheus, exposition: Exposition, rates: Rates
) -> None:
    for name in exposition.counters():
        outcome.expect(
            f"resets of {name} that Prometheus saw", 0, server.number(f"sum(resets({name}[1h]))")
        )
    rate = f'sum(rate(asyncio_tasks_created_total{{coroutine="{WORK}"}}[{WINDOW_SECONDS}s]))'
    highest = f"max_over_time({rate}[1h:1s])"
    until(lambda: server.number(highest) > 0, "Prometheus to see a rate")
    shown, counted = server.number(highest), rates.highest(WINDOW_SECONDS)
    outcome.lines.append(
        f"highest rate() in Prometheus: {shown:.0f}/s; counted by the workers: {counted:.0f}/s"
    )
    outcome.demand(f"rate() shows a spike: {shown} after {counted}", holds=shown <= SPIKE * counted)


def _settled(workers: Fleet, found: list[tuple[Exposition, dict[str, int]]]) -> bool:
    """Whether the counts have not changed for half a second, and while the metrics were fetched.

    Then both are added to ``found``: on a busy machine, workers may seem idle and go on.
    """
    before = workers.counted()
    time.sleep(0.5)
    metrics = fetch(workers.metrics_port)
    if before != workers.counted():
        return False
    found.append((metrics, before))
    return True
