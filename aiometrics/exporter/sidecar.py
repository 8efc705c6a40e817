"""Serves the pages of a shared directory from a process of its own.

It answers even while the processes of the service hang, and after they have died.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from types import FrameType

from aiometrics.base.clock import monotonic
from aiometrics.base.internal_errors import InternalErrors
from aiometrics.base.options import ServingOptions
from aiometrics.base.version import __version__
from aiometrics.exporter.endpoints import Endpoints
from aiometrics.exposition.collector import MultiprocessMetrics
from aiometrics.exposition.constant_labels import constant_labels
from aiometrics.exposition.families import ExporterInfo
from aiometrics.pages.multiprocess.directory import SharedDirectory
from aiometrics.pages.records import Records
from aiometrics.pages.snapshot import Snapshot

#: A sidecar records nothing itself, so it has no recorder to name.
INFO = ExporterInfo(__version__, implementation="none", frames="none")


class Sidecar:
    """Serves the pages of ``directory`` from :meth:`start` to :meth:`stop`.

    The directory need not exist yet. Raises ``ValueError`` if its name is empty, and everything
    that :class:`~aiometrics.exporter.endpoints.Endpoints` raises.
    """

    def __init__(self, directory: str, serving: ServingOptions) -> None:
        if not directory:
            raise ValueError("a directory is needed: give --directory, or set AIOMETRICS_DIR")
        self._directory = SharedDirectory(os.path.abspath(directory))  # noqa: PTH100 - keeps links
        self._internal_errors = InternalErrors()
        registry = MultiprocessMetrics() if "PROMETHEUS_MULTIPROC_DIR" in os.environ else None
        labels = constant_labels(serving.labels, on_series=serving.labels_on_series)
        self._endpoints = Endpoints(
            serving,
            self.snapshot,
            registry,
            self._internal_errors,
            INFO._replace(labels=labels, detail=serving.detail or 0),
        )

    @property
    def url(self) -> str:
        """The address of the metrics, as seen from this machine."""
        return self._endpoints.url

    def snapshot(self, records: Records | None = None) -> Snapshot:
        """Return the numbers of all pages of the directory; none while it does not exist.

        What :class:`Records` can keep is there, if they are given and filled.
        """
        now_ns, unix_ns = monotonic(), time.time_ns()
        view = self._directory.read((), None, now_ns, unix_ns, records=records)
        if records is not None and records.declined:
            view = self._directory.read((), None, now_ns, unix_ns)
        return view.snapshot(unix_ns, self._internal_errors.counts())

    def start(self) -> None:
        """Bind the port and answer. Raises ``OSError`` if the port or directory cannot be used."""
        self._directory.check()
        self._endpoints.bind()
        self._endpoints.start()

    def stop(self) -> None:
        """Free the port."""
        self._endpoints.close()


def serve(directory: str, serving: ServingOptions) -> None:
    """Serve until SIGTERM or SIGINT."""
    sidecar = Sidecar(directory, serving)
    stopped = threading.Event()

    def stop(_signal: int, _frame: FrameType | None) -> None:
        stopped.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop)
    sidecar.start()
    print(f"metrics  {sidecar.url}", flush=True)
    stopped.wait()
    sidecar.stop()
