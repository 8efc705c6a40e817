"""``python -m aiometrics demo``: the shop, its load, the exporter, and its hotspots."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import os
import shutil
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Self

from aiohttp import web

from aiometrics.demo.faults import Fault, legend
from aiometrics.demo.load import load
from aiometrics.demo.service import OBJECTIVES, Shop
from aiometrics.exporter.exporter import Exporter, start_exporter
from aiometrics.exposition.hotspots import find_hotspots
from aiometrics.pages.snapshot import Snapshot
from aiometrics.requests import slow_log

#: Rows per kind: room for every fault beside what aiohttp itself does.
_ROWS = 6
#: The most columns of a table.
_COLUMNS = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The settings of the command line.

    ``seconds`` is None to run until interrupted, ``every_seconds`` is the pause between two tables.
    """

    faults: frozenset[Fault]
    seconds: float | None
    every_seconds: float
    addr: str
    port: int


class Reporter(threading.Thread):
    """Prints the hotspots of each interval, at the end those of the whole run, then calls ``then``.

    It ends when the time is up or it is stopped. It is a thread, because it must report while the
    loop is blocked and must not appear in its own reports.
    """

    def __init__(self, exporter: Exporter, settings: Settings, then: Callable[[], object]) -> None:
        super().__init__(name="reporter", daemon=True)
        self._exporter = exporter
        self._every_seconds = settings.every_seconds
        self._end = math.inf if settings.seconds is None else time.monotonic() + settings.seconds
        self._then = then
        self._over = threading.Event()

    def run(self) -> None:
        """Report until the time is up, until stopped, or until standard output is closed."""
        try:
            self._report()
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        finally:
            self._then()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._over.set()
        self.join()

    def _report(self) -> None:
        before = self._exporter.snapshot()
        while (left := self._end - time.monotonic()) > 0 and not self._over.wait(
            min(left, self._every_seconds)
        ):
            now = self._exporter.snapshot()
            self._print(now, before)
            before = now
        self._print(self._exporter.snapshot(), None)

    def _print(self, now: Snapshot, before: Snapshot | None) -> None:
        threshold_ns = self._exporter.recording.blocking_threshold_ns
        found = find_hotspots(
            now,
            _ROWS,
            before,
            blocking_threshold_ns=threshold_ns,
            of_library=self._exporter.instrumentation.places.of_library,
        )
        _say(f"\n{found.table(_columns())}")


def run(settings: Settings) -> int:
    """Run the demo and return the exit code.

    The code is 0, or 1 with a line on standard error if the metrics cannot be served. Ctrl-C ends
    the demo with ``KeyboardInterrupt`` after everything that it started was stopped.
    """
    try:
        exporter = start_exporter(
            port=settings.port,
            addr=settings.addr,
            application=["aiometrics.demo"],
            objectives=OBJECTIVES,
            on_error="raise",
        )
    except OSError as error:
        return _fail(error.strerror)
    except ValueError as error:
        return _fail(error)
    # Two dozen warnings a second would hide the tables.
    slow_log.logger.setLevel(logging.ERROR)
    with exporter, socket.create_server(("127.0.0.1", 0)) as listener:
        _say(_welcome(settings, _url(listener), exporter))
        asyncio.run(serve(Shop(settings.faults), listener, exporter, settings))
    return 0


async def serve(
    shop: Shop, listener: socket.socket, exporter: Exporter, settings: Settings
) -> None:
    """Serve ``shop`` under load until the reporter is done, or until SIGTERM.

    The load ends first, so that no connection is accepted while the server closes.
    """
    loop, stop = asyncio.get_running_loop(), asyncio.Event()
    with contextlib.suppress(NotImplementedError):  # Windows
        loop.add_signal_handler(signal.SIGTERM, stop.set)
    runner = web.AppRunner(shop.application(), shutdown_timeout=1.0)
    await runner.setup()
    try:
        await web.SockSite(runner, listener).start()
        reporter = Reporter(exporter, settings, lambda: loop.call_soon_threadsafe(stop.set))
        with load(_url(listener)), reporter:
            await stop.wait()
    finally:
        await _all_closed(runner)
        await runner.cleanup()


async def _all_closed(runner: web.AppRunner) -> None:
    """Wait until the connections of the load, which has ended, are closed; a second at most."""
    for _ in range(100):
        await asyncio.sleep(0.01)
        if runner.server is None or not runner.server.connections:
            return


def _url(listener: socket.socket) -> str:
    return f"http://127.0.0.1:{listener.getsockname()[1]}"


def _columns() -> int:
    """Return the width of the tables, which also fits where there is no terminal."""
    return max(80, min(_COLUMNS, shutil.get_terminal_size((_COLUMNS, 0)).columns))


def _welcome(settings: Settings, shop_url: str, exporter: Exporter) -> str:
    span = "until Ctrl-C" if settings.seconds is None else f"for {settings.seconds:g} s"
    return (
        f"shop     {shop_url} under load from another process, {span}\n"
        f"live     {exporter.url.removesuffix('metrics')} shows it in a browser\n"
        f"metrics  {exporter.url}\n"
        f"faults, and the functions to look for:\n{legend(settings.faults)}"
    )


def _fail(reason: object) -> int:
    sys.stderr.write(f"aiometrics: {reason}\n")
    return 1


def _say(text: str) -> None:
    print(text, flush=True)
