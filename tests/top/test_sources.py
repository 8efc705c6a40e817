"""What ``aiometrics top`` reads: pages, also of processes that hang or are dead, and exporters."""

from __future__ import annotations

import base64
import http.server
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import bcrypt
import pytest
from soak import ports
from support.held_service import held_service
from support.samples import shop
from support.servers import until

import aiometrics
from aiometrics.base.clock import SECOND_NS
from aiometrics.exposition.families import ExporterInfo
from aiometrics.exposition.hotspots import Hotspots
from aiometrics.exposition.live import LiveView
from aiometrics.pages.multiprocess.private_file import SUPPORTED
from aiometrics.top.report import gone, hotspots_of
from aiometrics.top.sources import (
    DirectorySource,
    Reading,
    Source,
    SourceError,
    UrlSource,
    source_of,
)

pytestmark = pytest.mark.skipif(not SUPPORTED, reason="this system has no flock()")


class Answering(http.server.BaseHTTPRequestHandler):
    """Answers anything with ``body``, and remembers what it was asked."""

    body: ClassVar[bytes] = b""
    asked: ClassVar[list[tuple[str, str | None]]] = []

    def do_GET(self) -> None:
        self.asked.append((self.path, self.headers.get("Authorization")))
        self.send_response(200)
        self.send_header("Content-Length", str(len(self.body)))
        self.end_headers()
        self.wfile.write(self.body)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@contextmanager
def answering(body: bytes) -> Iterator[str]:
    """Serve ``body`` and give the address."""
    Answering.body = body
    Answering.asked.clear()
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answering) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


def test_an_answer_has_the_hotspots_of_the_snapshot_it_was_made_of() -> None:
    """Every row and every number, with and without an interval."""
    snapshot = shop()
    body = b"".join(LiveView().slices(snapshot, ExporterInfo("1", "c", "direct")))
    with answering(body) as address:
        read = source_of(address).read()
    assert hotspots_of(Reading(snapshot), 100) == hotspots_of(read, 100)
    earlier = replace(snapshot, taken_ns=snapshot.taken_ns - 5 * SECOND_NS, yield_points=())
    seen_ns = read.snapshot.taken_ns - 5 * SECOND_NS
    seen = replace(read.snapshot, taken_ns=seen_ns, yield_points=())
    assert hotspots_of(Reading(snapshot), 9, earlier) == hotspots_of(read, 9, seen)


def test_the_path_does_not_matter_and_the_user_is_sent() -> None:
    """As people copy addresses."""
    body = b"".join(LiveView().slices(shop(), ExporterInfo("1", "c", "direct")))
    with answering(body) as address:
        source = source_of(f"http://al%40ice:se:cret@{address}/metrics?x=1")
        source.read()
    (path, authorization) = Answering.asked[0]
    credentials = base64.b64encode(b"al@ice:se:cret").decode()
    assert ("/debug/live", f"Basic {credentials}") == (path, authorization)
    assert "cret" not in source.name


@pytest.mark.parametrize(
    "body",
    [b"", b"<html>", b"[]", b"{}", b"1", b'{"loops": []}', b'{"taken_timestamp_seconds": "x"}'],
)
def test_another_server_is_told_from_an_exporter(body: bytes) -> None:
    """Whatever it answers."""
    with answering(body) as address, pytest.raises(SourceError, match="not an exporter"):
        source_of(address).read()


def test_who_does_not_answer_or_refuses_is_named(tmp_path: Path) -> None:
    """A port without a server, and an exporter with a password."""
    with ports.reserved() as port:
        address = f"127.0.0.1:{port}"
        with pytest.raises(SourceError, match=f"http://{address}/debug/live does not answer"):
            source_of(address).read()
    hashed = bcrypt.hashpw(b"x", bcrypt.gensalt(4)).decode()
    config = tmp_path / "web.yml"
    config.write_text(f"basic_auth_users:\n  alice: {hashed}\n")
    with aiometrics.start_exporter(0, "127.0.0.1", registry=None, web_config=config) as exporter:
        with pytest.raises(SourceError, match="answers 401"):
            source_of(exporter.url).read()
        source_of(exporter.url.replace("//", "//alice:x@")).read()


def test_what_names_no_source_is_refused(tmp_path: Path) -> None:
    """The message says what was wrong."""
    with pytest.raises(SourceError, match="neither a URL, nor a directory, nor a process"):
        source_of("ftp://host/x")
    with pytest.raises(SourceError, match="there is no process 999999999"):
        source_of("999999999")
    with pytest.raises(SourceError, match="no pages"):
        source_of(str(tmp_path)).read()
    with pytest.raises(SourceError, match="exports nothing that can be found"):
        source_of(str(os.getpid()))


def undisturbed(source: Source) -> Hotspots:
    """Return what a source tells of the held service, which is not held.

    On a busy machine it may be stopped within a step, or sleep longer than it wants to.
    """
    found: list[Hotspots] = []

    def calm() -> bool:
        found[:] = [hotspots_of(source.read(), 5)]
        return not any(loop.blocked for loop in found[0].loops) and len(found[0].stuck) == 1

    until(calm, "the service to have a CPU")
    return found[0]


def test_pages_are_read_while_the_gil_is_held_and_after_a_kill(tmp_path: Path) -> None:
    """A process that cannot answer is seen; a dead one has its last numbers."""
    directory = str(tmp_path / "pages")
    with held_service(directory) as service:
        source = source_of(str(service.process.pid))
        assert isinstance(source, DirectorySource)
        assert directory == source.name
        calm = undisturbed(source)
        assert [None] == [loop.blocked for loop in calm.loops]
        assert ["__main__.waits_for_ever"] == [row.coroutine for row in calm.stuck]
        service.hold()
        held = source.read()
        while not any(loop.blocked for loop in hotspots_of(held, 5).loops):
            held = source.read()
        (loop,) = hotspots_of(held, 5).loops
        assert loop.blocked
        assert "__main__.holds_everybody_up" == loop.blocked.coroutine
        assert not gone(held.snapshot)
        service.kill()
    dead = source.read()
    assert gone(dead.snapshot)
    burners = {row.coroutine: row.active_ns for row in hotspots_of(dead, 9).burners}
    before = {row.coroutine: row.active_ns for row in hotspots_of(held, 9).burners}
    assert burners["__main__.computes"] >= before["__main__.computes"] > 0


def test_a_process_without_shared_pages_is_asked() -> None:
    """By the port on which it listens."""
    with held_service() as service:
        source = source_of(str(service.process.pid))
        assert isinstance(source, UrlSource)
        assert f"http://127.0.0.1:{service.port}/debug/live" == source.name
        stuck = undisturbed(source).stuck
        assert ["__main__.waits_for_ever"] == [row.coroutine for row in stuck]
