"""Starts each server in each way and prints a table: ``python -m support.matrix`` in ``tests``.

A server passes if it answers as it does bare, its requests are counted exactly at one port, and
each has its route. Words select servers whose names contain one of them. What is not installed is
shown as such; the other exporters need ``opentelemetry-distro`` with its exporter for Prometheus
and its instrumentations, and ``ddtrace``. In the last two ways they are alone: ``opentelemetry``
counts what its own exporter shows, of which each process has its own, and one has the port.
"""

from __future__ import annotations

import argparse
import http.client
import importlib.util
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
from soak import ports
from soak.metrics import Exposition, fetch, parsed

from support import servers
from support.servers import (
    AIOHTTP,
    COUNT,
    GUNICORN,
    LINE,
    SERVERS,
    STARLETTE,
    UVICORN,
    UVICORN_4,
    Running,
    Server,
    running,
)

REQUESTS = 60
ROUTE = "GET /orders/{id}"
RUN = (sys.executable, "-m", "aiometrics", "run", "--port", "{metrics}", "--addr", "127.0.0.1")
OTEL = str(Path(sys.executable).parent / "opentelemetry-instrument")
DDTRACE = str(Path(sys.executable).parent / "ddtrace-run")

ON_OTHER_LOOPS = {
    "uvicorn, asyncio": Server(STARLETTE, (*UVICORN, "--loop", "asyncio")),
    "uvicorn, 4 workers, asyncio": Server(STARLETTE, (*UVICORN_4, "--loop", "asyncio"), workers=4),
    "hypercorn, uvloop": replace(
        SERVERS["hypercorn"], arguments=(*SERVERS["hypercorn"].arguments, "-k", "uvloop")
    ),
    "gunicorn, aiohttp's workers, uvloop": Server(
        AIOHTTP, (*GUNICORN, "-w", "2", "-k", "aiohttp.GunicornUVLoopWebWorker"), workers=2
    ),
    "aiohttp.run_app, uvloop": Server(
        AIOHTTP.replace("print=None", "print=None, loop=__import__('uvloop').new_event_loop()"),
        ("web.py",),
    ),
    "gunicorn, max_requests": replace(
        SERVERS["gunicorn, uvicorn's workers"],
        arguments=(*SERVERS["gunicorn, uvicorn's workers"].arguments, "--max-requests", "20"),
    ),
}


@dataclass(frozen=True)
class Way:
    """How an exporter comes into a server, and how many requests it shows."""

    line: bool = False
    before: tuple[str, ...] = ()
    environ: Mapping[str, str] = field(default_factory=dict)
    counted: Callable[[Exposition], float] | None = servers.counted
    routes: Callable[[Exposition], Mapping[str, float]] | None = None


def _ours(metrics: Exposition) -> Mapping[str, float]:
    return metrics.by("request", "asyncio_request_wall_seconds_count")


def _of_opentelemetry(metrics: Exposition) -> float:
    names = (
        "http_server_duration_milliseconds_count",
        "http_server_request_duration_seconds_count",
    )
    return sum(value for name in names for _, value in metrics.rows(name))


_OTEL_ENVIRON = {
    "OTEL_METRICS_EXPORTER": "prometheus",
    "OTEL_TRACES_EXPORTER": "none",
    "OTEL_LOGS_EXPORTER": "none",
    "OTEL_EXPORTER_PROMETHEUS_HOST": "127.0.0.1",
}
WAYS = {
    "bare": Way(counted=None),
    "line": Way(line=True),
    "run": Way(before=(*RUN, "--"), routes=_ours),
    "run -- opentelemetry": Way(
        before=(*RUN, "--", OTEL),
        environ={**_OTEL_ENVIRON, "OTEL_METRICS_EXPORTER": "none"},
        routes=_ours,
    ),
    "run -- ddtrace": Way(
        before=(*RUN, "--", DDTRACE), environ={"DD_TRACE_ENABLED": "false"}, routes=_ours
    ),
    "opentelemetry, line": Way(
        before=(OTEL,), line=True, environ={**_OTEL_ENVIRON, "OTEL_METRICS_EXPORTER": "none"}
    ),
    "ddtrace, line": Way(before=(DDTRACE,), line=True, environ={"DD_TRACE_ENABLED": "false"}),
    "opentelemetry": Way(
        before=(OTEL,),
        environ={**_OTEL_ENVIRON, "OTEL_EXPORTER_PROMETHEUS_PORT": "{metrics}"},
        counted=_of_opentelemetry,
    ),
    "ddtrace": Way(before=(DDTRACE,), environ={"DD_TRACE_ENABLED": "false"}, counted=None),
}


def outcome(server: Server, way: Way) -> str:
    """Start the server, ask it, and return what became of that in a few words."""
    with tempfile.TemporaryDirectory() as name, ports.reserved() as port:
        environ = {key: text.format(metrics=port) for key, text in way.environ.items()}
        try:
            with running(
                server,
                Path(name),
                line=way.line,
                before=way.before,
                metrics=port,
                environ=environ,
            ) as found:
                return _asked(found, server, way)
        except pytest.skip.Exception as skipped:
            return str(skipped.msg).removesuffix(" here")
        except AssertionError:
            return "does not answer"


def _asked(found: Running, server: Server, way: Way) -> str:
    for _ in range(REQUESTS):
        servers.until(found.answers, "an answer")
    if way.counted is None:
        return "ok"
    deadline = time.monotonic() + 10
    shown = found.exposition()
    while (shown is None or way.counted(shown) != found.handled()) and time.monotonic() < deadline:
        time.sleep(0.1)
        shown = found.exposition()
    if shown is None:
        return "no metrics"
    if way.counted(shown) != found.handled():
        return f"{way.counted(shown):.0f} of {found.handled()}"
    if way.routes is not None and server.routes and {ROUTE: found.handled()} != way.routes(shown):
        return f"ok, routes {dict(way.routes(shown))}"
    return "ok"


PROGRAMS = {
    "script": "asyncio.run(main())",
    "batch job": "for _ in range(3): asyncio.run(main())",
}
_MAIN = """
async def main():
    for _ in range(20):
        await asyncio.create_task(work())
"""
_SHOW = """
import urllib.request
print(urllib.request.urlopen(f"http://127.0.0.1:{os.environ['METRICS']}/metrics").read().decode())
"""
_CELERY = """
import celery
app = celery.Celery("web", broker="filesystem://", backend="file://" + os.getcwd())
app.conf.broker_transport_options = {
    "data_folder_in": "queue", "data_folder_out": "queue", "control_folder": "control"
}

@app.task
def run():
    asyncio.run(main())
    return os.getpid()
"""


def program(code: str, way: Way) -> str:
    """Run a program that counts its steps and shows its own metrics at its end."""
    with tempfile.TemporaryDirectory() as name, ports.reserved() as port:
        directory = Path(name)
        text = (LINE if way.line else "") + COUNT + _MAIN + code
        (directory / "web.py").write_text(text + (_SHOW if way.counted else ""), encoding="utf-8")
        done = subprocess.run(
            [*(word.format(metrics=port) for word in way.before), sys.executable, "web.py"],
            cwd=name,
            env=servers.environment(directory, port, 0, way.environ),
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode or way.counted is None:
            return f"ends with {done.returncode}" if done.returncode else "ok"
        return _compared(parsed(done.stdout.strip()), directory, way)


def _compared(shown: Exposition, directory: Path, way: Way) -> str:
    counted = 0.0 if way.counted is None else way.counted(shown)
    handled = (directory / "handled").stat().st_size
    return "ok" if counted == handled else f"{counted:.0f} of {handled}"


@contextmanager
def _celery(directory: Path, port: int, way: Way) -> Iterator[Mapping[str, str]]:
    """Run a worker of Celery with two processes; yield the environment of its clients."""
    (directory / "web.py").write_text((LINE if way.line else "") + COUNT + _MAIN + _CELERY)
    (directory / "client.py").write_text(COUNT + _MAIN + _CELERY)
    for folder in ("queue", "control"):
        (directory / folder).mkdir()
    environ = servers.environment(directory, port, 0, way.environ)
    words = ("-m", "celery", "-A", "web", "worker", "-c", "2", "-l", "warning")
    worker = subprocess.Popen(
        [*(word.format(metrics=port) for word in way.before), sys.executable, *words],
        cwd=directory,
        env=environ,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        yield environ
    finally:
        servers.end(worker)


def celery(way: Way) -> str:
    """Have two processes of Celery run tasks that run loops."""
    if importlib.util.find_spec("celery") is None:
        return "celery is not installed"
    with (
        tempfile.TemporaryDirectory() as name,
        ports.reserved() as port,
        _celery(Path(name), port, way) as environ,
    ):
        code = "import client; found = [client.app.send_task('web.run') for _ in range(10)]\n"
        code += "print(len({one.get(timeout=60) for one in found}))"
        done = subprocess.run(
            [sys.executable, "-c", code],
            cwd=name,
            env={**environ},
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode or way.counted is None:
            return f"client ends with {done.returncode}" if done.returncode else "ok"
        try:
            return _compared(fetch(port), Path(name), way)
        except (OSError, http.client.HTTPException):
            return "no metrics"


def main(arguments: list[str]) -> None:
    """Print a row of each server, and of each program, as soon as it is known."""
    parser = argparse.ArgumentParser(prog="python -m support.matrix")
    parser.add_argument("words", nargs="*", help="parts of the names of servers")
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS))
    chosen = parser.parse_args(arguments)
    servers.PATIENCE_SECONDS = 200.0
    rows: dict[str, Callable[[Way], str]] = {
        name: lambda way, server=server: outcome(server, way)  # type: ignore[misc]
        for name, server in {**SERVERS, **ON_OTHER_LOOPS}.items()
    }
    rows |= {
        name: lambda way, code=code: program(code, way)  # type: ignore[misc]
        for name, code in PROGRAMS.items()
    }
    rows["Celery, prefork"] = celery
    _print("server", *chosen.ways)
    _print(*["---"] * (len(chosen.ways) + 1))
    for name, result in rows.items():
        if not chosen.words or any(word in name for word in chosen.words):
            _print(name, *(result(WAYS[way]) for way in chosen.ways))


def _print(*cells: str) -> None:
    sys.stdout.write(f"| {' | '.join(cells)} |\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main(sys.argv[1:])
