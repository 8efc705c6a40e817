"""The thread that keeps what is shared up to date, and what is started without the application."""

from __future__ import annotations

import errno
import logging
import socket
import threading
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


def site(port: int) -> Endpoints:
    """One that shows an empty snapshot."""
    return Endpoints(
        ServingOptions(port=port, addr="127.0.0.1"),
        lambda: Snapshot(0),
        None,
        InternalErrors(),
        INFO,
    )


def test_an_error_does_not_end_it(caplog: pytest.LogCaptureFixture) -> None:
    """It is counted, logged once, and the next second comes."""
    internal_errors, third, calls = InternalErrors(), threading.Event(), []

    def beat() -> None:
        calls.append(threading.current_thread().name)
        if len(calls) == 3:
            third.set()
        raise LookupError("here")

    keeper = Periodic(internal_errors, beat, interval=1e-3)
    keeper.start()
    assert third.wait(SECONDS)
    keeper.stop()
    assert {"aiometrics-keeper"} == set(calls)
    assert {"keeper": len(calls)} == internal_errors.counts()
    assert [
        "aiometrics: internal error in probe 'keeper', which stays on; the application is not affected"
    ] == [record.getMessage() for record in caplog.records]


def test_it_may_be_stopped_from_within() -> None:
    """And before it began."""
    stopped = threading.Event()

    def beat() -> None:
        keeper.stop()
        stopped.set()

    keeper = Periodic(InternalErrors(), beat, interval=1e-3)
    keeper.start()
    assert stopped.wait(SECONDS)
    keeper._thread.join(SECONDS)
    assert not keeper._thread.is_alive()
    Periodic(InternalErrors(), beat).stop()


def test_a_port_is_taken_over_once_it_is_free(caplog: pytest.LogCaptureFixture) -> None:
    """As long as it is taken nothing happens, and that is said once."""
    with socket.socket() as other, caplog.at_level(logging.INFO, "aiometrics"):
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        waiting = site(port)
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


def test_a_port_that_cannot_be_served_is_left_to_others(
    monkeypatch: pytest.MonkeyPatch, free_port: int
) -> None:
    """Who finds no thread to answer with must not keep it from those who would; the next second it is tried again."""

    def no_thread(_: HttpServer) -> None:
        raise RuntimeError("can't start new thread")

    waiting, other = site(free_port), site(free_port)
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
def test_one_duty_that_fails_keeps_it_from_no_other(broken: int) -> None:
    """A loop that cannot be looked at is no reason not to take the port."""
    internal_errors, twice, calls = InternalErrors(), threading.Event(), [0, 0]

    def duty(number: int) -> None:
        calls[number] += 1
        if calls[1 - broken] == 2:
            twice.set()
        if number == broken:
            raise LookupError("here")

    keeper = Periodic(internal_errors, partial(duty, 0), partial(duty, 1), interval=1e-3)
    keeper.start()
    assert twice.wait(SECONDS)
    keeper.stop()
    assert {"keeper": calls[broken]} == internal_errors.counts()


def test_an_address_that_cannot_be_had_is_an_error() -> None:
    """Nobody will free it."""
    nowhere = Endpoints(
        ServingOptions(port=0, addr="192.0.2.1"),
        lambda: Snapshot(0),
        None,
        InternalErrors(),
        INFO,
    )
    with pytest.raises(
        OSError, match=r"cannot serve metrics on port 0 of '192\.0\.2\.1'"
    ) as raised:
        nowhere.try_to_bind()
    assert errno.EADDRNOTAVAIL == raised.value.errno


# --- the command


def test_a_sidecar_needs_a_directory(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error says how to give one."""
    monkeypatch.delenv("AIOMETRICS_DIR", raising=False)
    assert 1 == main(["serve", "--port", "0"])
    assert (
        "aiometrics: a directory is needed: give --directory, or set AIOMETRICS_DIR\n"
        == capsys.readouterr().err
    )


@pytest.mark.skipif(not SUPPORTED, reason="this system has no flock()")
def test_a_sidecar_refuses_what_is_not_safe(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A directory that others can write, and a port that is taken."""
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
def test_a_sidecar_takes_its_options_from_the_environment_too(tmp_path: Path) -> None:
    """As an exporter does."""
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
