"""Compare the metrics with stalls whose number, place and length are known.

Four lines stall the loop ten times for 300 ms; then it is scraped during one stall of 3 s.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import threading
import time
import urllib.request
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib import import_module
from typing import Any

from contenders.contender import LOOPS, Contender, Unavailable
from contenders.ours import CRecorder
from harness import child
from harness.plan import Plan
from harness.table import Table

SHORT, LONG, SCRAPED_AFTER = 0.3, 3.0, 2.0
#: Number of handles that are ready behind each stall.
BEHIND = 3
#: Samples that the watchdog takes of a short stall, at 100, 150, 200 and 250 ms, and of the long
#: one until it is scraped.
SAMPLES_SHORT, SAMPLES_LONG = 4, 38
TIMES = {"sleeps": 4, "computes": 3, "locks": 2, "receives": 1}
#: Rows of the table.
BLOCKING, SEGMENTS, HARM, SAMPLES = (
    "blocking s",
    "segments over 0.1 s",
    "inflicted wait s",
    "samples of the line",
)
Figures = dict[str, float]


class Stalls:
    """Stalls the loop in four ways, each on a line of its own, and adds up how long it took."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self.started = 0.0
        self.last = threading.Event()
        self._lock = threading.Lock()
        self._lock.acquire()
        self._ours, self._theirs = socket.socketpair()
        self._ours.settimeout(SHORT)

    @contextmanager
    def _timed(self, name: str) -> Iterator[None]:
        for _ in range(BEHIND):
            asyncio.get_running_loop().call_soon(int)
        self.started = time.perf_counter()
        yield
        self.seconds[name] += time.perf_counter() - self.started

    async def sleeps(self) -> None:
        """Stall in ``time.sleep``."""
        with self._timed("sleeps"):
            time.sleep(SHORT)  # noqa: ASYNC251 - the stall to measure
        await asyncio.sleep(0.01)

    async def computes(self) -> None:
        """Stall in Python code."""
        with self._timed("computes"):
            ends = time.perf_counter() + SHORT
            while time.perf_counter() < ends:
                pass
        await asyncio.sleep(0.01)

    async def locks(self) -> None:
        """Stall at a lock that is held."""
        with self._timed("locks"):
            self._lock.acquire(timeout=SHORT)
        await asyncio.sleep(0.01)

    async def receives(self) -> None:
        """Stall in a synchronous read."""
        with self._timed("receives"), suppress(TimeoutError):
            self._ours.recv(1)
        await asyncio.sleep(0.01)

    async def lasts(self) -> None:
        """Stall for long, and be scraped meanwhile."""
        with self._timed("lasts"):
            self.last.set()
            time.sleep(LONG)  # noqa: ASYNC251 - as above
        await asyncio.sleep(0.01)


def scraped(url: str) -> Figures:
    """Scrape ``url`` and return the figures by row; places are named by their function."""
    with urllib.request.urlopen(url, timeout=30) as answer:  # noqa: S310 - to itself
        text = answer.read().decode()
    found: Figures = defaultdict(float)
    for family in import_module("prometheus_client.parser").text_string_to_metric_families(text):
        for sample in family.samples:
            for row, sign in _rows(sample):
                found[row] += sign * sample.value
    return found


def _rows(sample: Any) -> Iterator[tuple[str, int]]:
    name, labels = sample.name, sample.labels
    place = (
        labels.get("yield_point", labels.get("blocked_at", ""))
        .partition(" > ")[0]
        .rpartition(".")[2]
    )
    if place == "(running)":  # other segments may have been in progress on a busy machine
        place = f"{labels['coroutine'].rpartition('.')[2]} (running)"
    match name, labels.get("le"):
        case "asyncio_blocking_seconds_total", _:
            yield f"{BLOCKING}, {place}", 1
        case "asyncio_segment_seconds_bucket", "+Inf":
            yield f"{SEGMENTS}, {place}", 1
        case "asyncio_segment_seconds_bucket", "0.1":
            yield f"{SEGMENTS}, {place}", -1
        case "asyncio_inflicted_wait_seconds_total", _:
            yield f"{HARM}, {place}", 1
        case "asyncio_block_samples_total", _:
            yield f"{SAMPLES}, {place}", 1
        case "asyncio_loop_blocking_seconds_total", _:
            yield f"{BLOCKING}, the loop", 1
        case "asyncio_loop_heartbeat_timestamp_seconds", _:
            yield "heartbeat", 1


def measure(contender: Contender, loop: str) -> dict[str, list[tuple[str, float, float]]]:
    """Return rows of metric, true value and exported value, during the last stall and after it."""
    if not isinstance(contender, CRecorder):
        raise Unavailable("only aiometrics exports these metrics")
    logging.getLogger("aiometrics.blocked").disabled = True
    url = contender.facade().start_exporter(port=0, addr="127.0.0.1", registry=None).url
    scraped(url)  # the first request initializes what later ones use
    stalls, seen = Stalls(), {}

    def scrape() -> None:
        stalls.last.wait()
        time.sleep(max(0.0, stalls.started + SCRAPED_AFTER - time.perf_counter()))
        lasted, now = time.perf_counter() - stalls.started, time.time()
        seen["during"] = _compared(stalls, scraped(url), lasted, now)

    async def main() -> None:
        for name, times in TIMES.items():
            for _ in range(times):
                await asyncio.create_task(getattr(stalls, name)())
        await asyncio.create_task(stalls.lasts())
        seen["after"] = _compared(stalls, await asyncio.to_thread(scraped, url), 0.0, 0.0)

    scraper = threading.Thread(target=scrape)
    scraper.start()
    with asyncio.Runner(loop_factory=contender.loop_factory(loop)) as runner:
        runner.run(main())
    scraper.join()
    return seen


def _compared(
    stalls: Stalls, found: Figures, lasted: float, now: float
) -> list[tuple[str, float, float]]:
    """Return rows of metric, true value and exported value.

    ``lasted`` is the length of the stall in progress. It is 0 when the stall is over; then only
    what has changed since is compared again.
    """
    rows = [(f"{BLOCKING}, the loop", sum(stalls.seconds.values()) + lasted)]
    for name in TIMES if lasted else ["lasts"]:
        seconds, times = stalls.seconds[name], TIMES.get(name, 1)
        rows += [
            (f"{BLOCKING}, {name}", seconds),
            (f"{SEGMENTS}, {name}", times),
            (f"{HARM}, {name}", BEHIND * seconds),
        ]
        rows += [(f"{SAMPLES}, {name}", times * SAMPLES_SHORT)] if lasted else []
    if lasted:
        rows += [
            (f"{BLOCKING}, lasts (running)", lasted),
            (f"{SAMPLES}, lasts", SAMPLES_LONG),
            ("heartbeat age s", lasted),
        ]
        found["heartbeat age s"] = now - found["heartbeat"]
    else:
        found[f"{BLOCKING}, lasts"] += found[f"{BLOCKING}, lasts (running)"]
    return [(row, true, found[row]) for row, true in rows]


def run(plan: Plan) -> Table:
    """Measure both recorders on both loops, once."""
    found: dict[str, dict[str, list[tuple[str, float, float]]]] = {}
    table = Table(
        "Stalls as they were, and as the metrics showed them",
        ["when", "metric", "true"],
        data=found,
    )
    for name in plan.ours[1:]:
        for loop in LOOPS:
            plan.progress(f"truth: {name} on {loop}")
            try:
                found[f"{name}, {loop}"] = child.run("truth", name, loop)
            except Unavailable as error:
                table.notes.append(f"{name} on {loop} did not run: {error}")
    table.columns = [*table.columns, *found]
    for when in ("during", "after"):
        for rows in zip(*(seen[when] for seen in found.values()), strict=True):
            metric, true, _ = rows[0]
            table.rows.append(
                [
                    when,
                    metric,
                    _text(true),
                    *(f"{_text(shown)} ({shown - truth:+.3f})" for _, truth, shown in rows),
                ]
            )
    table.notes.append(
        "True values are by the program's own `perf_counter`, shown for the first column; in "
        "parentheses is the difference between the metric and its true value."
    )
    table.notes.append(
        "`during` is 2 s into the stall of 3 s; `after` is when it was over, with `(running)` and "
        "the line added up."
    )
    table.notes.append("On a busy machine other segments than the stalls may block the loop too.")
    return table


def _text(value: float) -> str:
    return f"{value:.3f}".rstrip("0").rstrip(".")
