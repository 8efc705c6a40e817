"""Somebody who scrapes all the time, and remembers what a Prometheus would take amiss."""

from __future__ import annotations

import http.client
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Protocol

from .metrics import OPENMETRICS, Page, fetch


class Watcher(Protocol):
    """Looks again and again."""

    def run(self, over: threading.Event) -> None:
        """Until it is over."""


@dataclass
class Scraper:
    """Scrapes ``every`` second; remembers how long each took, when nobody answered, and every counter that fell."""

    port: int
    accept: str = OPENMETRICS
    compressed: bool = False
    every: float = 1.0
    seconds: list[float] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    fallen: list[str] = field(default_factory=list)
    page: Page = field(default_factory=Page)

    def run(self, over: threading.Event) -> None:
        """Until it is over."""
        while not over.wait(self.every):
            started = time.perf_counter()
            try:
                page = fetch(self.port, accept=self.accept, compressed=self.compressed)
            except (OSError, http.client.HTTPException) as error:
                self.failures.append(repr(error))
                continue
            self.seconds.append(time.perf_counter() - started)
            self.see(page)

    def see(self, page: Page) -> None:
        """One more page, after all those before."""
        self.fallen += page.fallen(self.page)
        self.page = page


@contextmanager
def watching(watchers: Iterable[Watcher]) -> Iterator[None]:
    """Each of them runs meanwhile, in a thread of its own."""
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


def told(scrapers: Iterable[Scraper]) -> str:
    """How long scrapes took."""
    seconds = sorted(took for scraper in scrapers for took in scraper.seconds)
    if not seconds:
        return "none"
    median, p99 = (1000 * seconds[round(share * (len(seconds) - 1))] for share in (0.5, 0.99))
    return f"{len(seconds)}, median {median:.0f} ms, p99 {p99:.0f} ms, worst {1000 * seconds[-1]:.0f} ms"
