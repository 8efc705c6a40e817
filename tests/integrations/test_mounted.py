"""Mounted metrics: however many clients ask for them, the application's work goes on."""

from __future__ import annotations

import asyncio
import gc
import os
import subprocess
import sys
import threading
import weakref
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
from prometheus_client import CollectorRegistry, Metric
from prometheus_client.registry import Collector
from support.servers import until

from aiometrics.integrations._mounted import Mounted
from aiometrics.integrations.aiohttp import metrics_handler
from aiometrics.integrations.asgi import make_asgi_app

SECONDS = 300


class Slow(Collector):
    """A collector that takes until it is released."""

    def __init__(self, entered: Callable[[], object]) -> None:
        self._entered = entered
        self.leave = threading.Event()

    def collect(self) -> Iterator[Metric]:
        self._entered()
        assert self.leave.wait(SECONDS)
        yield Metric("stock", "Books.", "gauge")


async def by_asgi(registry: CollectorRegistry) -> None:
    """Send a request to the metrics as an ASGI application."""

    async def send(_: Any) -> None:
        """Drop the message."""

    await make_asgi_app(registry)(
        {"type": "http", "method": "GET", "headers": []}, lambda: asyncio.sleep(0, {}), send
    )


async def by_aiohttp(registry: CollectorRegistry) -> None:
    """Send a request to the metrics as a handler of aiohttp."""
    await metrics_handler(registry)(SimpleNamespace(headers={}))  # type: ignore[arg-type]  # all that it reads of a request


@pytest.mark.parametrize("ask", [by_asgi, by_aiohttp])
def test_scrapes_take_no_thread_of_the_application(
    ask: Callable[[CollectorRegistry], Awaitable[None]],
) -> None:
    """Its calls of ``asyncio.to_thread`` run during a slow scrape, even with a single thread."""

    async def main() -> int:
        loop, entered, registry = asyncio.get_running_loop(), asyncio.Event(), CollectorRegistry()
        loop.set_default_executor(ThreadPoolExecutor(1))
        slow = Slow(partial(loop.call_soon_threadsafe, entered.set))
        registry.register(slow)
        scrape = asyncio.ensure_future(ask(registry))
        await entered.wait()
        try:
            return await asyncio.wait_for(asyncio.to_thread(int, "7"), SECONDS)
        finally:
            slow.leave.set()
            await scrape

    assert 7 == asyncio.run(main())


def test_unused_metrics_leave_no_threads() -> None:
    """An application that is made for each test, for example, leaves no threads behind."""
    before, mounted = set(threading.enumerate()), Mounted(None)
    asyncio.run(mounted.answer(None))
    threads, gone = set(threading.enumerate()) - before, weakref.ref(mounted)
    del mounted
    # A collection does nothing while another thread collects.
    until(lambda: gc.collect() >= 0 and gone() is None, "the metrics to be gone")
    for thread in threads:
        thread.join(SECONDS)
    assert (1, None, []) == (
        len(threads),
        gone(),
        [thread for thread in threads if thread.is_alive()],
    )


FORKED = """
import asyncio, os, threading
from prometheus_client import CollectorRegistry, Metric
from aiometrics.integrations.asgi import make_asgi_app

class Slow:
    def collect(self):
        if os.getpid() == parent:
            entered.set()
            assert leave.wait(300)
        yield Metric("stock", "Books.", "gauge")

parent, entered, leave, statuses = 0, threading.Event(), threading.Event(), []
registry = CollectorRegistry()
registry.register(Slow())
app, parent = make_asgi_app(registry), os.getpid()

async def send(message):
    statuses.append(message.get("status"))

def ask():
    asyncio.run(app({"type": "http", "method": "GET", "headers": []}, None, send))

asking = threading.Thread(target=ask)
asking.start()
assert entered.wait(300)
child = os.fork()
if not child:
    ask()
    os._exit(0 if statuses[0] == 200 else 1)
assert 0 == os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
leave.set()
asking.join()
assert 200 == statuses[0]
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
def test_a_child_forked_during_a_scrape_answers_its_own() -> None:
    """It does not wait for a thread of its parent."""
    command = [sys.executable, "-W", "ignore::DeprecationWarning", "-c", FORKED]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=SECONDS)
    assert (0, "") == (done.returncode, done.stderr)
