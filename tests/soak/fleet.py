"""gunicorn with workers that count themselves, in files that outlive them, beside what their metrics say."""

from __future__ import annotations

import http.client
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from . import ports

HERE = Path(__file__).parent
#: As ``service.NAMES`` has them.
NAMES = ("created", "completed", "failed", "waits")
PATIENCE_SECONDS = 300.0
_ADDRESS = re.compile(r"Listening at: http://127\.0\.0\.1:(\d+)")


@dataclass(frozen=True)
class Fleet:
    """The workers' master, where they serve, where their metrics are, and where their counts."""

    process: subprocess.Popen[str]
    port: int
    metrics_port: int
    counts: Path

    def counted(self) -> dict[str, int]:
        """What all workers that ever were have counted."""
        files = [memoryview(path.read_bytes()).cast("q") for path in self.counts.iterdir()]
        return {name: sum(file[number] for file in files) for number, name in enumerate(NAMES)}

    def started(self) -> int:
        """How many workers ever were."""
        return len(list(self.counts.iterdir()))

    def owner(self) -> int | None:
        """The worker that listens on the metrics' port."""
        return ports.owner(self.metrics_port, self.process.pid)


@contextmanager
def fleet(directory: Path, workers: int) -> Iterator[Fleet]:
    """So many workers, up and serving, with their pages and counts below ``directory``."""
    counts = directory / "counts"
    counts.mkdir()
    with ports.reserved() as metrics_port:
        environ = {
            **os.environ,
            "AIOMETRICS_ADDR": ports.LOCAL,
            "AIOMETRICS_PORT": str(metrics_port),
            "AIOMETRICS_DIR": str(directory / "pages"),
            "COUNTS": str(counts),
            "HOME": str(directory),
        }
        gunicorn = [
            sys.executable,
            "-P",
            "-m",
            "gunicorn",
            "--worker-class",
            "uvicorn_worker.UvicornWorker",
            "--workers",
            str(workers),
        ]
        command = [*gunicorn, "--bind", f"{ports.LOCAL}:0", "--chdir", str(HERE), "service:app"]
        with subprocess.Popen(command, env=environ, stderr=subprocess.PIPE, text=True) as process:
            assert process.stderr is not None
            try:
                said = ""
                while (address := _ADDRESS.search(said)) is None or said.count(
                    "startup complete"
                ) < workers:
                    line = process.stderr.readline()
                    assert line, said
                    said += line
                reader = threading.Thread(target=process.stderr.read)
                reader.start()
                until(lambda: answers(metrics_port), "the metrics' port to answer")
                yield Fleet(process, int(address[1]), metrics_port, counts)
            finally:
                process.terminate()
            reader.join()


def answers(port: int) -> bool:
    """Whether somebody is there."""
    connection = http.client.HTTPConnection(ports.LOCAL, port, timeout=5)
    try:
        connection.request("GET", "/-/healthy")
        return connection.getresponse().status == http.client.OK
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def until(happened: Callable[[], bool], what: str) -> None:
    """Wait for something that will happen. Raises ``TimeoutError`` if it does not."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not happened():
        if time.monotonic() > deadline:
            raise TimeoutError(f"waited {PATIENCE_SECONDS:g} s for {what}")
        time.sleep(0.02)
