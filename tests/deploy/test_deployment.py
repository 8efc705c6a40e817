"""The programs and commands in docs/deployment.md run as they stand there.

Only addresses and paths are replaced.
"""

from __future__ import annotations

import http.client
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from soak import ports
from soak.metrics import Exposition, fetch

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs/deployment.md").read_text(encoding="utf-8")
LOCAL = "127.0.0.1"
WORKERS = "How do I run it with several workers?"
GUNICORN = "How do I run it under gunicorn with uvicorn's workers?"
UVICORN = "How do I run it under `uvicorn --workers`?"
HYPERCORN = "How do I run it under hypercorn?"
AIOHTTP = "How do I run aiohttp under gunicorn?"
THREADS = "How do I run several loops in threads of one process?"
STUCK = "How do I get an answer while every worker is stuck?"
KUBERNETES = "How do I run it on Kubernetes?"
PROMETHEUS = "How does Prometheus find it?"
BATCH = "How do I get the metrics of a batch job?"
PATIENCE_SECONDS = 300.0

#: The application of the examples. It writes one byte for each request into a file that outlives
#: its workers.
ASGI = """
import asyncio, os

HANDLED = os.open("handled", os.O_WRONLY | os.O_APPEND | os.O_CREAT)

async def work():
    os.write(HANDLED, b".")
    await asyncio.sleep(0)

async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        while True:
            message = await receive()
            await send({"type": message["type"] + ".complete"})
            if message["type"] == "lifespan.shutdown":
                return
    await work()
    headers = [(b"content-length", b"0")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": b""})
"""
WEB = """
import asyncio, os
from aiohttp import web

HANDLED = os.open("handled", os.O_WRONLY | os.O_APPEND | os.O_CREAT)

async def work():
    os.write(HANDLED, b".")
    await asyncio.sleep(0)

async def handle(request):
    await work()
    return web.Response()

app = web.Application()
app.router.add_get("/", handle)
"""


def section(heading: str) -> str:
    """Return the text below a question."""
    found: str = PAGE.split(f"\n## {heading}\n")[1].split("\n## ")[0]
    return found


def blocks(heading: str, language: str) -> list[str]:
    """Return the fenced blocks of one language below a question."""
    return re.findall(
        rf"^```{language}\n(.*?)^```", section(heading), flags=re.DOTALL | re.MULTILINE
    )


def block(heading: str, language: str) -> str:
    """Return the only fenced block of a language below a question."""
    (found,) = blocks(heading, language)
    return found


def python(directory: Path, *arguments: str) -> str:
    """Run Python in ``directory`` and return what it prints; fail the test if it fails."""
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=directory,
        check=False,
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
    )
    assert (0, "") == (done.returncode, done.stderr), done.stdout
    return done.stdout


def until(happened: Callable[[], bool], what: str) -> None:
    """Wait until ``happened()`` is true; fail with ``what`` if that takes too long."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    pause = threading.Event()
    while not happened():
        assert time.monotonic() < deadline, f"waited {PATIENCE_SECONDS} s for {what}"
        pause.wait(0.02)


def waits_of(metrics: Exposition) -> float:
    """Return how often tasks waited at the yield point where each request waits once."""
    return sum(
        value
        for labels, value in metrics.rows("asyncio_wait_seconds_count")
        if re.fullmatch(r"shop\.py:\d+ work", labels["yield_point"])
    )


def loops_of(metrics: Exposition) -> set[str]:
    """Return the loops in the metrics."""
    return set(metrics.by("loop", "asyncio_loop_start_delay_seconds_count"))


@dataclass
class Server:
    """A server with workers, its port, the port of its metrics and its directory."""

    process: subprocess.Popen[str]
    port: int
    metrics: int
    directory: Path

    def request(self) -> None:
        """Make one request on a connection of its own."""
        connection = http.client.HTTPConnection(LOCAL, self.port, timeout=PATIENCE_SECONDS)
        try:
            connection.request("GET", "/", headers={"Connection": "close"})
            assert 200 == connection.getresponse().status
        finally:
            connection.close()

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

    def scraped(self) -> Exposition:
        """Return the metrics as soon as the port answers; its owner may just be ending."""
        found: list[Exposition] = []

        def answered() -> bool:
            answer = self.exposition()
            found[:] = [] if answer is None else [answer]
            return answer is not None

        until(answered, "a worker to answer scrapes")
        return found[0]

    def waits(self) -> float:
        """Return how many requests there were according to the metrics."""
        return waits_of(self.scraped())

    def loops(self) -> set[str]:
        """Return the loops in the metrics."""
        metrics = self.exposition()
        return set() if metrics is None else loops_of(metrics)

    def owner(self) -> int | None:
        """Return the process id of the worker that has the port of the metrics."""
        return ports.owner(self.metrics, self.process.pid)

    def pages(self) -> list[str]:
        """Return the names of the files in the shared directory."""
        return sorted(path.name for path in (self.directory / "pages").iterdir())


LINUX = pytest.mark.skipif(
    sys.platform != "linux", reason="only Linux shows in /proc which process listens on a port"
)


@pytest.fixture
def directory() -> Iterator[Path]:
    """Return a directory in memory, as the documentation recommends."""
    with tempfile.TemporaryDirectory(dir="/dev/shm") as name:
        yield Path(name)


SERVERS = {
    "gunicorn": (GUNICORN, ASGI, r"Listening at: http://127\.0\.0\.1:(\d+)", []),
    # The control socket is off, since it would be one more loop.
    "gunicorn --preload": (
        GUNICORN,
        ASGI,
        r"Listening at: http://127\.0\.0\.1:(\d+)",
        ["--preload", "--no-control-socket"],
    ),
    # On a busy machine its supervisor would take a worker that starts for one that hangs.
    "uvicorn": (
        UVICORN,
        ASGI,
        r"running on http://127\.0\.0\.1:(\d+)",
        ["--timeout-worker-healthcheck", "60"],
    ),
    "hypercorn": (HYPERCORN, ASGI, r"Running on http://127\.0\.0\.1:(\d+)", []),
    "aiohttp": (AIOHTTP, WEB, r"Listening at: http://127\.0\.0\.1:(\d+)", []),
    "aiohttp on uvloop": (
        AIOHTTP,
        WEB,
        r"Listening at: http://127\.0\.0\.1:(\d+)",
        ["--worker-class", "aiohttp.GunicornUVLoopWebWorker"],
    ),
}


def command(heading: str, *options: str) -> list[str]:
    """Return the documented command, with the server on a free port of this machine."""
    line = block(heading, "console").splitlines()[-1].removeprefix("$ ")
    program, *arguments = shlex.split(
        line.replace("0.0.0.0:8000", f"{LOCAL}:0").replace(
            "--host 0.0.0.0 --port 8000", f"--host {LOCAL} --port 0"
        )
    )
    return [sys.executable, "-m", program, *arguments, *options]


@contextmanager
def served(name: str, directory: Path, *more: str) -> Iterator[Server]:
    """Run a server with ``more`` options; yield when both workers are in the metrics."""
    heading, shop, announces, options = SERVERS[name]
    (directory / "shop.py").write_text(shop, encoding="utf-8")
    with ports.reserved() as metrics:
        web = (
            block(WORKERS, "python")
            .replace("9400", str(metrics))
            .replace("/run/aiometrics", str(directory / "pages"))
        )
        (directory / "web.py").write_text(web, encoding="utf-8")
        env = {
            **os.environ,
            "AIOMETRICS_ADDR": LOCAL,
            "HOME": str(directory),
            "PYTHONDONTWRITEBYTECODE": "1",
        }
        log = directory / "log"
        with log.open("w", encoding="utf-8") as output:
            process = subprocess.Popen(
                command(heading, *options, *more),
                cwd=directory,
                env=env,
                stdout=output,
                stderr=subprocess.STDOUT,
                text=True,
            )
        try:
            until(
                lambda: re.search(announces, log.read_text(encoding="utf-8")) is not None,
                f"the server to announce {announces}",
            )
            announced = re.search(announces, log.read_text(encoding="utf-8"))
            assert announced is not None
            server = Server(process, int(announced[1]), metrics, directory)
            until(lambda: len(server.loops()) == 2, "two workers")
            yield server
        except BaseException:
            sys.stderr.write(log.read_text(encoding="utf-8"))
            raise
        finally:
            process.terminate()
            process.wait(timeout=PATIENCE_SECONDS)


@LINUX
@pytest.mark.parametrize("name", SERVERS)
def test_one_port_shows_the_requests_of_all_workers(name: str, directory: Path) -> None:
    """The metrics have the loops of both workers, and count each request once."""
    with served(name, directory) as server:
        for _ in range(40):
            server.request()
        metrics = server.scraped()
        assert (40, 40, {"0", "1"}) == (server.handled(), waits_of(metrics), loops_of(metrics))


@LINUX
def test_nothing_is_lost_when_workers_restart_all_the_time(directory: Path) -> None:
    """A worker continues the counters of the one that it replaces, in the same slot."""
    with served("gunicorn", directory, "--max-requests", "5") as server:
        requests = 0
        while (directory / "log").read_text(encoding="utf-8").count("Booting worker") < 6:
            try:
                server.request()
            except (
                OSError,
                http.client.HTTPException,
            ):  # the worker was about to exit, and has counted whether it handled the request
                continue
            requests += 1
        metrics = server.scraped()
        assert requests <= server.handled() == waits_of(metrics)
        assert 3 >= len(loops_of(metrics))
        assert 3 >= len(server.pages())


@LINUX
def test_another_worker_takes_the_port_when_its_owner_is_killed(directory: Path) -> None:
    """The counts of the killed worker are kept."""
    with served("uvicorn", directory) as server:
        for _ in range(20):
            server.request()
        owner = server.owner()
        assert owner is not None
        os.kill(owner, signal.SIGKILL)
        until(lambda: server.owner() not in {None, owner}, "another worker to take the port")
        for _ in range(20):
            server.request()
        assert (40, 40) == (server.handled(), server.waits())


@LINUX
def test_the_sidecar_shows_the_metrics_of_workers_that_have_ended(directory: Path) -> None:
    """It shows them while workers run, and after all of them have ended."""
    line = (
        block(STUCK, "console")
        .removeprefix("$ python ")
        .replace("9400", "0")
        .replace("/run/aiometrics", str(directory / "pages"))
    )
    with subprocess.Popen(
        [sys.executable, *shlex.split(line), "--addr", LOCAL], stdout=subprocess.PIPE, text=True
    ) as sidecar:
        assert sidecar.stdout is not None
        try:
            announced = sidecar.stdout.readline()
            assert announced.startswith("metrics  ")
            port = int(announced.partition(f"{LOCAL}:")[2].partition("/")[0])
            with served("uvicorn", directory) as server:
                server.request()
                assert 1 == waits_of(fetch(port))
            assert 1 == waits_of(fetch(port))
        finally:
            sidecar.terminate()


def test_loops_in_threads_are_named_after_their_threads(directory: Path) -> None:
    """One exporter traces two loops that run at the same time in one process."""
    shop = """
import threading
import aiometrics
both = threading.Barrier(2)
async def main():
    both.wait(300)
    if both.wait(300) == 0:
        print(sorted(loop.loop for loop in aiometrics.snapshot().loops))
"""
    (directory / "shop.py").write_text(shop, encoding="utf-8")
    assert "['invoices', 'orders']\n" == python(
        directory, "-c", block(THREADS, "python").replace("9400", "0")
    )


def test_the_batch_job_delivers(directory: Path) -> None:
    """The example delivers its main coroutine, here to a file instead of a gateway."""
    (directory / "shop.py").write_text(
        "import asyncio\n\n\nasync def main():\n    await asyncio.sleep(0)\n", encoding="utf-8"
    )
    program = block(BATCH, "python").replace(
        'gateway="http://pushgateway:9091"', 'textfile="job.prom"'
    )
    assert "" == python(directory, "-c", program)
    written = (directory / "job.prom").read_text(encoding="utf-8").splitlines()
    assert (
        'asyncio_task_wall_seconds_count{coroutine="shop.main",job="nightly_import",'
        'status="completed"} 1.0' in written
    )


#: What Kubernetes reports about a pod with two ports. Debian's Prometheus is built without service
#: discovery for Kubernetes.
DISCOVERED = """
    static_configs:
      - targets: ["10.0.0.1:8000"]
        labels:
          __meta_kubernetes_pod_container_port_name: http
          __meta_kubernetes_pod_name: shop-1
      - targets: ["10.0.0.1:9400"]
        labels:
          __meta_kubernetes_pod_container_port_name: aiometrics
          __meta_kubernetes_pod_name: shop-1
          __meta_kubernetes_pod_label_app_kubernetes_io_name: shop
"""
CONFIGURATIONS = [
    re.sub(r"\n +kubernetes_sd_configs:\n +- role: pod\n", DISCOVERED, text)
    for text in (*blocks(PROMETHEUS, "yaml"), *blocks(BATCH, "yaml"))
]


@pytest.mark.parametrize("configuration", CONFIGURATIONS)
def test_prometheus_accepts_its_configurations(
    configuration: str, binary: Callable[[str], str], tmp_path: Path
) -> None:
    """Each configuration in the documentation is complete."""
    path = tmp_path / "prometheus.yml"
    path.write_text(configuration, encoding="utf-8")
    done = subprocess.run(
        [binary("promtool"), "check", "config", str(path)],
        check=False,
        capture_output=True,
        text=True,
    )
    assert 0 == done.returncode, done.stderr


def test_the_metrics_port_of_a_pod_is_a_target_named_after_application_and_pod(
    binary: Callable[[str], str], tmp_path: Path
) -> None:
    """The pod's other port is left out."""
    path = tmp_path / "prometheus.yml"
    path.write_text(next(text for text in CONFIGURATIONS if DISCOVERED in text), encoding="utf-8")
    output = subprocess.run(
        [binary("promtool"), "check", "service-discovery", "--timeout=5s", str(path), "pods"],
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    targets = [target["labels"] for target in json.loads(output) if target["labels"]]
    assert [("10.0.0.1:9400", "shop", "shop-1")] == [
        (labels["__address__"], labels["job"], labels["instance"]) for labels in targets
    ]


def ports_of(container: dict[str, Any], name: str) -> list[int]:
    """Return the ports of a container that have this name."""
    return [port["containerPort"] for port in container["ports"] if port["name"] == name]


def test_the_pod_monitor_selects_the_documented_deployment(root: Path) -> None:
    """Label and port are those that the monitor selects; the sidecar has the same directory."""
    deployment, sidecar = map(yaml.safe_load, blocks(KUBERNETES, "yaml"))
    monitor = yaml.safe_load(
        (root / "deploy/kubernetes/podmonitor.yaml").read_text(encoding="utf-8")
    )
    pod = deployment["spec"]["template"]
    assert monitor["spec"]["selector"]["matchLabels"].items() <= pod["metadata"]["labels"].items()
    assert (
        deployment["spec"]["selector"]["matchLabels"].items() <= pod["metadata"]["labels"].items()
    )
    (endpoint,) = monitor["spec"]["podMetricsEndpoints"]
    (service,) = pod["spec"]["containers"]
    (beside,) = sidecar["initContainers"]
    assert [9400] == ports_of(service, endpoint["port"]) == ports_of(beside, endpoint["port"])
    assert (
        service["env"][0]["value"] == beside["command"][beside["command"].index("--directory") + 1]
    )
    assert service["volumeMounts"] == beside["volumeMounts"]
    (volume,) = pod["spec"]["volumes"]
    assert "Memory" == volume["emptyDir"]["medium"]


def test_the_container_runs_the_documented_gunicorn_command() -> None:
    """The service is run in the same way in a container as elsewhere."""
    (command_line,) = re.findall(
        r"^CMD (.*)$",
        "".join(blocks("How do I run it in a container?", "dockerfile")),
        flags=re.MULTILINE,
    )
    assert shlex.split(
        block(GUNICORN, "console").splitlines()[-1].removeprefix("$ ")
    ) == json.loads(command_line)
