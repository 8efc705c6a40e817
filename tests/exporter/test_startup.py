"""What a start takes: a service does not import what few services use."""

from __future__ import annotations

import subprocess
import sys

import pytest

#: Each belongs to a function that few programs call, or to an option that few set.
UNUSED = {
    "aiometrics.base.http.auth",
    "aiometrics.base.http.tls",
    "aiometrics.base.http.web_config",
    "aiometrics.demo",
    "aiometrics.exporter.assets",
    "aiometrics.exporter.job",
    "aiometrics.exporter.profiles",
    "aiometrics.exporter.sidecar",
    "aiometrics.exposition.hotspots",
    "aiometrics.exposition.live",
    "aiometrics.exposition.profile",
    "aiometrics.exposition.profile_formats",
    "aiometrics.exposition.push",
    "aiometrics.exposition.task_list",
    "aiometrics.instrumentation.live_tasks",
    "aiometrics.integrations",
    "aiometrics.launch",
    "aiometrics.testing",
    "aiohttp",
    "bcrypt",
    "encodings.idna",
    "opentelemetry",
    "starlette",
    "uvloop",
    "yaml",
    "zipfile",
}
START = """
import asyncio, sys
import prometheus_client
before = set(sys.modules)
import aiometrics

async def main():
    with aiometrics.start_exporter(0, {addr!r}):
        await asyncio.sleep(0)
    print(*sorted(set(sys.modules) - before))

asyncio.run(main())
"""


def modules(code: str) -> set[str]:
    """Return the names that a program prints."""
    run = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    return set(run.stdout.split())


@pytest.mark.parametrize("addr", ["127.0.0.1", "0.0.0.0"])  # noqa: S104 - as by default
def test_a_start_imports_only_what_it_uses(addr: str) -> None:
    """Importing takes most of the time of a start."""
    imported = modules(START.format(addr=addr))
    assert "aiometrics.exporter.exporter" in imported
    assert set() == imported & UNUSED


def test_what_is_imported_later_is_there_when_it_is_used() -> None:
    """By name, by star, and for those who look what there is."""
    code = """
import aiometrics
assert {"Hotspots", "Job", "start_job"} <= set(dir(aiometrics))
from aiometrics import *
print(Job.__name__, start_job.__name__, Hotspots.__name__, aiometrics.Hotspots is Hotspots)
try:
    aiometrics.start_jobs
except AttributeError as error:
    print(str(error).replace(" ", "_"))
"""
    found = {"Job", "start_job", "Hotspots", "True"}
    assert found | {"module_'aiometrics'_has_no_attribute_'start_jobs'"} == modules(code)
