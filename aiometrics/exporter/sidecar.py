"""Serves the pages of a shared directory from a process of its own: it answers whatever the service's processes do, dead or alive."""

from __future__ import annotations

import os
import signal
import threading
import time
from types import FrameType

from aiometrics.base.clock import monotonic
from aiometrics.base.internal_errors import InternalErrors
from aiometrics.exporter.endpoints import Endpoints
from aiometrics.exposition.collector import Multiprocess
from aiometrics.options import ServingOptions
from aiometrics.pages.merge import merged
from aiometrics.pages.multiprocess.directory import SharedDirectory
from aiometrics.pages.snapshot import Snapshot

#: What it says of itself where others name their recorder: it has none.
IMPLEMENTATION = "none"


class Sidecar:
    """Serves the pages of ``directory``, from :meth:`start` to :meth:`stop`. It need not exist yet.

    Raises ``ValueError`` if it is empty, and what a :class:`~aiometrics.exporter.endpoints.Endpoints` raises.
    """

    def __init__(self, directory: str, serving: ServingOptions) -> None:
        if not directory:
            raise ValueError("a directory is needed: give --directory, or set AIOMETRICS_DIR")
        self._directory = SharedDirectory(os.path.abspath(directory))  # noqa: PTH100 - a link may be made anew at any time
        self._internal_errors = InternalErrors()
        registry = MultiprocessMetrics() if "PROMETHEUS_MULTIPROC_DIR" in os.environ else None
        self._endpoints = Endpoints(
            serving, self.snapshot, registry, self._internal_errors, implementation=IMPLEMENTATION
        )

    @property
    def url(self) -> str:
        """The address of the metrics as this machine reaches it."""
        return self._endpoints.url

    def snapshot(self) -> Snapshot:
        """What all pages of the directory say now; nothing as long as it is not there."""
        unix_ns = time.time_ns()
        shelved = self._directory.read((), None, monotonic(), unix_ns)
        return merged(
            [shelved.pages[number] for number in sorted(shelved.pages)],
            taken_ns=unix_ns,
            errors=self._internal_errors.counts(),
            sample_ratio=1 / shelved.page_format.weight if shelved.page_format else 1.0,
            skipped_pages=shelved.skipped,
        )

    def start(self) -> None:
        """Take the port, and answer. Raises ``OSError`` if the port or the directory cannot be had."""
        self._directory.check()
        self._endpoints.bind()
        self._endpoints.start()

    def stop(self) -> None:
        """Free the port."""
        self._endpoints.close()


def serve(directory: str, serving: ServingOptions) -> None:
    """Serve until the process is told to end, by SIGTERM or SIGINT."""
    sidecar = Sidecar(directory, serving)
    told = threading.Event()

    def tell(_signal: int, _frame: FrameType | None) -> None:
        told.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, tell)
    sidecar.start()
    print(f"metrics  {sidecar.url}", flush=True)
    told.wait()
    sidecar.stop()
