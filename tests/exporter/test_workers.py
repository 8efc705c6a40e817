"""Several processes that share a directory: killed, forked and watched, without losing a number.

No number is counted twice either.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families as parse

from aiometrics.pages.merge import merged
from aiometrics.pages.multiprocess.directory import SharedDirectory
from aiometrics.pages.multiprocess.private_file import REASONS, SUPPORTED

pytestmark = pytest.mark.skipif(not SUPPORTED, reason="this system has no flock()")

SECONDS = 300
Samples = dict[tuple[str, tuple[str, ...]], float]

#: Starts an exporter, then executes orders, one per line of standard input, and answers each.
WORKER = """
import asyncio, ctypes, json, os, sys, threading
import aiometrics
exporter = aiometrics.start_exporter(
    int(sys.argv[1]), "127.0.0.1", directory=sys.argv[2], registry=None, **json.loads(sys.argv[3])
)

async def works():
    await asyncio.sleep(0)

async def idles():
    await asyncio.Event().wait()

async def does(order, number):
    if order == "work":
        for _ in range(number):
            await asyncio.create_task(works())
    elif order == "idle":
        tasks.update(asyncio.create_task(idles()) for _ in range(number))
        await asyncio.sleep(0)
    elif order == "hold":  # the interpreter, until something can be read
        print("holding", flush=True)
        ctypes.PyDLL(None).read(number, ctypes.create_string_buffer(1), 1)

tasks = set()
async def main():
    print(os.getpid(), flush=True)
    while line := await asyncio.to_thread(sys.stdin.readline):
        order, number = line.split()
        await does(order, int(number))
        print("done", flush=True)

asyncio.run(main())
"""


class Worker:
    """A process of the service."""

    def __init__(self, port: int, directory: Path, environ: dict[str, str], **options: Any) -> None:
        #: The worker holds its interpreter while it reads from the gate; the opener ends that.
        self.gate, self._opener = os.pipe()
        self.process = subprocess.Popen(
            [sys.executable, "-c", WORKER, str(port), str(directory), json.dumps(options)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environ,
            pass_fds=[self.gate],
        )
        assert str(self.process.pid) == self.hear()

    def hear(self) -> str:
        """Return the worker's next line."""
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def tell(self, order: str, number: int) -> None:
        """Have the worker do something, and wait until it is done."""
        self.say(order, number)
        assert "done" == self.hear()

    def say(self, order: str, number: int) -> None:
        """Have the worker begin to do something."""
        assert self.process.stdin is not None
        self.process.stdin.write(f"{order} {number}\n")
        self.process.stdin.flush()

    def release(self) -> None:
        """Let the worker release its interpreter."""
        os.write(self._opener, b"x")

    def kill(self) -> None:
        """Kill the worker, as the system does when memory is short."""
        if self.process.returncode is not None:
            return
        self.process.kill()
        self.process.wait()
        os.close(self.gate)
        os.close(self._opener)
        for stream in (self.process.stdin, self.process.stdout):
            with suppress(BrokenPipeError):
                assert stream is not None
                stream.close()


class Service:
    """A directory, a port, and processes that share them."""

    def __init__(self, directory: Path, port: int) -> None:
        self.directory = directory
        self.port = port
        #: What its processes have in their environment.
        self.environ = dict(os.environ)
        self._workers: list[Worker] = []

    def start(self, **options: Any) -> Worker:
        """Start another process."""
        self._workers.append(Worker(self.port, self.directory, self.environ, **options))
        return self._workers[-1]

    def scrape(self) -> Samples:
        """Return the samples that the port serves, as soon as a process answers."""
        return samples(f"http://127.0.0.1:{self.port}/metrics")

    def stop(self) -> None:
        """Kill all processes."""
        for worker in self._workers:
            worker.kill()


def samples(url: str) -> Samples:
    """Return all samples of an address, as soon as a process answers there."""
    deadline = time.monotonic() + SECONDS
    text = ""
    while not text:
        assert time.monotonic() < deadline, f"nobody answers at {url}"
        with suppress(OSError), urllib.request.urlopen(url, timeout=SECONDS) as answer:  # noqa: S310 - to ourselves
            text = answer.read().decode()
    return sampled(text)


def sampled(text: str) -> Samples:
    """Return all samples of a text."""
    return {
        (sample.name, tuple(sample.labels.values())): sample.value
        for family in parse(text)
        for sample in family.samples
    }


def by(found: Samples, name: str) -> dict[str, float]:
    """Return the samples of a metric with one label."""
    return {labels[0]: value for (metric, labels), value in found.items() if metric == name}


def created(found: Samples) -> tuple[float, float]:
    """Return the number of tasks that worked, and of tasks that are idle now."""
    works, idles = (
        by(found, "asyncio_tasks_created_total").get("__main__.works", 0),
        by(found, "asyncio_tasks").get("__main__.idles", 0),
    )
    return works, idles


def falls(earlier: Samples, later: Samples) -> list[Any]:
    """Return the counters and histograms that went down or vanished."""
    counts = ("_total", "_bucket", "_count", "_sum")
    return [
        (key, value, later.get(key))
        for key, value in earlier.items()
        if key[0].endswith(counts) and later.get(key, -1) < value
    ]


@pytest.fixture
def service(tmp_path: Path, free_port: int) -> Iterator[Service]:
    """A service without processes."""
    made = Service(tmp_path / "shared", free_port)
    yield made
    made.stop()


def test_one_port_shows_all_processes(service: Service) -> None:
    """Tasks are added up; each loop shows by its number, with the id of its process."""
    workers = [service.start() for _ in range(3)]
    for number, worker in enumerate(workers, 1):
        worker.tell("work", 100 * number)
        worker.tell("idle", number)
    found = service.scrape()
    assert (600, 6) == created(found)
    assert {str(number): worker.process.pid for number, worker in enumerate(workers)} == by(
        found, "asyncio_loop_process_id"
    )
    assert dict.fromkeys(REASONS, 0) == by(found, "aiometrics_skipped_pages")


def test_when_one_is_killed_another_answers_and_no_counter_falls(service: Service) -> None:
    """A new process takes the slot of a killed one, and continues its counters.

    That holds again and again, also for the process that has the port.
    """
    workers = [service.start(), service.start()]
    total, shown = 0, service.scrape()
    for _ in range(2):
        for worker in workers:
            worker.tell("work", 50)
            worker.tell("idle", 1)
        total += 100
        before = service.scrape()
        workers.pop(0).kill()
        after = service.scrape()
        assert ([], []) == (falls(shown, before), falls(before, after))
        # The youngest process has its own tasks and those of its slot's former owners.
        assert total == created(after)[0]
        assert [0] == [
            pid
            for pid in by(after, "asyncio_loop_process_id").values()
            if pid not in [w.process.pid for w in workers]
        ]
        workers.append(service.start())
        shown = service.scrape()
        assert [] == falls(after, shown)
        assert sorted(worker.process.pid for worker in workers) == sorted(
            by(shown, "asyncio_loop_process_id").values()
        )
    assert ["0.page", "1.page"] == sorted(path.name for path in service.directory.iterdir())


@pytest.fixture
def sidecar(service: Service) -> Iterator[str]:
    """The address of a sidecar that was started before the directory existed."""
    command = [
        sys.executable,
        "-m",
        "aiometrics",
        "serve",
        "--directory",
        str(service.directory),
        "--port",
        "0",
        "--addr",
        "127.0.0.1",
    ]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        yield process.stdout.readline().split()[-1]
        process.send_signal(signal.SIGTERM)
        assert 0 == process.wait()


def test_a_sidecar_waits_for_the_directory(sidecar: str, service: Service) -> None:
    """It shows nothing while there is nothing, and then the service's numbers."""
    assert {} == by(samples(sidecar), "asyncio_loop_process_id")
    worker = service.start()
    worker.tell("work", 10)
    found = samples(sidecar)
    assert (10, {"0": worker.process.pid}) == (
        created(found)[0],
        by(found, "asyncio_loop_process_id"),
    )
    assert {("none", "none")} == {
        labels[1:3] for name, labels in found if name == "aiometrics_build_info"
    }


def test_a_sidecar_answers_while_a_worker_holds_its_interpreter(
    sidecar: str, service: Service
) -> None:
    """The block shows and grows while the worker cannot answer, and no counter falls afterwards."""
    worker = service.start(blocking_threshold=1e-9)
    worker.tell("work", 10)
    worker.say("hold", worker.gate)
    assert "holding" == worker.hear()
    shown = [samples(sidecar) for _ in range(3)]
    worker.release()
    assert "done" == worker.hear()
    shown.append(samples(sidecar))
    assert [[], [], []] == [falls(earlier, later) for earlier, later in pairwise(shown)]
    one, two, three, _ = (by(found, "asyncio_loop_blocking_seconds_total")["0"] for found in shown)
    assert 0 < one < two < three
    running = ("asyncio_blocking_seconds_total", ("__main__.main", "(running)", "(running)"))
    assert 0 < shown[0][running] < shown[1][running] < shown[2][running]


def test_a_sidecar_answers_after_all_were_killed(sidecar: str, service: Service) -> None:
    """Counters stay; there are no live tasks and no processes."""
    for _ in range(2):
        worker = service.start()
        worker.tell("work", 10)
        worker.tell("idle", 2)
    before = samples(sidecar)
    service.stop()
    after = samples(sidecar)
    assert [(20, 4), (20, 0)] == [created(before), created(after)]
    assert [] == falls(before, after)
    assert {"0": 0, "1": 0} == by(after, "asyncio_loop_process_id")
    assert ({}, {}) == (
        by(after, "asyncio_loop_heartbeat_timestamp_seconds"),
        by(after, "asyncio_loop_ready_handles"),
    )


MULTIPROCESS = """
import os, sys, urllib.request
from prometheus_client import Counter
import aiometrics
Counter("orders", "Orders taken.").inc(int(sys.argv[1]))
with aiometrics.start_exporter(0, "127.0.0.1", directory=sys.argv[2]) as exporter:
    texts = [urllib.request.urlopen(exporter.url).read().decode() for _ in range(2)]
print(texts[-1])  # an error in a scrape shows in the next one
"""


def test_metrics_of_the_application_are_those_of_all_its_processes(tmp_path: Path) -> None:
    """prometheus_client collects them in a directory.

    An unreadable file there costs these metrics, and nothing else.
    """
    multiprocess = tmp_path / "prometheus"
    multiprocess.mkdir()
    environ = {**os.environ, "PROMETHEUS_MULTIPROC_DIR": str(multiprocess)}
    found: list[Samples] = []
    for orders in (2, 3, 4):
        if orders == 4:
            (multiprocess / "counter_1.db").write_bytes(b"\xff" * 3)
        command = [sys.executable, "-c", MULTIPROCESS, str(orders), str(tmp_path / "shared")]
        done = subprocess.run(command, check=True, capture_output=True, text=True, env=environ)
        found.append(sampled(done.stdout))
    assert [2, 5, None] == [page.get(("orders_total", ())) for page in found]
    assert [None, None, 1] == [
        page.get(("aiometrics_errors_total", ("registry",))) for page in found
    ]


def test_no_counter_falls_for_a_reader_under_load(service: Service, implementation: str) -> None:
    """The writer never rests, and blocks now and then: every copy is of one moment.

    The last copy has everything.
    """
    service.environ["AIOMETRICS_NO_EXTENSIONS"] = "" if implementation == "c" else "1"
    worker = service.start(blocking_threshold=1e-5)
    worker.tell("work", 1)
    shared, tasks = (
        SharedDirectory(str(service.directory)),
        20_000 if implementation == "c" else 2_000,
    )
    worker.say("work", tasks)
    numbers: list[tuple[int, ...]] = []
    while not numbers or numbers[-1][0] <= tasks:
        (page,) = shared.read((), None, time.monotonic_ns(), time.time_ns()).pages.values()
        seen = merged([page], taken_ns=0, sample_ratio=1)
        (loop,) = seen.loops
        blocking = sum(point.blocking_ns for point in seen.yield_points)
        numbers.append(
            (
                seen.coroutine("__main__.works").created,
                loop.active_ns,
                loop.idle_ns or 0,
                loop.blocking_ns,
                blocking,
            )
        )
    assert "done" == worker.hear()
    for column in zip(*numbers, strict=True):
        assert sorted(column) == list(column)
