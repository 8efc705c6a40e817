"""What an operator does to the files of a service: none of it kills it or leaves it mute."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import requests
from prometheus_client.parser import text_string_to_metric_families as parse

from aiometrics.pages.multiprocess.private_file import SUPPORTED
from aiometrics.recorder.implementation import IMPLEMENTATION

pytestmark = pytest.mark.skipif(not SUPPORTED, reason="this system has no flock()")

SERVICE = """
import asyncio, faulthandler, mmap, os, signal, sys
import aiometrics

async def works():
    await asyncio.sleep(0.01)

def cut_off_another_file():
    with open(sys.argv[1] + "/other", "w+b") as file:
        file.truncate(mmap.PAGESIZE)
        memory = mmap.mmap(file.fileno(), mmap.PAGESIZE)
        file.truncate(0)
        memory[0]

async def main():
    await works()
    await asyncio.create_task(works())
    exec(sys.argv[2])
    # So many that who counts from 0 again does not come to them for a while.
    await asyncio.gather(*(asyncio.create_task(works()) for _ in range(3000)))
    while True:
        await asyncio.create_task(works())

exporter = aiometrics.start_exporter(0, "127.0.0.1", directory=sys.argv[1], registry=None)
print(exporter.url, flush=True)
asyncio.run(main())
"""


@pytest.fixture
def service(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[subprocess.Popen[str]]:
    """A service that shares its pages in a directory, and has begun to work.

    It executes a parameter first, once it has a page.
    """
    with subprocess.Popen(
        [sys.executable, "-c", SERVICE, str(tmp_path), getattr(request, "param", "")],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        yield process
        process.kill()


def created(url: str) -> float:
    """How many tasks the page shows, which must be there and be readable."""
    response = requests.get(url, timeout=300)
    response.raise_for_status()
    families = {family.name: family for family in parse(response.text)}
    return sum(
        sample.value
        for sample in families["asyncio_tasks_created"].samples
        if sample.labels["coroutine"] == "__main__.works" and sample.name.endswith("_total")
    )


def until(true: Callable[[], bool]) -> None:
    """Wait for something that happens within seconds."""
    ends = time.monotonic() + 300
    while not true():
        assert time.monotonic() < ends
        time.sleep(0.1)


def cut_off(page: Path) -> None:
    """As ``: > 0.page`` does."""
    os.truncate(page, 0)


def cut_in_half(page: Path) -> None:
    """As a copy does that fails."""
    os.truncate(page, page.stat().st_size // 2)


def cut_and_extend(page: Path) -> None:
    """As ``truncate -s 0`` and then the old size: the file is full of holes."""
    size = page.stat().st_size
    os.truncate(page, 0)
    os.truncate(page, size)


def overwrite(page: Path) -> None:
    """As a careless ``dd`` does."""
    with page.open("r+b") as file:
        file.write(b"\xff" * page.stat().st_size)


def overwrite_numbers(page: Path) -> None:
    """Only the header stays."""
    with page.open("r+b") as file:
        file.seek(4096)
        file.write(b"\x7f" * (page.stat().st_size - 4096))


@pytest.mark.parametrize(
    "damage", [cut_off, cut_in_half, cut_and_extend, overwrite, overwrite_numbers]
)
def test_a_service_goes_on_when_its_page_is_damaged(
    service: subprocess.Popen[str], tmp_path: Path, damage: Callable[[Path], None]
) -> None:
    """It stays alive, answers each scrape, says once what happened, and counts again from 0."""
    if IMPLEMENTATION != "c" and damage in (cut_off, cut_in_half, cut_and_extend):
        pytest.skip("without the C core a page that is cut off kills its writer")
    assert service.stdout is not None
    url = service.stdout.readline().strip()
    until(lambda: created(url) > 3010)
    (page,) = tmp_path.glob("*.page")
    damage(page)
    until(lambda: 0 < created(url) < 3000 and service.poll() is None)
    before = created(url)
    until(lambda: created(url) > before)
    service.kill()
    assert service.stderr is not None
    lines = service.stderr.read().splitlines()
    warnings = [line for line in lines if "0.page was overwritten or cut off" in line]
    assert [1, 0] == [len(warnings), sum("Traceback" in line for line in lines)], lines
    assert [] == [line for line in lines if len(line) > 2000]


#: Another handler of the signal, as many programs install it while they start, and the next look of
#: the exporter, which comes each second.
LATE_HANDLER = "faulthandler.enable(); exporter.instrumentation.maintain()"


@pytest.mark.skipif(IMPLEMENTATION != "c", reason="only the C core replaces the memory")
@pytest.mark.parametrize("service", [LATE_HANDLER], indirect=True)
def test_a_handler_that_came_later_does_not_kill(
    service: subprocess.Popen[str], tmp_path: Path
) -> None:
    """The exporter sees that it is no longer asked first."""
    test_a_service_goes_on_when_its_page_is_damaged(service, tmp_path, cut_off)


@pytest.mark.skipif(IMPLEMENTATION != "c", reason="only the C core has a handler")
@pytest.mark.parametrize(
    "service",
    [
        f"{handler}; {fault}"
        for handler in ("faulthandler.enable()", LATE_HANDLER)
        for fault in ("os.kill(os.getpid(), signal.SIGBUS)", "cut_off_another_file()")
    ],
    indirect=True,
)
def test_a_fault_that_is_not_ours_ends_the_program(service: subprocess.Popen[str]) -> None:
    """The handler that came later tells of it once, as without us."""
    _, stderr = service.communicate(timeout=300)
    assert -signal.SIGBUS == service.returncode
    assert 1 == stderr.count("Fatal Python error: Bus error")
