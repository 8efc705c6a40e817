"""A Prometheus exporter inside an asyncio service: where its event loop's time goes, by line.

>>> import aiometrics
>>> exporter = aiometrics.start_exporter(port=9400)  # doctest: +SKIP

Only public names live here, and importing them does no work and imports no framework.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from aiometrics.base.installation import warn_of_namesake
from aiometrics.base.version import __version__
from aiometrics.exporter.exporter import Exporter, start_exporter
from aiometrics.exporter.session import Collector, hotspots, instrument, snapshot, uninstrument
from aiometrics.pages.snapshot import Snapshot
from aiometrics.recorder.implementation import IMPLEMENTATION
from aiometrics.requests.request import Request, current_request, request

if TYPE_CHECKING:
    from aiometrics.exporter.job import Job, start_job
    from aiometrics.exposition.hotspots import Hotspots

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

#: The modules of what few programs use, which are imported when it is used.
_LATER = {
    "Hotspots": "aiometrics.exposition.hotspots",
    "Job": "aiometrics.exporter.job",
    "start_job": "aiometrics.exporter.job",
}


def __getattr__(name: str) -> object:
    if name not in _LATER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(_LATER[name]), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_LATER})


warn_of_namesake()
