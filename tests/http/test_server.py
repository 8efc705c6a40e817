"""The HTTP server over real sockets. Nothing sleeps: every wait ends with an event on a socket or the end of a thread."""

from __future__ import annotations

import asyncio
import errno
import gzip
import http.client
import os
import resource
import select
import signal
import socket
import struct
import threading
import warnings
from collections.abc import Callable
from contextlib import ExitStack, closing
from types import SimpleNamespace

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
    read_all,
    status_line,
)

from aiometrics.http import connection as http_connection
from aiometrics.http import connections as http_crowd
from aiometrics.http import server as server_module
from aiometrics.http.messages import MAX_BODY, MAX_HEAD, MAX_HEADERS, MAX_REQUEST_LINE
from aiometrics.http.server import MetricsServer, Request, Response

GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"


# Answers


def test_a_route_answers(serve: Serve) -> None:
    """Status, body, content type and extra headers are the route's; length, date and connection are the server's."""
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
    """Paths are decoded, queries are not, absolute targets are understood, repeated headers are joined."""
    answer = exchange(
        serve(),
        f"GET {target} HTTP/1.1\r\nHost: a\r\nX-Test: 1\r\nx-test:2\r\nConnection: close\r\n\r\n".encode(),
    )

    assert expected == answer.partition(b"\r\n\r\n")[2]


def test_head_gets_the_headers_of_get_and_no_body(serve: Serve) -> None:
    """HEAD says what GET would have brought, its length and compression included."""
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
    """A path without a route is not found, whatever the method, and is not repeated in the answer."""
    status, headers, body = ask(serve(), "/nowhere", method)

    assert (404, "14") == (status, headers["Content-Length"])
    assert (b"" if method == "HEAD" else b"404 Not Found\n") == body


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "TRACE", "get"])
def test_an_unknown_method_is_405(serve: Serve, method: str) -> None:
    """A known path names the methods it has."""
    status, headers, body = ask(serve(), "/", method)

    assert (405, "GET, HEAD", b"405 Method Not Allowed\n") == (status, headers["Allow"], body)


def test_long_bodies_are_compressed_for_who_asks(serve: Serve) -> None:
    """Gzip is negotiated, and caches are told what the answer depends on."""
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


def test_a_route_that_raises_is_500_and_tells_nothing(serve: Serve) -> None:
    """The client learns that it failed, the callback why, and the next request is answered on the same connection."""
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


def test_a_route_with_an_impossible_answer_is_500(serve: Serve) -> None:
    """A status or a header that HTTP cannot carry counts as a failure of the route."""
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
    """Not even reporting an error can end a connection."""

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
    """A loop that is stuck in one segment can be scraped: the scrape happens inside that very segment."""
    server = serve()

    async def block() -> int:
        return ask(server, "/")[0]

    assert 200 == asyncio.run(block())


# Connections


def test_a_connection_serves_many_requests(serve: Serve) -> None:
    """Keep-alive is the rule, also after 404, 405 and a request body."""
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
        threads = len(http_threads("aiometrics-http-client"))

    assert [404, 405, 200, 200] == statuses
    assert 1 == threads


def test_pipelined_requests_are_answered_in_order(serve: Serve) -> None:
    """Requests that arrive together are answered one after the other, a body between them dropped."""
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


def test_who_asks_without_end_is_answered_at_a_pace(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between two answers on a connection there is a pause, before the first there is none."""
    pauses: list[float] = []
    monkeypatch.setattr(
        http_connection, "time", SimpleNamespace(monotonic=lambda: 100.0, sleep=pauses.append)
    )
    exchange(serve(), GET * 2 + b"GET / HTTP/1.0\r\n\r\n")

    assert [
        0.0,
        pytest.approx(http_connection._PACE_SECONDS),
        pytest.approx(http_connection._PACE_SECONDS),
    ] == pauses


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
    """HTTP/1.0 closes unless asked not to, HTTP/1.1 keeps unless asked to close."""
    answer = exchange(serve(idle_timeout=0.05), request_head)

    assert b"\r\nConnection: %s\r\n" % expected in answer


def test_an_idle_connection_is_closed(serve: Serve) -> None:
    """Between requests a connection may idle for so long, then it ends without a word."""
    answer = exchange(serve(idle_timeout=0.05), b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")

    assert 1 == answer.count(b"HTTP/1.1 ")
    assert answer.endswith(b"hello\n")


def test_a_connection_that_never_speaks_is_closed(serve: Serve) -> None:
    """A client that connects and sends nothing is cut at the deadline of its first request."""
    assert b"" == exchange(serve(request_timeout=0.05), b"")


@pytest.mark.parametrize("body", [False, True])
def test_a_slow_sender_is_cut(serve: Serve, body: bool) -> None:  # noqa: FBT001 - a table's column
    """The deadline is one for the whole request: a byte now and then, in the head or the body, does not move it."""
    server = serve(request_timeout=0.2)
    head = (
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 60000\r\n\r\n"
        if body
        else b"GET / HTTP/1.1\r\nX: "
    )
    answer = b""
    while not answer:  # a client that has not even begun by then is cut without a word
        with connect(server) as sock:
            sock.sendall(head)
            sent = 0
            while sent < 5000 and not select.select([sock], [], [], 0.01)[0]:
                sock.sendall(b"x")
                sent += 1
            answer = read_all(sock)

    assert "HTTP/1.1 408 Request Timeout" == status_line(answer)


def test_a_slow_reader_is_cut(serve: Serve) -> None:
    """A client that does not take its answer loses the connection, not the server a thread."""
    server = serve(request_timeout=1.0)
    with connect(server) as sock:
        sock.sendall(b"GET /huge HTTP/1.1\r\nHost: a\r\n\r\n")
        assert select.select([sock], [], [], GUARD_SECONDS)[0]
        for thread in http_threads("aiometrics-http-client"):
            thread.join(GUARD_SECONDS)
        assert [] == http_threads("aiometrics-http-client")
        assert len(read_all(sock)) < len(HUGE)

    assert 200 == ask(server, "/")[0]


def test_a_client_that_goes_away_is_nobodys_error(serve: Serve) -> None:
    """A reset in the middle of a request or of an answer ends the connection and is not reported."""
    server = serve()
    for data in (b"GET / HT", b"GET /huge HTTP/1.1\r\nHost: a\r\n\r\n"):
        with connect(server) as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            sock.sendall(data)
    server.close()

    assert [] == serve.errors


def test_too_many_connections_are_refused(serve: Serve) -> None:
    """Where all that there may be are being answered a client gets 503 and no thread; a place that becomes free is given away again."""
    stuck = Stuck()
    server = serve(max_connections=1, routes={**ROUTES, "/stuck": stuck})
    with connect(server) as first:
        first.sendall(b"GET /stuck HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        assert stuck.entered.acquire(timeout=GUARD_SECONDS)
        refusal = exchange(server, b"")
        assert 1 == len(http_threads("aiometrics-http-client"))
        stuck.leave.set()
        assert read_all(first).startswith(b"HTTP/1.1 200 OK")
    status, _, _ = ask(server, "/")

    assert "HTTP/1.1 503 Service Unavailable" == status_line(refusal)
    assert b"\r\nConnection: close\r\n" in refusal
    assert 200 == status


def test_a_refusal_reaches_a_client_that_has_spoken(serve: Serve) -> None:
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
    """The port is bound before the server starts, and who asks there meanwhile gets an answer once it has."""
    server = MetricsServer("127.0.0.1", 0, ROUTES, on_error=serve.on_error)
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
def test_who_keeps_us_waiting_longest_goes_first(
    serve: Serve, data: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where there is no room, the next client gets that of the one whose turn it has been for longest, whatever it should do."""
    monkeypatch.setattr(http_connection, "_TAKING_SECONDS", 0.0)
    monkeypatch.setattr(http_crowd, "_ROOM_SECONDS", GUARD_SECONDS)
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


def test_a_host_with_many_connections_drives_out_nobody_else(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever has most connections loses one, though another host has kept us waiting for longer."""
    monkeypatch.setattr(http_connection, "_ASKING_SECONDS", 0.0)
    monkeypatch.setattr(http_crowd, "_ROOM_SECONDS", GUARD_SECONDS)
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


def test_where_others_wait_for_room_nobody_is_answered_on_and_on(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A client that has asked for many things at once gets one of them, if all places are taken, and then the next client has its turn."""
    monkeypatch.setattr(http_crowd, "_ROOM_SECONDS", GUARD_SECONDS)
    stuck = Stuck()
    server = serve(max_connections=1, routes={**ROUTES, "/stuck": stuck})
    with connect(server) as greedy, connect(server) as next_one:
        greedy.sendall(b"GET /stuck HTTP/1.1\r\nHost: a\r\n\r\n" * 3)
        next_one.sendall(GET)
        assert stuck.entered.acquire(timeout=GUARD_SECONDS)
        (connection,) = server._connections._connections.values()
        while not connection.leaving:
            os.sched_yield()
        stuck.leave.set()

        answer = read_all(greedy)
        assert 1 == answer.count(b"HTTP/1.1 200 OK")
        assert b"\r\nConnection: close\r\n" in answer
        assert next_one.recv(1 << 16).startswith(b"HTTP/1.1 200 OK")


def test_who_has_only_just_come_is_not_driven_out(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A client has a moment to ask before it counts as keeping us waiting, or the next one to come would always have its place."""
    monkeypatch.setattr(http_connection, "_ASKING_SECONDS", GUARD_SECONDS)
    monkeypatch.setattr(http_crowd, "_ROOM_SECONDS", 0.0)
    server = serve(max_connections=1)
    with connect(server) as first:
        assert "HTTP/1.1 503 Service Unavailable" == status_line(exchange(server, b""))
        first.sendall(GET)
        assert first.recv(1 << 16).startswith(b"HTTP/1.1 200 OK")


def test_hundreds_of_silent_clients_keep_no_scraper_out(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Threads stay few, and who asks gets its answer, before, meanwhile and after."""
    monkeypatch.setattr(http_crowd, "_ROOM_SECONDS", GUARD_SECONDS)
    server = serve(request_timeout=GUARD_SECONDS)
    with ExitStack() as stack:
        statuses = []
        for number in range(500):
            stack.enter_context(connect(server))
            if number % 100 == 0:
                statuses.append(ask(server, "/")[0])
        threads = len(http_threads("aiometrics-http-client"))

    assert [200] * 5 == statuses
    assert 16 >= threads


def test_no_thread_to_be_had_is_survived(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the system gives no thread the client is cut, the error reported, and the next client served."""
    monkeypatch.setattr(server_module, "_ACCEPT_PAUSE_SECONDS", 0.0)
    server = serve(max_connections=1)

    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        assert b"" == exchange(server, b"")

    assert 200 == ask(server, "/")[0]
    assert [("http", "can't start new thread")] == [
        (probe, str(error)) for probe, error in serve.errors
    ]


def test_no_file_descriptor_to_be_had_is_survived(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the process is out of descriptors the error is reported, and the client is served once there is one again."""
    monkeypatch.setattr(server_module, "_ACCEPT_PAUSE_SECONDS", 0.01)
    server = serve()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with socket.socket() as sock:
        sock.settimeout(GUARD_SECONDS)
        lowest_free = os.dup(sock.fileno())
        os.close(lowest_free)
        resource.setrlimit(resource.RLIMIT_NOFILE, (lowest_free, hard))
        try:
            sock.connect(("127.0.0.1", server.port))
            assert serve.reported.wait(GUARD_SECONDS)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        sock.sendall(b"GET / HTTP/1.0\r\n\r\n")
        answer = read_all(sock)

    assert "HTTP/1.1 200 OK" == status_line(answer)
    assert {("http", errno.EMFILE)} == {
        (probe, getattr(error, "errno", None)) for probe, error in serve.errors
    }


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
    """The answer comes as soon as the request is hopeless, says no more than its status, and ends the connection."""
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
    """Everything until the server has ended its side; then end ours, as a client does that has its answer."""
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
def test_what_is_just_within_the_limits_is_served(serve: Serve, data: bytes) -> None:
    """Every limit is the last value that passes."""
    assert "HTTP/1.1 404 Not Found" == status_line(exchange(serve(idle_timeout=0.05), data))


def test_an_error_reaches_a_client_that_is_still_sending(serve: Serve) -> None:
    """The rest of a refused request is read and dropped: a reset would destroy the answer on its way."""
    server = serve()
    with connect(server) as sock:
        sock.sendall(
            b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 200000\r\n\r\n" + bytes(200_000)
        )
        answer = read_all_but_linger(sock)

    assert "413" == status_line(answer).split()[1]


# Life and death


def test_a_taken_port_is_an_error_that_names_the_fix(serve: Serve) -> None:
    """The error comes from the constructor, with the system's number, the port, the address and what to do."""
    port = serve().port
    with pytest.raises(OSError, match="Address already in use") as caught:
        serve(port=port)

    assert errno.EADDRINUSE == caught.value.errno
    assert (
        f"cannot serve metrics on port {port} of '127.0.0.1': Address already in use. "
        "Give another port, or port=0 for any free one; several workers need a port each, or a shared directory"
    ) == caught.value.strerror


@pytest.mark.parametrize(
    ("addr", "kind", "number"),
    [
        ("192.0.2.1", OSError, errno.EADDRNOTAVAIL),
        ("300.1.1.1.", socket.gaierror, socket.EAI_NONAME),
    ],
)
def test_a_bad_address_is_an_error_that_names_the_fix(
    serve: Serve, addr: str, kind: type[OSError], number: int
) -> None:
    """An address that is not this machine's, or none at all, is quoted together with the addresses that work."""
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
    """Clients that idle, dawdle or do not read are cut; every thread ends and the port is free at once."""
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
    """Closing a closed server, or one that never started, does nothing; the port stays what it was."""
    server = serve()
    port = server.port
    server.close()
    server.close()
    MetricsServer("127.0.0.1", port, ROUTES, on_error=serve.on_error).close()

    assert port == server.port


def test_close_does_not_wait_forever_for_a_route(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A route that is stuck cannot hold up the application's shutdown."""
    monkeypatch.setattr(server_module, "_JOIN_SECONDS", 0.0)
    monkeypatch.setattr(http_crowd, "_JOIN_SECONDS", 0.0)
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
        threads = http_threads("aiometrics-http-client")
        leave.set()
        for thread in threads:
            thread.join(GUARD_SECONDS)

    assert 1 == len(threads)
    assert [] == serve.errors


def test_a_route_may_close_the_server(serve: Serve) -> None:
    """A thread of the server that closes it does not wait for itself."""
    servers: list[MetricsServer] = []

    def close(_: Request) -> Response:
        servers[0].close()
        return Response(200, b"")

    servers.append(serve(routes={"/": close}))

    assert b"" == exchange(servers[0], b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
    assert [] == serve.errors


def test_threads_are_daemons_with_names(serve: Serve) -> None:
    """The server never keeps a process alive, and its threads say whose they are."""
    server = serve()
    with closing(
        http.client.HTTPConnection("127.0.0.1", server.port, timeout=GUARD_SECONDS)
    ) as connection:
        ask_on(connection, "/")
        threads = http_threads()

    assert [("aiometrics-http", True), ("aiometrics-http-client", True)] == sorted(
        (thread.name, thread.daemon) for thread in threads
    )


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_a_forked_child_lets_go(serve: Serve) -> None:
    """Closing in a child, where the threads are not, returns; the parent's connections and port are not touched by it."""
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
    """The wait status of a child that calls ``function`` and is killed if it hangs."""
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
