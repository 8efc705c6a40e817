"""A service with a busy loop and an exporter, to be attacked.

The command line is ``python -m tests.fuzz.target PAUSE [WEB_CONFIG]``. The service prints its port
and then reads commands, one a line: ``begin`` starts to measure the turns of the loop; ``end``
prints them as JSON, together with the resources that the process uses by then.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import threading
from array import array
from collections.abc import Callable, Coroutine
from pathlib import Path
from time import perf_counter
from typing import IO, Any

import aiometrics

#: The work of one turn: about 0.1 ms of Python.
_WORK = range(5_000)
#: Coroutines with a yield point each, so that the page has as many rows as a small service.
_PLACES = 100


class Target:
    """Runs turns of the loop, one after the other, until the process ends."""

    def __init__(self, exporter: aiometrics.Exporter, pause_seconds: float) -> None:
        self._exporter = exporter
        self._pause_seconds = pause_seconds
        #: An array, because the growth of a list would show as memory.
        self._turns = array("d")

    async def run(self) -> None:
        """Work and yield for ever.

        A turn is the time of the work without the time that the thread waited for a processor,
        because other programs use this machine too.
        """
        for number in range(_PLACES):
            await asyncio.create_task(_place(number)())
        with Path("/proc/thread-self/schedstat").open("rb", buffering=0) as schedstat:  # noqa: ASYNC230 - a file of this thread
            while True:
                started, queued = perf_counter(), _queued_seconds(schedstat)
                for _ in _WORK:
                    pass
                self._turns.append(perf_counter() - started - (_queued_seconds(schedstat) - queued))
                await asyncio.sleep(self._pause_seconds)

    def obey(self) -> None:
        """Execute commands from standard input until it ends."""
        for line in sys.stdin:
            if line.strip() == "begin":
                self._turns = array("d")
            else:
                print(json.dumps(self._summary()), flush=True)
        os._exit(0)

    def _summary(self) -> dict[str, object]:
        turns = sorted(self._turns) or [float("nan")]
        return {
            "turns": len(turns),
            "p50": turns[len(turns) // 2],
            "p99": turns[len(turns) * 99 // 100],
            "worst": turns[-1],
            "rss_kib": int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
            * os.sysconf("SC_PAGE_SIZE")
            // 1024,
            "threads": threading.active_count(),
            "descriptors": len(list(Path("/proc/self/fd").iterdir())),
            "errors": dict(self._exporter.snapshot().errors),
        }


def _queued_seconds(schedstat: IO[bytes]) -> float:
    """Return how long the thread has been ready to run without running."""
    schedstat.seek(0)
    return int(schedstat.read().split()[1]) / 1e9


def _place(number: int) -> Callable[[], Coroutine[Any, Any, None]]:
    names: dict[str, Callable[[], Coroutine[Any, Any, None]]] = {}
    exec(f"async def place_{number}(): await asyncio.sleep(0)", globals(), names)  # noqa: S102 - a function with a name of its own
    return names[f"place_{number}"]


def main() -> None:
    """Serve until standard input ends."""
    pause_seconds, *web_config = sys.argv[1:]
    exporter = aiometrics.start_exporter(
        0,
        "127.0.0.1",
        web_config=web_config[0] if web_config else None,
        registry=None,
        watchdog=False,
    )
    print(exporter.port, flush=True)
    target = Target(exporter, float(pause_seconds))
    threading.Thread(target=target.obey, daemon=True).start()
    asyncio.run(target.run())


if __name__ == "__main__":
    main()
