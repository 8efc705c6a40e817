"""Jobs that end before a scrape: delivered however they end, and never harmed by the delivery."""

from __future__ import annotations

import asyncio
import http.server
import logging
import os
import re
import signal
import socket
import stat
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from prometheus_client import CollectorRegistry, Counter, Gauge, Metric
from prometheus_client.exposition import basic_auth_handler
from prometheus_client.parser import text_string_to_metric_families as parse
from prometheus_client.registry import Collector

import aiometrics
from aiometrics.exposition.metrics import METRICS
from aiometrics.exposition.push import Textfile
from aiometrics.pages.layout import STATUSES

LOCAL = "127.0.0.1"
WORKS = f"{__name__}.works"
LASTING = {
    "aiometrics_build_info",
    "aiometrics_sample_ratio",
    "asyncio_request_objective_seconds",
    "asyncio_segment_max_seconds",
    "asyncio_wait_max_seconds",
}


class Push(NamedTuple):
    """A request that a gateway received."""

    method: str
    path: str
    headers: dict[str, str]
    text: str


class Gateway(http.server.ThreadingHTTPServer):
    """Stands for a Pushgateway, and keeps the pushes that it receives.

    It answers with ``status`` once it is ``released``; until then it sends bytes if it is
    ``dripping``.
    """

    def __init__(self) -> None:
        super().__init__((LOCAL, 0), Handler)
        self.pushes: list[Push] = []
        self.status, self.reason = 200, b""
        self.released = threading.Event()
        self.released.set()
        self.dripping = False
        self.url = f"http://{LOCAL}:{self.server_port}"


class Handler(http.server.BaseHTTPRequestHandler):
    """Receives one push."""

    server: Gateway

    def do_PUT(self) -> None:
        text = self.rfile.read(int(self.headers["Content-Length"])).decode()
        self.server.pushes.append(Push(self.command, self.path, dict(self.headers), text))
        with suppress(ConnectionError):  # the client may have disconnected
            self._answer()

    def _answer(self) -> None:
        while self.server.dripping and not self.server.released.wait(timeout=0.01):
            self.wfile.write(b"H")
        assert self.server.released.wait(timeout=300)
        self.send_response(self.server.status)
        self.end_headers()
        self.wfile.write(self.server.reason)

    def log_message(self, *_: object) -> None:
        """Log nothing to standard error."""


@pytest.fixture
def gateway() -> Iterator[Gateway]:
    """A gateway on a port of its own."""
    with Gateway() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.released.set()
        server.shutdown()
        thread.join()


@pytest.fixture
def textfile(tmp_path: Path) -> Path:
    """The path that a job writes."""
    return tmp_path / "nightly.prom"


async def works() -> None:
    """The work of a job in these tests."""
    await asyncio.sleep(0)


def samples(text: str, name: str) -> dict[tuple[tuple[str, str], ...], float]:
    """Return the samples of one name by their labels."""
    found = [sample for family in parse(text) for sample in family.samples if sample.name == name]
    return {tuple(sorted(sample.labels.items())): sample.value for sample in found}


def created(text: str, coroutine: str, **labels: str) -> float:
    """Return the number of created tasks of a coroutine in a text."""
    return samples(text, "asyncio_tasks_created_total")[
        tuple(sorted({"coroutine": coroutine, **labels}.items()))
    ]


PROGRAM = """
import asyncio, os, signal, sys
import aiometrics

async def main():
    await asyncio.sleep(0)
    {ends}

# A shell has its background jobs ignore SIGINT.
signal.signal(signal.SIGINT, signal.default_int_handler)
aiometrics.start_job("nightly", grouping={{"shard": "3"}}, registry=None)
asyncio.run(main())
print("done")
"""
CANCELLED_BY_SIGTERM = (
    "asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, asyncio.current_task().cancel)"
)
KILLS = "os.kill(os.getpid(), signal.{}); await asyncio.Event().wait()"
ENDINGS = {
    "returns": ("pass", 0, "completed"),
    "raises": ("raise ValueError('the import failed')", 1, "failed"),
    "exits": ("sys.exit(3)", 3, "failed"),
    "is terminated": (
        f"{CANCELLED_BY_SIGTERM}; {KILLS.format('SIGTERM')}",
        1,
        "cancelled",
    ),
    "is interrupted": (
        KILLS.format("SIGINT"),
        -signal.SIGINT,
        "cancelled",
    ),
}


def run(program: str, **environ: str) -> subprocess.CompletedProcess[str]:
    """Run a program until it ends."""
    return subprocess.run(
        [sys.executable, "-c", program],
        check=False,
        capture_output=True,
        text=True,
        env={**os.environ, **environ},
        timeout=300,
    )


@pytest.mark.parametrize(("ends", "code", "status"), ENDINGS.values(), ids=ENDINGS)
def test_a_program_delivers_when_it_exits(
    gateway: Gateway, textfile: Path, ends: str, code: int, status: str
) -> None:
    """However it ends, it delivers where the environment says; code and output are its own."""
    done = run(
        PROGRAM.format(ends=ends), AIOMETRICS_GATEWAY=gateway.url, AIOMETRICS_TEXTFILE=str(textfile)
    )
    assert (code, "done\n" if code == 0 else "") == (done.returncode, done.stdout)
    # The Python recorder has a frame in tracebacks, and no other line.
    assert [] == [
        line
        for line in done.stderr.splitlines()
        if "aiometrics" in line and not line.lstrip().startswith("File ")
    ]
    (push,) = gateway.pushes
    assert ("PUT", "/metrics/job/nightly/shard/3") == (push.method, push.path)
    ended = samples(push.text, "asyncio_task_wall_seconds_count")
    assert {status: 1} == {name: count for name in STATUSES if (count := ended[ended_as(name)])}
    labels = {"job": "nightly", "shard": "3"}
    assert (
        1
        == created(push.text, "__main__.main")
        == created(textfile.read_text(encoding="utf-8"), "__main__.main", **labels)
    )


def ended_as(status: str) -> tuple[tuple[str, str], ...]:
    """Return the labels of a program's main task with that status."""
    return (("coroutine", "__main__.main"), ("status", status))


def test_an_exception_leaves_the_block_after_the_delivery(gateway: Gateway) -> None:
    """The exception is the job's own, and the metrics are delivered."""

    def imports() -> None:
        with aiometrics.start_job("nightly", gateway=gateway.url, registry=None):
            asyncio.run(works())
            raise ValueError("the import failed")

    with pytest.raises(ValueError, match="the import failed"):
        imports()
    (push,) = gateway.pushes
    assert 1 == created(push.text, WORKS)


def test_a_job_is_delivered_once(gateway: Gateway) -> None:
    """Further calls of finish() do not push again; tracing and its thread have ended."""
    before = set(threading.enumerate())
    with aiometrics.start_job("nightly", gateway=gateway.url, registry=None) as job:
        asyncio.run(works())
        job.finish()
    job.finish()
    assert 1 == len(gateway.pushes)
    assert [] == [
        thread.name
        for thread in set(threading.enumerate()) - before
        if thread.name.startswith("aiometrics")
    ]
    with pytest.raises(RuntimeError, match="nothing is instrumented"):
        aiometrics.snapshot()


def test_the_next_job_of_a_process_starts_at_zero(gateway: Gateway) -> None:
    """It pushes only its own numbers."""
    for _ in range(2):
        with aiometrics.start_job("nightly", gateway=gateway.url, registry=None):
            asyncio.run(works())
    assert [1, 1] == [created(push.text, WORKS) for push in gateway.pushes]


def test_gauges_of_the_moment_are_not_delivered(gateway: Gateway) -> None:
    """Only gauges that stay true are pushed.

    An old heartbeat would page someone for a hung loop for ever.
    """
    with aiometrics.start_job("nightly", gateway=gateway.url, registry=None):
        asyncio.run(works())
    found = {family.name: family.type for family in parse(gateway.pushes[0].text)}
    assert LASTING == {name for name, kind in found.items() if kind == "gauge"}
    assert {metric.family for metric in METRICS if metric.kind != "gauge"} == found.keys() - LASTING


def test_a_job_says_which_it_is(textfile: Path) -> None:
    """And where its metrics go."""
    with aiometrics.start_job("nightly", textfile=textfile) as job:
        assert f"<Job 'nightly' for the textfile {textfile}>" == repr(job)


def test_the_metrics_of_the_application_are_delivered(gateway: Gateway, textfile: Path) -> None:
    """They have the same labels; timestamps and broken samples are left out, at no other cost."""

    class Odd(Collector):
        def collect(self) -> Iterator[Metric]:
            timed, broken = (
                Metric("timed", "Has a time.", "gauge"),
                Metric("broken", "No number.", "gauge"),
            )
            timed.add_sample("timed", {}, 1.0, timestamp=1.0)
            broken.add_sample("broken", {}, "none")  # type: ignore[arg-type] # as applications do
            yield from (timed, broken)
            raise OSError("the database is gone")

    registry = CollectorRegistry()
    Counter("rows", "Rows imported.", registry=registry).inc(7)
    with aiometrics.start_job("nightly", gateway=gateway.url, textfile=textfile, registry=registry):
        registry.register(Odd())
    written = textfile.read_text(encoding="utf-8")
    assert {(): 7.0} == samples(gateway.pushes[0].text, "rows_total")
    assert {(("job", "nightly"),): 7.0} == samples(written, "rows_total")
    assert 'timed{job="nightly"} 1.0' in written.splitlines()
    assert "broken" not in written


def test_a_running_exporter_goes_on(gateway: Gateway) -> None:
    """The job uses the running exporter with its numbers, and leaves it running."""
    with aiometrics.start_exporter(0, LOCAL, registry=None) as exporter:
        asyncio.run(works())
        with aiometrics.start_job("nightly", gateway=gateway.url, registry=None):
            asyncio.run(works())
        asyncio.run(works())
        assert 3 == exporter.snapshot().coroutine(WORKS).created
    assert 2 == created(gateway.pushes[0].text, WORKS)


def test_an_exporter_is_started_before_the_job(gateway: Gateway) -> None:
    """Afterwards it is refused with an error that says so."""
    with (
        aiometrics.start_job("nightly", gateway=gateway.url),
        pytest.raises(RuntimeError, match=r"call start_exporter\(\) before start_job"),
    ):
        aiometrics.start_exporter(0, LOCAL)


def warned(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Return the logged warnings."""
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


@pytest.mark.parametrize("dripping", [False, True], ids=["silent", "dripping"])
def test_a_gateway_that_never_answers_does_not_delay_the_job(
    gateway: Gateway, caplog: pytest.LogCaptureFixture, *, dripping: bool
) -> None:
    """The job ends while the gateway still holds its request, and logs that once.

    A response that arrives byte by byte does not extend the timeout.
    """
    gateway.released.clear()
    gateway.dripping = dripping
    with aiometrics.start_job("nightly", gateway=gateway.url, registry=None, timeout=0.2) as job:
        asyncio.run(works())
    assert not gateway.released.is_set()
    # Its session may still be ending, which the next test must not meet.
    gateway.released.set()
    job._delivery_thread.join(300)
    (warning,) = warned(caplog)
    assert f"did not reach the Pushgateway at {gateway.url}, the job is not affected" in warning


def test_a_program_ends_while_the_gateway_hangs(gateway: Gateway, textfile: Path) -> None:
    """The interpreter exits with the job's own code, and the file is written."""
    gateway.released.clear()
    program = PROGRAM.format(ends="pass").replace("registry=None", "registry=None, timeout=5")
    done = run(program, AIOMETRICS_GATEWAY=gateway.url, AIOMETRICS_TEXTFILE=str(textfile))
    assert not gateway.released.is_set()
    assert (0, "done\n", 1) == (
        done.returncode,
        done.stdout,
        done.stderr.count("the job is not affected"),
    )
    assert 1 == created(
        textfile.read_text(encoding="utf-8"), "__main__.main", job="nightly", shard="3"
    )


def test_a_gateway_that_refuses_is_quoted(
    gateway: Gateway, caplog: pytest.LogCaptureFixture
) -> None:
    """The log line has the text of the response."""
    gateway.status, gateway.reason = 400, b"pushed metrics are invalid: something is wrong\n"
    with aiometrics.start_job("nightly", gateway=gateway.url, registry=None):
        pass
    (warning,) = warned(caplog)
    assert warning.endswith(
        f"the Pushgateway at {gateway.url}, the job is not affected: "
        f"it answered 400 Bad Request: {gateway.reason.decode().strip()}"
    )


def test_a_gateway_that_is_down_is_named(caplog: pytest.LogCaptureFixture) -> None:
    """The job ends well, and the log line names the address."""
    with socket.socket() as nobody:
        nobody.bind((LOCAL, 0))  # taken, and nobody listens
        address = f"{LOCAL}:{nobody.getsockname()[1]}"
        with aiometrics.start_job("nightly", gateway=address, registry=None):
            asyncio.run(works())
    (warning,) = warned(caplog)
    assert f"the Pushgateway at {address}" in warning


def test_a_file_that_cannot_be_written_is_named(
    gateway: Gateway, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The job ends well, and still pushes to the gateway."""
    missing = tmp_path / "missing" / "nightly.prom"
    with aiometrics.start_job("nightly", textfile=missing, gateway=gateway.url, registry=None):
        pass
    (warning,) = warned(caplog)
    assert f"the textfile {missing}" in warning
    assert 1 == len(gateway.pushes)


def test_an_internal_error_does_not_harm_the_job(
    gateway: Gateway, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is logged and counted, and nothing is pushed."""
    with aiometrics.start_job("nightly", gateway=gateway.url, registry=None) as job:
        monkeypatch.setattr(job._session, "snapshot", lambda: 1 / 0)
    assert ([], {"delivery": 1}) == (gateway.pushes, job._session.internal_errors.counts())
    (warning,) = warned(caplog)
    assert "aiometrics: internal error in probe 'delivery'" in warning


def test_a_handler_of_prometheus_client_can_authenticate(gateway: Gateway) -> None:
    """Handlers work as in its own push_to_gateway."""

    def handler(**named: Any) -> Callable[[], None]:
        return basic_auth_handler(username="job", password="secret", **named)  # noqa: S106 - of this test

    with aiometrics.start_job("nightly", gateway=gateway.url, registry=None, handler=handler):
        pass
    assert "Basic am9iOnNlY3JldA==" == gateway.pushes[0].headers["Authorization"]


FORKS = """
import os, sys
import aiometrics
aiometrics.start_job("nightly", registry=None)
child = os.fork()
if child:
    os.waitpid(child, 0)
sys.exit()
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_forked_child_does_not_deliver(gateway: Gateway) -> None:
    """Its numbers are not the job's, and its exit is not the job's end."""
    done = run(FORKS, AIOMETRICS_GATEWAY=gateway.url, PYTHONWARNINGS="ignore::DeprecationWarning")
    assert (0, "", 1) == (done.returncode, done.stderr, len(gateway.pushes))


def test_a_file_is_readable_for_everybody_and_replaced_at_once(textfile: Path) -> None:
    """The mode ignores the umask, since node_exporter is another user.

    A reader of the old file keeps it whole, and no other file is left there.
    """
    before = os.umask(0o077)
    try:
        registry = CollectorRegistry()
        rows = Gauge("rows", "Rows imported.", registry=registry)
        Textfile(textfile, {}).deliver(registry)
        with textfile.open(encoding="utf-8") as reader:
            rows.set(1)
            Textfile(textfile, {}).deliver(registry)
            assert {(): 0.0} == samples(reader.read(), "rows")
    finally:
        os.umask(before)
    assert {(): 1.0} == samples(textfile.read_text(encoding="utf-8"), "rows")
    assert 0o644 == stat.S_IMODE(textfile.stat().st_mode)
    assert [textfile] == list(textfile.parent.iterdir())


def test_a_failed_write_leaves_the_old_file(
    textfile: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There is neither a partial nor a temporary file."""
    textfile.write_text("old", encoding="utf-8")

    def fails(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", fails)
    with pytest.raises(OSError, match="No space left"):
        Textfile(textfile, {}).deliver(CollectorRegistry())
    assert ([textfile], "old") == (
        list(textfile.parent.iterdir()),
        textfile.read_text(encoding="utf-8"),
    )


WRONG: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({}, ValueError, "job 'nightly' has no place to deliver its metrics to: give gateway="),
    ({"gateway": 9091}, TypeError, "gateway must be an address .*not 9091"),
    ({"gateway": "ftp://x"}, ValueError, "gateway must be an address .*not 'ftp://x'"),
    ({"gateway": "http://"}, ValueError, "not 'http://'"),
    ({"textfile": 3}, TypeError, "textfile must be a path .*not 3"),
    (
        {"textfile": "nightly.txt"},
        ValueError,
        "textfile must end in .prom, or node_exporter does not read it: 'nightly.txt'",
    ),
    ({"gateway": "x", "grouping": {"job": "a"}}, ValueError, "grouping must not have 'job'"),
    ({"gateway": "x", "grouping": {"a-b": "a"}}, ValueError, "'a-b', which is not a valid label"),
    ({"gateway": "x", "grouping": {"shard": 3}}, TypeError, "must be strings, .*not 'shard': 3"),
    ({"gateway": "x", "grouping": {"shard": ""}}, ValueError, "shard must not be empty"),
    ({"gateway": "x", "name": ""}, ValueError, "job must not be empty"),
    (
        {"gateway": "x", "timeout": 0},
        ValueError,
        "timeout must be a positive number of seconds, not 0",
    ),
    ({"gateway": "x", "timeout": "5"}, TypeError, "timeout must be a number of seconds, not '5'"),
]


@pytest.mark.parametrize(("arguments", "error", "words"), WRONG, ids=lambda value: str(value)[:30])
def test_wrong_arguments_are_refused_before_anything_is_traced(
    arguments: dict[str, Any], error: type[Exception], words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The message quotes the value and says what to give."""
    monkeypatch.delenv("AIOMETRICS_GATEWAY", raising=False)
    monkeypatch.delenv("AIOMETRICS_TEXTFILE", raising=False)
    with pytest.raises(error, match=words):
        aiometrics.start_job(**{"name": "nightly", **arguments})
    with pytest.raises(RuntimeError, match="nothing is instrumented"):
        aiometrics.snapshot()


class Server(NamedTuple):
    """A server written in Go: its port and its log on standard error."""

    port: int
    log: list[str]


@contextmanager
def serving(*command: str | Path) -> Iterator[Server]:
    """Run a server on a free port."""
    with subprocess.Popen(
        [*command, f"--web.listen-address={LOCAL}:0"], stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stderr is not None
        log: list[str] = []
        try:
            while (said := re.search(r"TLS is disabled.* address=\S+:(\d+)", "".join(log))) is None:
                log.append(process.stderr.readline())
                assert log[-1], log
            reader = threading.Thread(target=log.extend, args=(process.stderr,))
            reader.start()
            yield Server(int(said[1]), log)
        finally:
            process.terminate()
        reader.join()


def metrics_of(port: int) -> str:
    """Return the metrics that a server shows."""
    with urllib.request.urlopen(f"http://{LOCAL}:{port}/metrics", timeout=300) as answer:
        text: str = answer.read().decode()
        return text


def test_a_real_pushgateway_accepts_it(
    binary: Callable[[str], str], caplog: pytest.LogCaptureFixture
) -> None:
    """Each run replaces the group of the one before, and the gateway knows the push time."""
    with serving(binary("prometheus-pushgateway")) as server:
        for shard in ("a/b c", "2", "2"):
            with aiometrics.start_job(
                "nightly", gateway=f"{LOCAL}:{server.port}", grouping={"shard": shard}
            ):
                asyncio.run(works())
        shown = metrics_of(server.port)
    assert [] == warned(caplog)
    for shard in ("a/b c", "2"):
        labels = {"instance": "", "job": "nightly", "shard": shard}
        assert 1 == created(shown, WORKS, **labels)
        assert 0 < samples(shown, "push_time_seconds")[tuple(sorted(labels.items()))]


def test_a_real_node_exporter_shows_two_jobs(binary: Callable[[str], str], tmp_path: Path) -> None:
    """Both show, beside node_exporter's own process_cpu_seconds_total.

    It refuses samples of one name that have the same labels.
    """
    for name in ("nightly", "weekly"):
        with aiometrics.start_job(name, textfile=tmp_path / f"{name}.prom"):
            asyncio.run(works())
    collector = [
        "--collector.disable-defaults",
        "--collector.textfile",
        f"--collector.textfile.directory={tmp_path}",
    ]
    with serving(binary("prometheus-node-exporter"), *collector) as server:
        shown = metrics_of(server.port)
    assert {(): 0.0} == samples(shown, "node_textfile_scrape_error")
    assert [] == [line for line in server.log if "error" in line]
    for name in ("nightly", "weekly"):
        assert 1 == created(shown, WORKS, job=name)
        assert (("job", name),) in samples(shown, "process_cpu_seconds_total")


def test_promtool_accepts_the_file(binary: Callable[[str], str], textfile: Path) -> None:
    """The file has our own metrics."""
    with aiometrics.start_job("nightly", textfile=textfile, registry=None):
        asyncio.run(works())
    checked = subprocess.run(
        [binary("promtool"), "check", "metrics"],
        input=textfile.read_bytes(),
        capture_output=True,
        check=False,
    )
    assert (0, b"", b"") == (checked.returncode, checked.stdout, checked.stderr)
