"""A Prometheus exporter inside your asyncio service: where its event loop's time goes, by coroutine and line.

>>> import aiometrics
>>> exporter = aiometrics.start_exporter(port=9400)  # doctest: +SKIP
"""

from __future__ import annotations

from aiometrics.batch import Job, start_job
from aiometrics.exporter import Exporter, start_exporter
from aiometrics.recorder import IMPLEMENTATION
from aiometrics.request import Request, current_request, request
from aiometrics.tracing import Collector, hotspots, instrument, snapshot, uninstrument
from aiometrics.version import __version__

__all__ = [
    "IMPLEMENTATION",
    "Collector",
    "Exporter",
    "Job",
    "Request",
    "__version__",
    "current_request",
    "hotspots",
    "instrument",
    "request",
    "snapshot",
    "start_exporter",
    "start_job",
    "uninstrument",
]
