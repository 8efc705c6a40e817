"""Real servers in processes of their own, each started by the command that its users type.

Their applications count the requests that they handle in a file, one byte each, so that what an
exporter shows can be compared with it.
"""

from __future__ import annotations

import http.client
import importlib.util
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from soak import ports
from soak.metrics import Exposition, fetch

LOCAL = "127.0.0.1"
PATIENCE_SECONDS = 300.0

#: The line of code that starts an exporter, before anything else in the module.
LINE = """
import os
import aiometrics
aiometrics.start_exporter(port=int(os.environ["METRICS"]), addr="127.0.0.1")
"""
#: Counts what it handles in a file, one byte each.
COUNT = """
import asyncio, os, sys

HANDLED = os.open(os.environ["HANDLED"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)

async def work():
    os.write(HANDLED, b".")
    await asyncio.sleep(0)
"""
STARLETTE = (
    COUNT
    + """
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route

async def order(request):
    await work()
    return PlainTextResponse(str(os.getpid()))

app = Starlette(routes=[Route("/orders/{id}", order)])

if __name__ == "__main__":
    import uvicorn
    uvicorn.run(
        "web:app",
        port=int(os.environ["PORT"]),
        workers=int(os.environ["WORKERS"]),
        timeout_worker_healthcheck=300,
    )
"""
)
FASTAPI = (
    COUNT
    + """
from fastapi import FastAPI

app = FastAPI()

@app.get("/orders/{id}")
async def order(id: str):
    await work()
    return os.getpid()
"""
)
AIOHTTP = (
    COUNT
    + """
from aiohttp import web

async def order(request):
    await work()
    return web.Response(text=str(os.getpid()))

app = web.Application()
app.router.add_get("/orders/{id}", order)

if __name__ == "__main__":
    web.run_app(app, host="127.0.0.1", port=int(os.environ["PORT"]), print=None)
"""
)
SANIC = (
    COUNT
    + """
from sanic import Sanic
from sanic.response import text

app = Sanic("web")

@app.get("/orders/<id>")
async def order(request, id):
    await work()
    return text(str(os.getpid()))
"""
)


@dataclass(frozen=True)
class Server:
    """A server: the module ``web`` of its application, and the command after ``python``."""

    web: str
    arguments: Sequence[str]
    #: What must be installed.
    needs: Sequence[str] = ()
    #: How many processes run a loop that handles requests.
    workers: int = 1
    environ: Mapping[str, str] = field(default_factory=dict)
    #: Whether the exporter knows the framework's routes.
    routes: bool = True


UVICORN = ("-m", "uvicorn", "web:app", "--port", "{port}")
#: On a busy machine its supervisor would take a worker that starts for one that hangs.
UVICORN_4 = (*UVICORN, "--workers", "4", "--timeout-worker-healthcheck", "300")
GUNICORN = ("-m", "gunicorn", "web:app", "--bind", "127.0.0.1:{port}", "--no-control-socket")
SERVERS = {
    "uvicorn": Server(STARLETTE, UVICORN),
    "uvicorn, 4 workers": Server(STARLETTE, UVICORN_4, workers=4),
    "uvicorn, reload": Server(STARLETTE, (*UVICORN, "--reload")),
    "uvicorn.run in __main__": Server(STARLETTE, ("web.py",), environ={"WORKERS": "1"}),
    "uvicorn.run in __main__, 2 workers": Server(
        STARLETTE, ("web.py",), workers=2, environ={"WORKERS": "2"}
    ),
    "fastapi run": Server(
        FASTAPI, ("-m", "fastapi", "run", "web.py", "--port", "{port}"), ("fastapi_cli",)
    ),
    "fastapi dev": Server(
        FASTAPI, ("-m", "fastapi", "dev", "web.py", "--port", "{port}"), ("fastapi_cli",)
    ),
    "gunicorn, uvicorn's workers": Server(
        STARLETTE, (*GUNICORN, "-w", "2", "-k", "uvicorn_worker.UvicornWorker"), workers=2
    ),
    "gunicorn, preload": Server(
        STARLETTE,
        (*GUNICORN, "-w", "2", "-k", "uvicorn_worker.UvicornWorker", "--preload"),
        workers=2,
    ),
    "gunicorn, aiohttp's workers": Server(
        AIOHTTP, (*GUNICORN, "-w", "2", "-k", "aiohttp.GunicornWebWorker"), workers=2
    ),
    "hypercorn": Server(
        STARLETTE, ("-m", "hypercorn", "web:app", "-w", "2", "-b", "127.0.0.1:{port}"), workers=2
    ),
    "granian": Server(
        STARLETTE,
        ("-m", "granian", "--interface", "asgi", "--workers", "2", "--port", "{port}", "web:app"),
        ("granian",),
        workers=2,
    ),
    "sanic": Server(
        SANIC,
        ("-m", "sanic", "web:app", "--workers", "2", "--port", "{port}", "--no-motd"),
        ("sanic",),
        workers=2,
        routes=False,
    ),
    "aiohttp.run_app": Server(AIOHTTP, ("web.py",)),
    "aiohttp, reload": Server(
        AIOHTTP,
        ("-m", "aiohttp_devtools", "runserver", "--port", "{port}", "--no-livereload", "web.py"),
        ("aiohttp_devtools",),
    ),
}


def until(happened: Callable[[], bool], what: str) -> None:
    """Wait until ``happened()`` is true; fail with ``what`` if that takes too long."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    pause = threading.Event()
    while not happened():
        assert time.monotonic() < deadline, f"waited {PATIENCE_SECONDS} s for {what}"
        pause.wait(0.02)


@dataclass
class Running:
    """A server that runs, its port, and the port of its metrics."""

    process: subprocess.Popen[bytes]
    port: int
    metrics: int
    directory: Path

    def request(self) -> int:
        """Make one request on a connection of its own; return the pid of the worker."""
        connection = http.client.HTTPConnection(LOCAL, self.port, timeout=PATIENCE_SECONDS)
        try:
            connection.request("GET", "/orders/7", headers={"Connection": "close"})
            answer = connection.getresponse()
            assert 200 == answer.status
            return int(answer.read())
        finally:
            connection.close()

    def answers(self) -> bool:
        """Return whether the application answers a request."""
        try:
            self.request()
        except (OSError, http.client.HTTPException):
            # That of a daemon ends as soon as it has started.
            assert self.process.poll() in (None, 0), self.log()
            return False
        return True

    def handled(self) -> int:
        """Return how many requests the workers have counted."""
        path = self.directory / "handled"
        return path.stat().st_size if path.exists() else 0

    def exposition(self) -> Exposition | None:
        """Scrape the port of the metrics; return ``None`` if it does not answer."""
        try:
            return fetch(self.metrics)
        except (OSError, http.client.HTTPException):
            return None

    def counted(self) -> float:
        """Return how many requests there were according to the metrics."""
        return counted(fetch(self.metrics, timeout=PATIENCE_SECONDS))

    def log(self) -> str:
        """Return what its processes have printed."""
        return (self.directory / "log").read_text(encoding="utf-8", errors="replace")

    def end(self, number: int = signal.SIGTERM) -> None:
        """Send the signal and wait for the end of the process that was started."""
        self.process.send_signal(number)
        self.process.wait(PATIENCE_SECONDS)


def counted(metrics: Exposition) -> float:
    """Return how often tasks waited at the yield point where each request waits once."""
    return sum(
        value
        for labels, value in metrics.rows("asyncio_wait_seconds_count")
        if re.fullmatch(r"(?:.*/)?web\.py:\d+ work", labels["yield_point"])
    )


@contextmanager
def running(
    server: Server,
    directory: Path,
    *,
    line: bool = True,
    before: Sequence[str] = (),
    metrics: int | None = None,
    environ: Mapping[str, str] | None = None,
) -> Iterator[Running]:
    """Run a server whose module ``web`` begins with :data:`LINE` if ``line``.

    ``before`` are words before its command; ``{metrics}`` in them is the port. Skips the test if
    something is not installed.
    """
    for module in server.needs:
        if importlib.util.find_spec(module) is None:
            pytest.skip(f"{module} is not installed here")
    (directory / "web.py").write_text((LINE if line else "") + server.web, encoding="utf-8")
    with ExitStack() as stack:
        port = stack.enter_context(ports.reserved())
        if metrics is None:
            metrics = stack.enter_context(ports.reserved())
        output = stack.enter_context((directory / "log").open("wb"))
        process = subprocess.Popen(
            [
                *(word.format(metrics=metrics) for word in before),
                sys.executable,
                *(word.format(port=port) for word in server.arguments),
            ],
            cwd=directory,
            env=environment(directory, metrics, port, {**server.environ, **(environ or {})}),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        found = Running(process, port, metrics, directory)
        try:
            until(found.answers, "the server to answer")
            yield found
        except BaseException:
            sys.stderr.write(found.log())
            raise
        finally:
            end(process)


def environment(
    directory: Path, metrics: int, port: int, more: Mapping[str, str]
) -> dict[str, str]:
    """Return the environment of a program in ``directory``."""
    return {
        **os.environ,
        "HOME": str(directory),
        "HANDLED": str(directory / "handled"),
        "METRICS": str(metrics),
        "PORT": str(port),
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONUNBUFFERED": "1",
        **more,
    }


def end(process: subprocess.Popen[bytes]) -> None:
    """End the server, and then what is left of its session, which it began."""
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        return
