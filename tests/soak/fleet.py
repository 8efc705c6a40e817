"""gunicorn with workers that count what they do, in files that outlive them."""

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
#: Names of the counts, in the order of ``service.NAMES``.
NAMES = ("created", "completed", "failed", "waits")
PATIENCE_SECONDS = 300.0
_ADDRESS = re.compile(r"Listening at: http://127\.0\.0\.1:(\d+)")


@dataclass(frozen=True)
class Fleet:
    """gunicorn's master process, the ports of service and metrics, and the workers' counts."""

    process: subprocess.Popen[str]
    port: int
    metrics_port: int
    counts: Path

    def counted(self) -> dict[str, int]:
        """Return the sums of what all workers have counted, including those that have ended."""
        files = [memoryview(path.read_bytes()).cast("q") for path in self.counts.iterdir()]
        return {name: sum(file[number] for file in files) for number, name in enumerate(NAMES)}

    def started(self) -> int:
        """Return how many workers have ever started."""
        return len(list(self.counts.iterdir()))

    def owner(self) -> int | None:
        """Return the process id of the worker that listens on the metrics' port."""
        return ports.owner(self.metrics_port, self.process.pid)


@contextmanager
def fleet(directory: Path, workers: int) -> Iterator[Fleet]:
    """Run workers with their pages and counts below ``directory``; yield when all serve."""
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
                log = ""
                while (address := _ADDRESS.search(log)) is None or log.count(
                    "startup complete"
                ) < workers:
                    line = process.stderr.readline()
                    assert line, log
                    log += line
                reader = threading.Thread(target=process.stderr.read)
                reader.start()
                until(lambda: answers(metrics_port), "the metrics' port to answer")
                yield Fleet(process, int(address[1]), metrics_port, counts)
            finally:
                process.terminate()
            reader.join()


def answers(port: int) -> bool:
    """Whether a server on the port answers that it is healthy."""
    connection = http.client.HTTPConnection(ports.LOCAL, port, timeout=5)
    try:
        connection.request("GET", "/-/healthy")
        return connection.getresponse().status == http.client.OK
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def until(happened: Callable[[], bool], what: str) -> None:
    """Wait until ``happened()`` is true.

    Raises ``TimeoutError`` with ``what`` if that takes too long.
    """
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not happened():
        if time.monotonic() > deadline:
            raise TimeoutError(f"waited {PATIENCE_SECONDS:g} s for {what}")
        time.sleep(0.02)
