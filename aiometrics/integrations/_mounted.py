"""The metrics where an application's own server serves them: made in threads of their own."""

from __future__ import annotations

import asyncio
import os
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from prometheus_client import CollectorRegistry

from aiometrics.exporter.scrape import ScrapeHandler
from aiometrics.exporter.session import collected, report
from aiometrics.http.messages import Response

#: As many scrapes are answered at a time as on a port of our own.
_MAX_THREADS = 16


class Mounted:
    """Answers scrapes from coroutines. Not by the loop's default executor: clients that ask on and on would hold all threads of that."""

    def __init__(self, registry: CollectorRegistry | None) -> None:
        self._registry = registry
        self._start()

    def _start(self) -> None:
        self._process = os.getpid()
        self._scrape_handler = ScrapeHandler(collected, self._registry, partial(report, "registry"))
        self._threads = ThreadPoolExecutor(_MAX_THREADS, "aiometrics-scrape")

    async def answer(self, accept: str | None) -> Response:
        """The page, in the format that the header ``Accept`` of the request prefers."""
        if (
            self._process != os.getpid()
        ):  # a forked child, which has none of the threads, and nobody who finishes what they have begun
            self._start()
        return await asyncio.get_running_loop().run_in_executor(
            self._threads, self._scrape_handler.answer, accept
        )
