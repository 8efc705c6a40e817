"""The HTTP server over real sockets.

Nothing sleeps: every wait ends with an event on a socket or the end of a thread.
"""

from __future__ import annotations

import asyncio
import errno
import gc
import gzip
import http.client
import os
import resource
import select
import signal
import socket
import struct
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager, suppress

import pytest
from support.serving import (
    GUARD_SECONDS,
    HUGE,
    LONG,
    ROUTES,
    Serve,
    Stuck,
    ask,
    ask_on,
    connect,
    exchange,
    http_threads,
    open_connections,
    read_all,
    status_line,
)

from aiometrics.base import unpatched
from aiometrics.base.http import connection as http_connection
from aiometrics.base.http import connections as http_limit
from aiometrics.base.http import server as server_module
from aiometrics.base.http.crew import STAYING
from aiometrics.base.http.messages import MAX_BODY, MAX_HEAD, MAX_HEADERS, MAX_REQUEST_LINE
from aiometrics.base.http.server import HttpServer, Request, Response

GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"


# Answers


def test_a_route_answers(serve: Serve) -> None:
    """Status, body, content type and extra headers are the route's, the others the server's."""
    status, headers, body = ask(serve(), "/")

    assert (200, b"hello\n") == (status, body)
    assert {
        "Content-Type": "text/html; charset=utf-8",
        "Content-Length": "6",
        "X-Content-Type-Options": "nosniff",
        "X-Extra": "1",
        "Connection": "keep-alive",
    } == {name: value for name, value in headers.items() if name != "Date"}
    assert headers["Date"].endswith(" GMT")


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        ("/echo", b"GET /echo  1, 2"),
        ("/echo?a=1&b=%20", b"GET /echo a=1&b=%20 1, 2"),
        ("/%65cho", b"GET /echo  1, 2"),
        ("http://metrics.example:9400/echo?x", b"GET /echo x 1, 2"),
    ],
)
def test_a_route_sees_the_request(serve: Serve, target: str, expected: bytes) -> None:
    """Paths are decoded, queries are not, absolute targets work, repeated headers are joined."""
    answer = exchange(
        serve(),
        f"GET {target} HTTP/1.1\r\nHost: a\r\nX-Test: 1\r\nx-test:2\r\n"
        "Connection: close\r\n\r\n".encode(),
    )

    assert expected == answer.partition(b"\r\n\r\n")[2]


def test_head_gets_the_headers_of_get_and_no_body(serve: Serve) -> None:
    """HEAD has the headers of GET, including length and compression."""
    server = serve()
    _, get_headers, _ = ask(server, "/long", Accept_Encoding="gzip")
    answer = exchange(
        server,
        b"HEAD /long HTTP/1.1\r\nHost: a\r\nAccept-Encoding: gzip\r\nConnection: close\r\n\r\n",
    )
    head, _, body = answer.partition(b"\r\n\r\n")

    assert b"" == body
    assert "HTTP/1.1 200 OK" == status_line(answer)
    assert f"Content-Length: {get_headers['Content-Length']}".encode() in head.split(b"\r\n")
    assert b"Content-Encoding: gzip" in head.split(b"\r\n")


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "OPTIONS"])
def test_an_unknown_path_is_404(serve: Serve, method: str) -> None:
    """A path without a route is not found, whatever the method, and is not quoted."""
    status, headers, body = ask(serve(), "/nowhere", method)

    assert (404, "14") == (status, headers["Content-Length"])
    assert (b"" if method == "HEAD" else b"404 Not Found\n") == body


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "TRACE", "get"])
def test_an_unknown_method_is_405(serve: Serve, method: str) -> None:
    """A known path names the methods that it has."""
    status, headers, body = ask(serve(), "/", method)

    assert (405, "GET, HEAD", b"405 Method Not Allowed\n") == (status, headers["Allow"], body)


def test_long_bodies_are_compressed_on_request(serve: Serve) -> None:
    """Gzip is negotiated, and caches are told what the response depends on."""
    server = serve()
    _, packed_headers, packed = ask(server, "/long", Accept_Encoding="gzip;q=0.5")
    _, plain_headers, plain = ask(server, "/long", Accept_Encoding="gzip;q=0, *")

    assert LONG == gzip.decompress(packed)
    assert ("gzip", "Accept-Encoding", str(len(packed))) == tuple(
        packed_headers[name] for name in ("Content-Encoding", "Vary", "Content-Length")
    )
    assert LONG == plain
    assert (None, "Accept-Encoding") == (plain_headers["Content-Encoding"], plain_headers["Vary"])


def test_short_bodies_are_not_compressed(serve: Serve) -> None:
    """A body that gains nothing is sent as it is."""
    _, headers, body = ask(serve(), "/", Accept_Encoding="gzip")

    assert (b"hello\n", None, None) == (body, headers["Content-Encoding"], headers["Vary"])


def test_a_route_that_raises_is_500_without_details(serve: Serve) -> None:
    """The client gets 500, the callback the error, and the connection goes on."""
    server = serve()
    with closing(
        http.client.HTTPConnection("127.0.0.1", server.port, timeout=GUARD_SECONDS)
    ) as connection:
        status, headers, body = ask_on(connection, "/fail")
        next_status, _, _ = ask_on(connection, "/")

    assert (500, b"500 Internal Server Error\n", "text/plain; charset=utf-8") == (
        status,
        body,
        headers["Content-Type"],
    )
    assert 200 == next_status
    assert [("http", "secret of /srv/app//fail")] == [
        (probe, str(error)) for probe, error in serve.errors
    ]


def test_a_route_with_an_impossible_response_is_500(serve: Serve) -> None:
    """A status or header that HTTP cannot carry counts as an error of the route."""
    server = serve(
        routes={
            "/": lambda _: Response(200, b"", headers=(("X-Name", "\u20ac"),)),
            "/status": lambda _: Response(42, b""),
        }
    )

    assert [500, 500] == [ask(server, path)[0] for path in ("/", "/status")]
    assert ["UnicodeEncodeError", "ValueError"] == [
        type(error).__name__ for _, error in serve.errors
    ]


def test_an_error_callback_that_raises_is_survived(serve: Serve) -> None:
    """An error in the callback does not end the connection."""

    def explode(probe: str, error: BaseException) -> None:
        raise ValueError(probe) from error

    assert 500 == ask(serve(on_error=explode), "/fail")[0]


def test_nothing_is_printed(serve: Serve, capfd: pytest.CaptureFixture[str]) -> None:
    """Neither requests nor errors reach the application's output."""
    server = serve()
    ask(server, "/")
    ask(server, "/fail")
    exchange(server, b"\x16\x03\x01")
    server.close()

    assert ("", "") == capfd.readouterr()


def test_it_answers_while_the_loop_is_blocked(serve: Serve) -> None:
    """The scrape happens inside the very segment that blocks the loop."""
    server = serve()

    async def block() -> int:
        return ask(server, "/")[0]

    assert 200 == asyncio.run(block())


# Connections


def test_a_connection_serves_many_requests(serve: Serve) -> None:
    """Connections are kept, also after 404, 405 and a request body."""
    server = serve()
    with closing(
        http.client.HTTPConnection("127.0.0.1", server.port, timeout=GUARD_SECONDS)
    ) as connection:
        statuses = [
            ask_on(connection, "/nowhere")[0],
            ask_on(connection, "/", "POST", b"x" * MAX_BODY)[0],
            ask_on(connection, "/", "HEAD")[0],
            ask_on(connection, "/")[0],
        ]
        connections = open_connections(server)

    assert [404, 405, 200, 200] == statuses
    assert 1 == connections


def test_pipelined_requests_are_answered_in_order(serve: Serve) -> None:
    """Requests that arrive together are answered in order; a body between them is dropped."""
    answer = exchange(
        serve(),
        b"GET /echo?1 HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nGET /"
        b"GET /echo?2 HTTP/1.1\r\nHost: a\r\n\r\n"
        b"GET /echo?3 HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
        b"GET /echo?4 HTTP/1.1\r\nHost: a\r\n\r\n",
    )

    assert [b"GET /echo 1 None", b"GET /echo 2 None", b"GET /echo 3 None"] == [
        part.partition(b"\r\n\r\n")[2] for part in answer.split(b"HTTP/1.1 200 OK\r\n")[1:]
    ]


def test_a_request_that_came_before_is_answered_as_the_first_time(serve: Serve) -> None:
    """Its body is dropped again, and one of the same line with other headers is another one."""
    again = b"GET /echo HTTP/1.1\r\nHost: a\r\nX-Test: 1\r\nContent-Length: 5\r\n\r\nGET /"
    other = b"GET /echo HTTP/1.1\r\nHost: a\r\nX-Test: 2\r\n\r\n"
    last = b"GET /echo HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
    answer = exchange(serve(), 2 * again + other + again + last)

    assert [b"GET /echo  " + test for test in (b"1", b"1", b"2", b"1", b"None")] == [
        part.partition(b"\r\n\r\n")[2] for part in answer.split(b"HTTP/1.1 200 OK\r\n")[1:]
    ]


def test_endless_requests_are_answered_at_a_limited_rate(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There is a pause between two responses on a connection, and none before the first."""
    pauses: list[float] = []
    monkeypatch.setattr(http_connection, "monotonic", lambda: 100.0)
    monkeypatch.setattr(http_connection, "sleep", pauses.append)
    exchange(serve(), GET * 2 + b"GET / HTTP/1.0\r\n\r\n")

    assert 2 * [pytest.approx(http_connection._PACE_SECONDS)] == pauses


@pytest.mark.parametrize(
    ("request_head", "expected"),
    [
        (b"GET / HTTP/1.0\r\n\r\n", b"close"),
        (b"GET / HTTP/1.0\r\nConnection: Keep-Alive\r\n\r\n", b"keep-alive"),
        (b"GET / HTTP/1.1\r\nHost: a\r\nConnection: foo, Close\r\n\r\n", b"close"),
    ],
)
def test_the_client_says_whether_to_keep_the_connection(
    serve: Serve, request_head: bytes, expected: bytes
) -> None:
    """HTTP/1.0 closes unless asked to keep, HTTP/1.1 keeps unless asked to close."""
    answer = exchange(serve(idle_timeout=0.05), request_head)

    assert b"\r\nConnection: %s\r\n" % expected in answer


def test_an_idle_connection_is_closed(serve: Serve) -> None:
    """After the idle timeout a connection is closed without a response."""
    answer = exchange(serve(idle_timeout=0.05), b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")

    assert 1 == answer.count(b"HTTP/1.1 ")
    assert answer.endswith(b"hello\n")


def test_a_connection_that_sends_nothing_is_closed(serve: Serve) -> None:
    """A client that sends nothing is cut at the deadline of its first request."""
    assert b"" == exchange(serve(request_timeout=0.05), b"")


@pytest.mark.parametrize("body", [False, True])
def test_a_slow_sender_is_cut(serve: Serve, body: bool) -> None:  # noqa: FBT001 - a table's column
    """The deadline is for the whole request: a byte now and then does not extend it."""
    server = serve(request_timeout=0.2)
    head = (
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 60000\r\n\r\n"
        if body
        else b"GET / HTTP/1.1\r\nX: "
    )
    answer, tries = b"", 0
    # A client that has not even begun by then is cut without a word, or with a reset.
    while not answer and tries < 20:
        tries += 1
        with connect(server) as sock, suppress(ConnectionError):
            sock.sendall(head)
            sent = 0
            while sent < 5000 and not select.select([sock], [], [], 0.01)[0]:
                sock.sendall(b"x")
                sent += 1
            answer = read_all(sock)

    assert "HTTP/1.1 408 Request Timeout" == status_line(answer)


def test_a_slow_reader_is_cut(serve: Serve) -> None:
    """A client that does not receive its response loses the connection, and the thread is free."""
    server = serve(request_timeout=3.0)
    with connect(server) as sock:
        sock.sendall(b"GET /huge HTTP/1.1\r\nHost: a\r\n\r\n")
        assert select.select([sock], [], [], GUARD_SECONDS)[0]
        for connection in server._connections._connections:
            assert connection.closed.wait(GUARD_SECONDS)
        assert 0 == open_connections(server)
        assert len(read_all(sock)) < len(HUGE)

    assert 200 == ask(server, "/")[0]


def test_a_client_that_disconnects_is_not_an_error(serve: Serve) -> None:
    """A reset within a request or response ends the connection and is not reported."""
    server = serve()
    for data in (b"GET / HT", b"GET /huge HTTP/1.1\r\nHost: a\r\n\r\n"):
        with connect(server) as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            sock.sendall(data)
    server.close()

    assert [] == serve.errors


def test_too_many_connections_are_refused(serve: Serve) -> None:
    """If all connections are being answered, a client gets 503, until one ends."""
    stuck = Stuck()
    server = serve(max_connections=1, routes={**ROUTES, "/stuck": stuck})
    with connect(server) as first:
        first.sendall(b"GET /stuck HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        assert stuck.entered.acquire(timeout=GUARD_SECONDS)
        refusal = exchange(server, b"")
        assert 1 == open_connections(server)
        assert 2 == len(http_threads())
        stuck.leave.set()
        assert read_all(first).startswith(b"HTTP/1.1 200 OK")
    status, _, _ = ask(server, "/")

    assert "HTTP/1.1 503 Service Unavailable" == status_line(refusal)
    assert b"\r\nConnection: close\r\n" in refusal
    assert 200 == status


def test_a_refusal_reaches_a_client_that_has_sent_a_request(serve: Serve) -> None:
    """A request that arrived before the refusal does not turn it into a reset."""
    stuck = Stuck()
    server = serve(max_connections=1, routes={"/": stuck})
    with connect(server) as first:
        first.sendall(GET)
        assert stuck.entered.acquire(timeout=GUARD_SECONDS)
        refusal = exchange(server, GET)
        stuck.leave.set()
        assert first.recv(1 << 16).startswith(b"HTTP/1.1 200 OK")

    assert "HTTP/1.1 503 Service Unavailable" == status_line(refusal)


def test_clients_that_connect_early_are_served(serve: Serve) -> None:
    """The port is bound before the server starts; clients that connect before are answered then."""
    server = HttpServer("127.0.0.1", 0, ROUTES, on_error=serve.on_error)
    serve.servers.append(server)
    with connect(server) as sock:
        sock.sendall(GET)
        server.start()
        assert sock.recv(1 << 16).startswith(b"HTTP/1.1 200 OK")


SILENT, SLOW, IDLE, REFUSED, DEAF = (
    b"",
    b"GET / HT",
    GET,
    b"\0",
    b"GET /huge HTTP/1.1\r\nHost: a\r\n\r\n",
)


@pytest.mark.parametrize(
    "data",
    [SILENT, SLOW, IDLE, REFUSED, DEAF],
    ids=["silent", "slow to ask", "idle", "refused", "slow to read"],
)
def test_the_client_that_kept_the_server_waiting_longest_is_evicted(
    serve: Serve, data: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without room, the next client replaces the one whose turn began first."""
    monkeypatch.setattr(http_connection, "_TAKING_SECONDS", 0.0)
    monkeypatch.setattr(http_limit, "_ROOM_SECONDS", GUARD_SECONDS)
    server = serve(max_connections=2, request_timeout=GUARD_SECONDS, idle_timeout=GUARD_SECONDS)
    with connect(server) as first:
        first.sendall(data)
        if data in (IDLE, REFUSED, DEAF):
            assert select.select([first], [], [], GUARD_SECONDS)[0]
        with connect(server) as second:
            assert 200 == ask(server, "/")[0]
            assert len(read_all(first)) < len(HUGE)
            second.sendall(GET)
            assert second.recv(1 << 16).startswith(b"HTTP/1.1 200 OK")

    assert [] == serve.errors


def test_a_host_with_many_connections_evicts_only_its_own(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The host with most connections loses one, even if another kept the server waiting longer."""
    monkeypatch.setattr(http_connection, "_ASKING_SECONDS", 0.0)
    monkeypatch.setattr(http_limit, "_ROOM_SECONDS", GUARD_SECONDS)
    server = serve(max_connections=3, request_timeout=GUARD_SECONDS)
    with (
        connect(server, source="127.0.0.2") as other,
        connect(server) as first,
        connect(server) as second,
        connect(server),
    ):
        assert b"" == read_all(first)
        with connect(server):
            assert b"" == read_all(second)
            other.sendall(GET)
            assert other.recv(1 << 16).startswith(b"HTTP/1.1 200 OK")


def test_pipelined_requests_do_not_keep_others_waiting(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without room, a client with many requests gets one response, then others have their turn."""
    monkeypatch.setattr(http_limit, "_ROOM_SECONDS", GUARD_SECONDS)
    # A busy machine may let nothing happen for longer than a client may take.
    monkeypatch.setattr(http_connection, "_ASKING_SECONDS", GUARD_SECONDS)
    monkeypatch.setattr(http_connection, "_TAKING_SECONDS", GUARD_SECONDS)
    stuck = Stuck()
    server = serve(max_connections=1, routes={**ROUTES, "/stuck": stuck})
    with connect(server) as greedy, connect(server) as next_one:
        greedy.sendall(b"GET /stuck HTTP/1.1\r\nHost: a\r\n\r\n" * 3)
        next_one.sendall(GET)
        assert stuck.entered.acquire(timeout=GUARD_SECONDS)
        (connection,) = server._connections._connections
        while not connection.last_response:
            os.sched_yield()
        stuck.leave.set()

        answer = read_all(greedy)
        assert 1 == answer.count(b"HTTP/1.1 200 OK")
        assert b"\r\nConnection: close\r\n" in answer
        assert next_one.recv(1 << 16).startswith(b"HTTP/1.1 200 OK")


def test_a_new_client_is_not_evicted(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    """A new client has a grace period; without it the next one would always replace it."""
    monkeypatch.setattr(http_connection, "_ASKING_SECONDS", GUARD_SECONDS)
    monkeypatch.setattr(http_limit, "_ROOM_SECONDS", 0.0)
    server = serve(max_connections=1)
    with connect(server) as first:
        assert "HTTP/1.1 503 Service Unavailable" == status_line(exchange(server, b""))
        first.sendall(GET)
        assert first.recv(1 << 16).startswith(b"HTTP/1.1 200 OK")


def test_hundreds_of_silent_clients_do_not_block_a_scraper(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There are few threads, and scrapes are answered before, meanwhile and after."""
    monkeypatch.setattr(http_limit, "_ROOM_SECONDS", GUARD_SECONDS)
    server = serve(request_timeout=GUARD_SECONDS)
    with ExitStack() as stack:
        statuses = []
        for number in range(500):
            stack.enter_context(connect(server))
            if number % 100 == 0:
                statuses.append(ask(server, "/")[0])
        threads = len(http_threads())

    assert [200] * 5 == statuses
    assert 17 >= threads  # one waits for the next client


def test_a_failure_to_start_a_thread_is_survived(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A client for whom one is needed is cut, the error reported, and the next client served."""
    monkeypatch.setattr(server_module, "_ACCEPT_PAUSE_SECONDS", 0.0)
    server = serve()

    def refuse(*_: object) -> None:
        raise RuntimeError("can't start new thread")

    with ExitStack() as stack:
        for _ in range(STAYING - 1):
            client = stack.enter_context(connect(server))
            client.sendall(GET)
            assert client.recv(1 << 16).startswith(b"HTTP/1.1 200 OK")
        with monkeypatch.context() as patch:
            patch.setattr(unpatched, "start_thread", refuse)
            assert b"" == exchange(server, b"")
        assert 200 == ask(server, "/")[0]

    assert 200 == ask(server, "/")[0]
    assert [("http", "can't start new thread")] == [
        (probe, str(error)) for probe, error in serve.errors
    ]


@contextmanager
def no_collection() -> Iterator[None]:
    """Collect no garbage for a while: that of earlier tests may hold descriptors."""
    gc.disable()
    try:
        gc.collect()
        yield
    finally:
        gc.enable()


@contextmanager
def no_descriptors() -> Iterator[None]:
    """Let the process open no descriptor beyond those that it has."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with no_collection():
        lowest_free = os.dup(0)
        os.close(lowest_free)
        resource.setrlimit(resource.RLIMIT_NOFILE, (lowest_free, hard))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_a_lack_of_file_descriptors_is_survived(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some clients are served without; for others the error is reported until there are some."""
    monkeypatch.setattr(server_module, "_ACCEPT_PAUSE_SECONDS", 0.01)
    server = serve()
    with ExitStack() as stack:
        clients = [stack.enter_context(socket.socket()) for _ in range(STAYING)]
        with no_descriptors():
            for client in clients:
                client.settimeout(GUARD_SECONDS)
                client.connect(("127.0.0.1", server.port))
            for client in clients[:-1]:
                client.sendall(GET)
                assert client.recv(1 << 16).startswith(b"HTTP/1.1 200 OK")
            assert serve.reported.wait(GUARD_SECONDS)
        clients[-1].sendall(b"GET / HTTP/1.0\r\n\r\n")
        answer = read_all(clients[-1])

    assert "HTTP/1.1 200 OK" == status_line(answer)
    assert {("http", errno.EMFILE)} == {
        (probe, getattr(error, "errno", None)) for probe, error in serve.errors
    }


def test_a_lack_of_file_descriptors_does_not_end_with_the_reserve(serve: Serve) -> None:
    """A descriptor that a client leaves is held for the next one."""
    server = serve()
    with ExitStack() as stack:
        clients = [stack.enter_context(socket.socket()) for _ in range(3 * STAYING)]
        with no_descriptors():
            for client in clients:
                client.settimeout(GUARD_SECONDS)
                client.connect(("127.0.0.1", server.port))
                client.sendall(b"GET / HTTP/1.0\r\n\r\n")
                assert read_all(client).startswith(b"HTTP/1.1 200 OK")

    assert [] == serve.errors


def await_threads(server: HttpServer) -> None:
    """Wait until the threads have noticed that their clients are gone.

    For a client that comes before that, one more may be started.
    """
    while server._crew._served:
        time.sleep(0.001)


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="the system does not say")  # noqa: PTH112 - as the program asks
def test_no_thread_or_descriptor_comes_or_goes_with_a_scrape(serve: Serve) -> None:
    """A program that counts its own sees the same before, during and after scrapes."""

    def count() -> tuple[set[int], int]:
        threads = {int(task) for task in os.listdir("/proc/self/task")}  # noqa: PTH208 - as above
        return threads, len(os.listdir("/proc/self/fd"))  # noqa: PTH208 - as above

    def counted(_: Request) -> Response:
        during.append(count())
        return Response(200, b"")

    during: list[tuple[set[int], int]] = []
    server = serve(routes={"/": counted})
    ours = {thread.native_id for thread in http_threads()}
    assert STAYING == len(ours)
    with no_collection():
        threads, descriptors = count()
        for _ in range(20):
            assert exchange(server, b"GET / HTTP/1.0\r\n\r\n").startswith(b"HTTP/1.1 200 OK")
            await_threads(server)
    for seen, opened in during:
        # A thread that an earlier test has joined may still be on its way out.
        assert ours <= seen <= threads
        # The client, too, is a part of this process, and has a descriptor.
        assert descriptors + 1 == opened
    server.close()
    while ours & count()[0]:  # the system removes a thread a little after it was joined
        time.sleep(0.001)


def test_a_route_that_exits_costs_no_thread(serve: Serve) -> None:
    """Not even ``SystemExit`` ends a thread that serves."""

    def leave(_: Request) -> Response:
        sys.exit("the application wants to end")

    server = serve(routes={**ROUTES, "/leave": leave})
    for _ in range(2 * STAYING):
        assert b"" == exchange(server, b"GET /leave HTTP/1.0\r\n\r\n")
        await_threads(server)

    assert 200 == ask(server, "/")[0]
    assert STAYING == len(http_threads())
    assert {("http", SystemExit)} == {(probe, type(error)) for probe, error in serve.errors}


def test_a_thread_more_is_started_for_a_client_more(serve: Serve) -> None:
    """It stays, too, and serves later clients."""
    server = serve()
    with ExitStack() as stack:
        for _ in range(STAYING + 2):
            client = stack.enter_context(connect(server))
            client.sendall(GET)
            assert client.recv(1 << 16).startswith(b"HTTP/1.1 200 OK")
        threads = http_threads()
    assert STAYING + 3 == len(threads)
    await_threads(server)
    for _ in range(3 * STAYING):
        assert 200 == ask(server, "/")[0]
        await_threads(server)
    assert threads == http_threads()


# Malformed requests

HOST = b"Host: a\r\n"


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        pytest.param(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400, id="TLS"),
        pytest.param(b"SSH-2.0-OpenSSH_9.6\r\n", 400, id="SSH"),
        pytest.param(b"\0", 400, id="zero byte"),
        pytest.param(b"GET /\r\n\r\n", 400, id="HTTP/0.9"),
        pytest.param(
            b"GET / HTTP/1.1\n" + HOST + b"\r\n", 400, id="no host before a bare line feed"
        ),
        pytest.param(b"GET  / HTTP/1.1\r\n" + HOST + b"\r\n", 400, id="two spaces"),
        pytest.param(b"GET /\xe9 HTTP/1.1\r\n" + HOST + b"\r\n", 400, id="non-ASCII target"),
        pytest.param(b"G@T / HTTP/1.1\r\n" + HOST + b"\r\n", 400, id="method is no token"),
        pytest.param(b"GET / http/1.1\r\n" + HOST + b"\r\n", 400, id="protocol in lower case"),
        pytest.param(b"\r\n", 400, id="empty line"),
        pytest.param(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505, id="HTTP/2"),
        pytest.param(b"GET / HTTP/1.1\r\n\r\n", 400, id="no Host"),
        pytest.param(b"GET / HTTP/1.1\r\n" + HOST * 2 + b"\r\n", 400, id="two Hosts"),
        pytest.param(
            b"GET / HTTP/1.1\r\n" + HOST + b"X : 1\r\n\r\n", 400, id="space before the colon"
        ),
        pytest.param(b"GET / HTTP/1.1\r\n" + HOST + b"X: 1\r\n 2\r\n\r\n", 400, id="folded header"),
        pytest.param(b"GET / HTTP/1.1\r\n" + HOST + b"X\r\n\r\n", 400, id="no colon"),
        pytest.param(b"GET / HTTP/1.1\r\n" + HOST + b": 1\r\n\r\n", 400, id="no name"),
        pytest.param(
            b"GET / HTTP/1.1\r\n" + HOST + b"X: a\0b\r\n\r\n", 400, id="zero byte in a header"
        ),
        pytest.param(
            b"GET / HTTP/1.1\r\n" + HOST + b"X: a\rb\r\n\r\n", 400, id="carriage return in a header"
        ),
        pytest.param(
            b"GET / HTTP/1.1\r\n" + HOST + b"X: a\nb\r\n\r\n", 400, id="line feed in a header"
        ),
        pytest.param(
            b"GET / HTTP/1.1\r\n" + HOST + b"Content-Length: -1\r\n\r\n", 400, id="negative length"
        ),
        pytest.param(
            b"GET / HTTP/1.1\r\n" + HOST + b"Content-Length: 1_0\r\n\r\n",
            400,
            id="length that only Python reads",
        ),
        pytest.param(
            b"GET / HTTP/1.1\r\n" + HOST + b"Content-Length: 3\r\nContent-Length: 4\r\n\r\n",
            400,
            id="two lengths",
        ),
        pytest.param(
            b"GET / HTTP/1.1\r\n" + HOST + b"Content-Length: %d\r\n\r\n" % (MAX_BODY + 1),
            413,
            id="body too long",
        ),
        pytest.param(
            b"GET / HTTP/1.1\r\n" + HOST + b"Content-Length: " + b"9" * 4000 + b"\r\n\r\n",
            400,
            id="length too long",
        ),
        pytest.param(
            b"GET / HTTP/1.1\r\n"
            + HOST
            + b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
            411,
            id="chunked body",
        ),
        pytest.param(
            b"GET / HTTP/1.1\r\n" + HOST + b"Content-Length: 1\r\nExpect: 100-continue\r\n\r\n",
            417,
            id="expectation",
        ),
        pytest.param(b"GET /" + b"x" * MAX_REQUEST_LINE, 414, id="endless request line"),
        pytest.param(
            b"GET /" + b"x" * MAX_REQUEST_LINE + b" HTTP/1.1\r\n" + HOST + b"\r\n",
            414,
            id="long request line",
        ),
        pytest.param(b"GET / HTTP/1.1\r\nX: " + b"x" * MAX_HEAD, 431, id="endless header"),
        pytest.param(
            b"GET / HTTP/1.1\r\n" + HOST + b"X: " + b"x" * 65536 + b"\r\n\r\n",
            431,
            id="long header",
        ),
        pytest.param(
            b"GET / HTTP/1.1\r\n" + HOST + b"X: 1\r\n" * MAX_HEADERS + b"\r\n",
            431,
            id="many headers",
        ),
    ],
)
def test_a_malformed_request_is_refused_at_once(serve: Serve, data: bytes, expected: int) -> None:
    """The response comes as soon as the request is hopeless, and ends the connection.

    It says no more than its status.
    """
    server = serve(request_timeout=GUARD_SECONDS)
    with connect(server) as sock:
        sock.sendall(data)
        head, _, body = read_all_but_linger(sock).partition(b"\r\n\r\n")

    phrase = http.client.responses[expected]
    assert f"HTTP/1.1 {expected} {phrase}" == status_line(head)
    assert f"{expected} {phrase}\n".encode() == body
    assert head.endswith(b"Connection: close")
    assert [] == serve.errors


def read_all_but_linger(sock: socket.socket) -> bytes:
    """Read until the server has ended its side, then end ours, as a client does when it is done."""
    received = read_all(sock)
    sock.shutdown(socket.SHUT_WR)
    return received


@pytest.mark.parametrize(
    "data",
    [
        b"GET /" + b"x" * (MAX_REQUEST_LINE - 14) + b" HTTP/1.1\r\n" + HOST + b"\r\n",
        b"GET /x HTTP/1.1\r\n" + HOST + b"X: " + b"x" * (MAX_HEAD - 33) + b"\r\n\r\n",
        b"GET /x HTTP/1.1\r\n" + HOST + b"X: 1\r\n" * (MAX_HEADERS - 1) + b"\r\n",
        b"GET /x HTTP/1.1\r\n" + HOST + b"Content-Length: %d\r\n\r\n" % MAX_BODY + bytes(MAX_BODY),
    ],
)
def test_requests_at_the_limits_are_served(serve: Serve, data: bytes) -> None:
    """Every limit is the last value that passes."""
    assert "HTTP/1.1 404 Not Found" == status_line(exchange(serve(idle_timeout=0.05), data))


def test_an_error_reaches_a_client_that_is_still_sending(serve: Serve) -> None:
    """The rest of a refused request is read and dropped: a reset would destroy the response."""
    server = serve()
    with connect(server) as sock:
        sock.sendall(
            b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 200000\r\n\r\n" + bytes(200_000)
        )
        answer = read_all_but_linger(sock)

    assert "413" == status_line(answer).split()[1]


# Life and death


def test_a_taken_port_is_an_error_that_names_the_fix(serve: Serve) -> None:
    """The constructor raises, with the error number, the port, the address and what to do."""
    port = serve().port
    with pytest.raises(OSError, match="Address already in use") as caught:
        serve(port=port)

    assert errno.EADDRINUSE == caught.value.errno
    assert (
        f"cannot serve metrics on port {port} of '127.0.0.1': Address already in use. "
        "Give another port, or port=0 for any free one; "
        "programs started one by one need a port each, or a shared directory"
    ) == caught.value.strerror


@pytest.mark.parametrize(
    ("addr", "kind", "number"),
    [
        ("192.0.2.1", OSError, errno.EADDRNOTAVAIL),
        ("300.1.1.1.", socket.gaierror, socket.EAI_NONAME),
    ],
)
def test_an_invalid_address_is_an_error_that_names_the_fix(
    serve: Serve, addr: str, kind: type[OSError], number: int
) -> None:
    """An address that cannot be bound is quoted together with addresses that work."""
    with pytest.raises(kind, match=f"of '{addr}'.*Give an address of this machine") as caught:
        serve(addr=addr)

    assert number == caught.value.errno


@pytest.mark.parametrize(
    ("addr", "family", "url"),
    [
        ("127.0.0.1", socket.AF_INET, "http://127.0.0.1:{}"),
        ("localhost", socket.AF_INET, "http://127.0.0.1:{}"),
        ("0.0.0.0", socket.AF_INET, "http://127.0.0.1:{}"),  # noqa: S104 - that is the case
        ("::1", socket.AF_INET6, "http://[::1]:{}"),
        ("::", socket.AF_INET6, "http://[::1]:{}"),
    ],
)
def test_the_url_can_be_opened(serve: Serve, addr: str, family: int, url: str) -> None:
    """Whatever the address, the URL leads to the server from this machine."""
    if family == socket.AF_INET6 and not ipv6():
        pytest.skip("no IPv6 on this machine")
    server = serve(addr)
    host = "::1" if family == socket.AF_INET6 else "127.0.0.1"
    with closing(
        http.client.HTTPConnection(host, server.port, timeout=GUARD_SECONDS)
    ) as connection:
        status, _, _ = ask_on(connection, "/")

    assert url.format(server.port) == server.url
    assert 200 == status


def ipv6() -> bool:
    """Whether the machine has the IPv6 loopback address."""
    try:
        with socket.socket(socket.AF_INET6) as sock:
            sock.bind(("::1", 0))
    except OSError:
        return False
    return True


def test_close_does_not_wait_for_connections(serve: Serve) -> None:
    """Idle and slow clients are cut; every thread ends and the port is free at once."""
    server = serve(request_timeout=GUARD_SECONDS, idle_timeout=GUARD_SECONDS)
    with (
        connect(server) as silent,
        connect(server) as idle,
        connect(server) as slow,
        connect(server) as deaf,
    ):
        idle.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        slow.sendall(b"GET / HTTP/1.1\r\nX: ")
        deaf.sendall(b"GET /huge HTTP/1.1\r\nHost: a\r\n\r\n")
        assert idle.recv(1 << 16).startswith(b"HTTP/1.1 200 OK")
        assert select.select([deaf], [], [], GUARD_SECONDS)[0]
        server.close()

        assert [] == http_threads()
        assert (b"", b"", b"") == (read_all(silent), read_all(idle), read_all(slow))
        assert 200 == ask(serve(port=server.port), "/")[0]


def test_close_can_be_repeated(serve: Serve) -> None:
    """Closing a server that is closed or never started does nothing; its port stays known."""
    server = serve()
    port = server.port
    server.close()
    server.close()
    HttpServer("127.0.0.1", port, ROUTES, on_error=serve.on_error).close()

    assert port == server.port


def test_close_does_not_wait_forever_for_a_route(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stuck route does not delay the application's shutdown."""
    monkeypatch.setattr(server_module, "_JOIN_SECONDS", 0.0)
    entered, leave = threading.Event(), threading.Event()

    def stuck(_: Request) -> Response:
        entered.set()
        leave.wait(GUARD_SECONDS)
        return Response(200, b"")

    server = serve(routes={"/": stuck})
    with connect(server) as sock:
        sock.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        assert entered.wait(GUARD_SECONDS)
        server.close()
        (connection,) = server._connections._connections
        assert not connection.closed.is_set()
        leave.set()
        for thread in http_threads():
            thread.join(GUARD_SECONDS)

    assert [] == serve.errors


def test_a_route_may_close_the_server(serve: Serve) -> None:
    """A thread of the server that closes it does not wait for itself."""
    servers: list[HttpServer] = []

    def close(_: Request) -> Response:
        servers[0].close()
        return Response(200, b"")

    servers.append(serve(routes={"/": close}))

    assert b"" == exchange(servers[0], b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
    assert [] == serve.errors


def test_threads_are_daemons_with_names(serve: Serve) -> None:
    """The server never keeps a process alive, and the names of its threads say whose they are."""
    server = serve()
    with closing(
        http.client.HTTPConnection("127.0.0.1", server.port, timeout=GUARD_SECONDS)
    ) as connection:
        ask_on(connection, "/")
        threads = http_threads()

    assert [("aiometrics-http", True)] * STAYING == [
        (thread.name, thread.daemon) for thread in threads
    ]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_a_forked_child_closes_its_sockets(serve: Serve) -> None:
    """Closing in a child, which has no threads, returns and leaves the parent's sockets alone."""
    server = serve()
    with closing(
        http.client.HTTPConnection("127.0.0.1", server.port, timeout=GUARD_SECONDS)
    ) as connection:
        assert 200 == ask_on(connection, "/")[0]
        status = in_forked_child(server.close)
        assert 200 == ask_on(connection, "/")[0]

    assert 0 == status
    assert 200 == ask(server, "/")[0]


def in_forked_child(function: Callable[[], None]) -> int:
    """Return the wait status of a child that calls ``function``; it is killed if it hangs."""
    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore", DeprecationWarning
        )  # the parent has threads; that is the case
        pid = os.fork()
    if pid == 0:
        signal.alarm(int(GUARD_SECONDS))
        try:
            function()
            function()
        except BaseException:  # noqa: BLE001 - nothing of the child may run on in the parent's test session
            os._exit(1)
        os._exit(0)
    return os.waitpid(pid, 0)[1]
