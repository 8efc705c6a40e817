"""Threads that watch a program: scrapers that remember what would disturb a Prometheus."""

from __future__ import annotations

import http.client
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Protocol

from .metrics import OPENMETRICS, Exposition, fetch


class Watcher(Protocol):
    """Observes something again and again, in a thread of its own."""

    def run(self, over: threading.Event) -> None:
        """Observe until ``over`` is set."""


@dataclass
class Scraper:
    """Scrapes every ``every`` seconds.

    Remembers how long each scrape took, the errors, and every counter that fell.
    """

    port: int
    accept: str = OPENMETRICS
    compressed: bool = False
    every: float = 1.0
    seconds: list[float] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    fallen: list[str] = field(default_factory=list)
    last: Exposition = field(default_factory=Exposition)

    def run(self, over: threading.Event) -> None:
        """Scrape until ``over`` is set."""
        while not over.wait(self.every):
            started = time.perf_counter()
            try:
                metrics = fetch(self.port, accept=self.accept, compressed=self.compressed)
            except (OSError, http.client.HTTPException) as error:
                self.failures.append(repr(error))
                continue
            self.seconds.append(time.perf_counter() - started)
            self.compare(metrics)

    def compare(self, metrics: Exposition) -> None:
        """Compare ``metrics`` with the last ones, and keep them."""
        self.fallen += metrics.fallen(self.last)
        self.last = metrics


@contextmanager
def watching(watchers: Iterable[Watcher]) -> Iterator[None]:
    """Run each watcher in a thread of its own until the block is left."""
    over = threading.Event()
    threads = [threading.Thread(target=watcher.run, args=(over,)) for watcher in watchers]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        over.set()
        for thread in threads:
            thread.join()


def summary(scrapers: Iterable[Scraper]) -> str:
    """Return a line about how long the scrapes took."""
    seconds = sorted(took for scraper in scrapers for took in scraper.seconds)
    if not seconds:
        return "none"
    median, p99 = (1000 * seconds[round(share * (len(seconds) - 1))] for share in (0.5, 0.99))
    worst = 1000 * seconds[-1]
    return f"{len(seconds)}, median {median:.0f} ms, p99 {p99:.0f} ms, worst {worst:.0f} ms"
