"""The periodic thread, a port that is taken over later, and the sidecar's command line."""

from __future__ import annotations

import errno
import logging
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from aiometrics.__main__ import main
from aiometrics.base.background import Periodic
from aiometrics.base.http.server import HttpServer
from aiometrics.base.internal_errors import InternalErrors
from aiometrics.base.options import ServingOptions, resolve
from aiometrics.exporter.endpoints import Endpoints
from aiometrics.exporter.sidecar import INFO, Sidecar
from aiometrics.pages.multiprocess.private_file import SUPPORTED
from aiometrics.pages.snapshot import Snapshot

SECONDS = 300


def endpoints_on(port: int) -> Endpoints:
    """Return endpoints that show an empty snapshot."""
    return Endpoints(
        ServingOptions(port=port, addr="127.0.0.1"),
        lambda _=None: Snapshot(0),
        None,
        InternalErrors(),
        INFO,
        shared=True,
    )


def test_periodic_thread_goes_on_after_an_error(caplog: pytest.LogCaptureFixture) -> None:
    """The error is counted at each call and logged once."""
    internal_errors, third_call, calls = InternalErrors(), threading.Event(), []

    def fail() -> None:
        calls.append(threading.current_thread().name)
        if len(calls) == 3:
            third_call.set()
        raise LookupError("here")

    periodic = Periodic(internal_errors, fail, interval=1e-3)
    periodic.start()
    assert third_call.wait(SECONDS)
    periodic.stop()
    assert {"aiometrics-keeper"} == set(calls)
    assert {"keeper": len(calls)} == internal_errors.counts()
    assert [
        (
            "aiometrics: internal error in probe 'keeper', which stays on; "
            "the application is not affected"
        )
    ] == [record.getMessage() for record in caplog.records]


def test_periodic_thread_can_be_stopped_from_its_own_function() -> None:
    """It can also be stopped before it was started."""
    stopped = threading.Event()

    def stop() -> None:
        periodic.stop()
        stopped.set()

    periodic = Periodic(InternalErrors(), stop, interval=1e-3)
    periodic.start()
    assert stopped.wait(SECONDS)
    periodic._thread.join(SECONDS)
    assert not periodic._thread.is_alive()
    Periodic(InternalErrors(), stop).stop()


def test_port_is_taken_over_when_it_becomes_free(caplog: pytest.LogCaptureFixture) -> None:
    """While the port is taken nothing happens, and one log line says so."""
    with socket.socket() as other, caplog.at_level(logging.INFO, "aiometrics"):
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        waiting = endpoints_on(port)
        assert [False, False] == [waiting.try_to_bind(), waiting.try_to_bind()]
        waiting.start()
        waiting.take_over()
        assert (port, f"http://127.0.0.1:{port}/metrics") == (waiting.port, waiting.url)
        other.close()
        waiting.take_over()
        waiting.take_over()
    with socket.create_connection(("127.0.0.1", port), SECONDS):
        waiting.close()
    taken, free = caplog.messages
    assert taken.startswith(f"aiometrics: port {port} is taken, ")
    assert free.startswith(f"aiometrics: port {port} became free: ")


def test_port_is_left_to_other_processes_when_no_thread_can_be_started(
    monkeypatch: pytest.MonkeyPatch, free_port: int
) -> None:
    """A process that cannot answer must not keep the port from others; it tries again later."""

    def no_thread(_: HttpServer) -> None:
        raise RuntimeError("can't start new thread")

    waiting, other = endpoints_on(free_port), endpoints_on(free_port)
    with monkeypatch.context() as short:
        short.setattr(HttpServer, "start", no_thread)
        with pytest.raises(RuntimeError, match="can't start new thread"):
            waiting.take_over()
    assert other.try_to_bind()
    other.close()
    waiting.take_over()
    with socket.create_connection(("127.0.0.1", free_port), SECONDS):
        waiting.close()


@pytest.mark.parametrize("broken", [0, 1])
def test_other_functions_are_called_when_one_fails(broken: int) -> None:
    """For example, a loop that cannot be observed does not prevent taking over the port."""
    internal_errors, twice, calls = InternalErrors(), threading.Event(), [0, 0]

    def call(number: int) -> None:
        calls[number] += 1
        if calls[1 - broken] == 2:
            twice.set()
        if number == broken:
            raise LookupError("here")

    periodic = Periodic(internal_errors, partial(call, 0), partial(call, 1), interval=1e-3)
    periodic.start()
    assert twice.wait(SECONDS)
    periodic.stop()
    assert {"keeper": calls[broken]} == internal_errors.counts()


def test_binding_fails_when_the_address_is_not_of_this_machine() -> None:
    """Waiting would not help: no process will free such an address."""
    nowhere = Endpoints(
        ServingOptions(port=0, addr="192.0.2.1"),
        lambda _=None: Snapshot(0),
        None,
        InternalErrors(),
        INFO,
    )
    with pytest.raises(
        OSError, match=r"cannot serve metrics on port 0 of '192\.0\.2\.1'"
    ) as raised:
        nowhere.try_to_bind()
    assert errno.EADDRNOTAVAIL == raised.value.errno


# --- the command line


def test_sidecar_fails_without_a_directory(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error says how to specify one."""
    monkeypatch.delenv("AIOMETRICS_DIR", raising=False)
    assert 1 == main(["serve", "--port", "0"])
    assert (
        "aiometrics: a directory is needed: give --directory, or set AIOMETRICS_DIR\n"
        == capsys.readouterr().err
    )


@pytest.fixture
def handlers() -> Iterator[None]:
    """Puts the handlers of signals back that the command installs, as other tests expect them."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.skipif(not SUPPORTED, reason="this system has no flock()")
@pytest.mark.usefixtures("handlers")
def test_sidecar_refuses_an_unsafe_directory_and_a_taken_port(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A directory is unsafe if others can write to it."""
    tmp_path.chmod(0o777)
    assert 1 == main(["serve", "--directory", str(tmp_path), "--port", "0"])
    assert "aiometrics: others can write to the directory" in capsys.readouterr().err
    tmp_path.chmod(0o700)
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        assert 1 == main(
            [
                "serve",
                "--directory",
                str(tmp_path),
                "--port",
                str(other.getsockname()[1]),
                "--addr",
                "127.0.0.1",
            ]
        )
    assert "aiometrics: cannot serve metrics on port" in capsys.readouterr().err


@pytest.mark.skipif(not SUPPORTED, reason="this system has no flock()")
def test_sidecar_reads_its_options_from_the_environment(tmp_path: Path) -> None:
    """The variables are those of an exporter."""
    environ = {
        "AIOMETRICS_DIR": str(tmp_path),
        "AIOMETRICS_PORT": "0",
        "AIOMETRICS_ADDR": "127.0.0.1",
    }
    options = resolve(environ=environ)
    sidecar = Sidecar(options.recording.directory, options.serving)
    sidecar.start()
    try:
        assert sidecar.url.startswith("http://127.0.0.1:")
        assert (1.0, ()) == (sidecar.snapshot().sample_ratio, sidecar.snapshot().loops)
    finally:
        sidecar.stop()


#: A program whose threads are greenlets, and another process that scrapes it meanwhile.
GREEN = """
import aiometrics, asyncio, faulthandler, subprocess, sys
faulthandler.dump_traceback_later(120, exit=True)
ASK = "import sys, urllib.request as web; web.urlopen(sys.argv[1], timeout=100).read()"
async def main():
    await asyncio.sleep(0.01)
    return subprocess.run([sys.executable, "-c", ASK, exporter.url]).returncode
for _ in range(2):
    with aiometrics.start_exporter(0, "127.0.0.1", registry=None) as exporter:
        assert 0 == asyncio.run(main())
        (loop,) = exporter.snapshot().loops
        assert loop.thread_cpu_ns
"""


@pytest.mark.parametrize(
    ("name", "patch"),
    [
        ("gevent", "import gevent.monkey; gevent.monkey.patch_all()"),
        ("eventlet", "import eventlet; eventlet.monkey_patch()"),
    ],
)
def test_green_threads_serve_and_say_once_what_they_cannot(name: str, patch: str) -> None:
    """A thread of ours that waited in C would stop the program, since all are one thread."""
    pytest.importorskip(name)
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", f"{patch}{GREEN}"],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert 0 == done.returncode, done.stderr
    assert 1 == done.stderr.count(f"aiometrics: {name} has replaced threads")
