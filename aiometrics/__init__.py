"""A Prometheus exporter inside an asyncio service: where its event loop's time goes, by line.

>>> import aiometrics
>>> exporter = aiometrics.start_exporter(port=9400)  # doctest: +SKIP

Only public names live here, and importing them does no work and imports no framework.
"""

from __future__ import annotations

from aiometrics.base.installation import warn_of_namesake
from aiometrics.base.version import __version__
from aiometrics.exporter.exporter import Exporter, start_exporter
from aiometrics.exporter.job import Job, start_job
from aiometrics.exporter.session import Collector, hotspots, instrument, snapshot, uninstrument
from aiometrics.exposition.hotspots import Hotspots
from aiometrics.pages.snapshot import Snapshot
from aiometrics.recorder.implementation import IMPLEMENTATION
from aiometrics.requests.request import Request, current_request, request

__all__ = [
    "IMPLEMENTATION",
    "Collector",
    "Exporter",
    "Hotspots",
    "Job",
    "Request",
    "Snapshot",
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

warn_of_namesake()
