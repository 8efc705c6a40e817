"""HTTP servers on real sockets for tests, and clients for them.

Each wait ends with an event on a socket or the end of a thread.
"""

from __future__ import annotations

import http.client
import socket
import threading
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any

from aiometrics.base.http.server import HttpServer, Request, Response

GUARD_SECONDS = 300.0  # a client that waits this long has found a hang
LONG = b"asyncio_tasks 1\n" * 1000
HUGE = bytes(64 << 20)

Answer = tuple[int, http.client.HTTPMessage, bytes]


def fail(request: Request) -> Response:
    """Raise an error: a route that fails."""
    raise RuntimeError(f"secret of /srv/app/{request.path}")


def echo(request: Request) -> Response:
    """Return the request as text: a route that shows what it received."""
    return Response(
        200,
        f"{request.method} {request.path} {request.query} {request.headers.get('x-test')}".encode(),
    )


ROUTES = {
    "/": lambda _: Response(200, b"hello\n", "text/html; charset=utf-8", (("X-Extra", "1"),)),
    "/echo": echo,
    "/long": lambda _: Response(200, LONG),
    "/huge": lambda _: Response(200, HUGE),
    "/fail": fail,
}


@dataclass
class Serve:
    """Starts servers with the options of a test, and collects the errors that they report."""

    servers: list[HttpServer] = field(default_factory=list)
    errors: list[tuple[str, BaseException]] = field(default_factory=list)
    reported: threading.Event = field(default_factory=threading.Event)

    def __call__(self, addr: str = "127.0.0.1", port: int = 0, **options: Any) -> HttpServer:
        """Start a server and return it."""
        options = {"routes": ROUTES, "on_error": self.on_error, **options}
        server = HttpServer(addr, port, **options)
        self.servers.append(server)
        server.start()
        return server

    def unexpected(self, request: Request) -> Response:
        """Fail the test: a route that must never be called."""
        raise AssertionError(request.path)

    def on_error(self, probe: str, error: BaseException) -> None:
        """Collect an error that a server reports."""
        self.errors.append((probe, error))
        self.reported.set()


@dataclass
class Stuck:
    """A route that blocks its callers until ``leave`` is set."""

    entered: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))
    leave: threading.Event = field(default_factory=threading.Event)

    def __call__(self, _: Request) -> Response:
        self.entered.release()
        assert self.leave.wait(GUARD_SECONDS)
        return Response(200, b"")


def http_threads() -> list[threading.Thread]:
    """Return the server threads of this process."""
    return [thread for thread in threading.enumerate() if thread.name == "aiometrics-http"]


def open_connections(server: HttpServer) -> int:
    """Return how many clients have a connection to a server."""
    return sum(not found.closed.is_set() for found in server._connections._connections)


def connect(server: HttpServer, source: str = "127.0.0.1") -> socket.socket:
    """Connect to the server from the address ``source`` and return the socket."""
    return socket.create_connection(
        ("127.0.0.1", server.port), timeout=GUARD_SECONDS, source_address=(source, 0)
    )


def read_all(sock: socket.socket) -> bytes:
    """Return all bytes that arrive until the server closes the connection."""
    received = bytearray()
    while data := sock.recv(1 << 20):
        received += data
    return bytes(received)


def exchange(server: HttpServer, data: bytes) -> bytes:
    """Send raw bytes, and return all bytes that arrive until the server closes the connection."""
    with connect(server) as sock:
        sock.sendall(data)
        return read_all(sock)


def ask_on(
    connection: http.client.HTTPConnection,
    path: str,
    method: str = "GET",
    body: bytes | None = None,
    **headers: str,
) -> Answer:
    """Send a request over an open connection, and return the response."""
    connection.request(
        method,
        path,
        body=body,
        headers={name.replace("_", "-"): value for name, value in headers.items()},
    )
    response = connection.getresponse()
    return response.status, response.headers, response.read()


def ask(server: HttpServer, path: str, method: str = "GET", **headers: str) -> Answer:
    """Send a request over a new connection, and return the response."""
    with closing(
        http.client.HTTPConnection("127.0.0.1", server.port, timeout=GUARD_SECONDS)
    ) as connection:
        return ask_on(connection, path, method, None, **headers)


def status_line(answer: bytes) -> str:
    """Return the first line of a raw response."""
    return answer.partition(b"\r\n")[0].decode()


def fetch(port: int, path: str) -> tuple[http.client.HTTPResponse, bytes]:
    """Return a response of an exporter of this machine, and its body."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=GUARD_SECONDS)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        return response, response.read()
    finally:
        connection.close()
