"""Metrics that an application's own server serves, rendered in separate threads."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from prometheus_client import CollectorRegistry

from aiometrics.base.http.messages import Response
from aiometrics.base.unpatched import getpid
from aiometrics.exporter.scrape import ScrapeHandler
from aiometrics.exporter.session import collected, report

#: As many scrapes are answered at a time as on the exporter's own port.
_MAX_THREADS = 16


class Mounted:
    """Answers scrapes from coroutines.

    It has threads of its own: in the loop's default executor, clients that ask without end would
    occupy all threads.
    """

    def __init__(self, registry: CollectorRegistry | None) -> None:
        self._registry = registry
        self._start()

    def _start(self) -> None:
        self._pid = getpid()
        self._scrape_handler = ScrapeHandler(collected, self._registry, partial(report, "registry"))
        self._threads = ThreadPoolExecutor(_MAX_THREADS, "aiometrics-scrape")

    async def answer(self, accept: str | None) -> Response:
        """Return the response, in the format that the request's ``Accept`` header prefers."""
        if self._pid != getpid():
            # A forked child has none of the threads, so scrapes in progress would never end there.
            self._start()
        return await asyncio.get_running_loop().run_in_executor(
            self._threads, self._scrape_handler.answer, accept
        )
