"""The HTTP server: daemon threads that answer while the event loop is blocked.

They stay, and no client can hold one of them for long.
"""

from __future__ import annotations

import socket
import threading
import zlib
from collections.abc import Callable, Mapping
from contextlib import suppress
from http import HTTPStatus
from typing import TYPE_CHECKING

from aiometrics.base import fork
from aiometrics.base.handover import HAND_OVER, HandOver
from aiometrics.base.http.connection import Connection
from aiometrics.base.http.connections import ConnectionLimit
from aiometrics.base.http.crew import STAYING, Crew
from aiometrics.base.http.host import is_loopback, names_this_machine
from aiometrics.base.http.listener import accept, listen, url
from aiometrics.base.http.messages import Request, Response, encode, plain
from aiometrics.base.http.negotiation import accepts_gzip
from aiometrics.base.http.reserve import Reserve
from aiometrics.base.unpatched import Flag, getpid

if TYPE_CHECKING:
    from aiometrics.base.http.auth import AccessControl

__all__ = ["HttpServer", "Request", "Response", "Route"]

Route = Callable[[Request], Response]

_PROBE = "http"
_METHODS = ("GET", "HEAD")
#: The pause after a failure to accept; without file descriptors it would repeat at once.
_ACCEPT_PAUSE_SECONDS = 1.0
#: How long ``close`` waits until no thread accepts, and then for threads that are inside a route.
_JOIN_SECONDS = 2.0
#: Metrics compress twenty to one at level 1; level 6 takes three times as long for a tenth less.
#: 31 is the window size of zlib with a gzip header.
_GZIP_LEVEL = 1
_GZIP_MIN_BYTES = 1024
_GZIP_WBITS = 31
_RECEIVE_BYTES = 16384
_MISDIRECTED = (
    b"421 Misdirected Request\nThe Host header names another machine, and this port is for "
    b"clients on this one: use localhost or an IP address.\n"
)


class HttpServer:
    """Serves ``routes`` (path to function) over HTTP/1.1, with a daemon thread per connection.

    Threads stay when connections end. The constructor binds ``port`` (0: any free one) on ``addr``;
    :meth:`start` begins to answer. A request must arrive within ``request_timeout`` seconds in all,
    however its bytes are spread, and its response must be received within as many. Between requests
    a connection may idle for ``idle_timeout`` seconds, which by default is longer than the usual
    scrape intervals. Beyond ``max_connections``, the client that has kept the server waiting
    longest is disconnected for the next one. If there is no such client, because all are being
    answered, the next one waits for a second, then gets 503.

    An ``access_control`` says whether TLS is used, and sees every request first: if it returns a
    response, the client gets that one. Threads that answer get the interpreter by ``hand_over``.
    Errors that it or a route raises go to ``on_error`` with the name of the probe, ``"http"``, and
    the client gets 500.

    On a loopback address without access control, a request whose ``Host`` header names another
    machine gets 421.

    Raises ``OSError``, with the system's error number, if the address cannot be bound.
    """

    def __init__(
        self,
        addr: str,
        port: int,
        routes: Mapping[str, Route],
        *,
        on_error: Callable[[str, BaseException], object],
        request_timeout: float = 10.0,
        idle_timeout: float = 75.0,
        max_connections: int = 16,
        access_control: AccessControl | None = None,
        hand_over: HandOver = HAND_OVER,
    ) -> None:
        self._listener = listen(addr, port)
        self._waker, self._wakened = socket.socketpair()
        for sock in (self._waker, self._wakened):
            fork.forget_in_child(sock, fork.Stage.DESCRIPTORS, fork.close)
        self._address = self._listener.getsockname()
        self._routes = routes
        self._on_error = on_error
        self._request_timeout = request_timeout
        self._idle_timeout = idle_timeout
        self._access_control = access_control
        self._hand_over = hand_over
        #: Only clients on this machine can connect, and need no password.
        self._local_only = access_control is None and is_loopback(self._address[0])
        self._tls = access_control.tls if access_control and access_control.encrypted else None
        self._pid = getpid()
        self._closing = Flag()
        self._connections = ConnectionLimit(max_connections)
        self._gzip_lock = threading.Lock()
        self._last_gzip = b"", b""
        #: For as many clients as the threads that are always there can serve at once.
        self._reserve = Reserve(STAYING - 1)
        self._crew = Crew(self._next_connection, self._serve, max_connections + 1)

    @property
    def port(self) -> int:
        """The bound port."""
        return int(self._address[1])

    @property
    def url(self) -> str:
        """The server's URL as seen from this machine, without a path.

        If every interface is bound, its host is the loopback address.
        """
        return url(self._address[0], self.port, encrypted=self._tls is not None)

    def start(self) -> None:
        """Begin to answer."""
        self._crew.start()

    def close(self) -> None:
        """Free the port, cut every connection and wait for the threads. Idempotent.

        A thread that is stuck inside a route is left behind. Does nothing in a forked child: the
        threads do not exist there, the fork has closed its copies of the sockets, and the parent
        goes on serving.
        """
        if self._pid != getpid():
            return
        self._stop_accepting()
        for sock in (self._listener, self._waker, self._wakened, self._reserve):
            sock.close()
        self._connections.cut_all()
        self._crew.join(_JOIN_SECONDS)

    def _stop_accepting(self) -> None:
        self._closing.set()
        self._connections.admit_no_more()
        with suppress(OSError):  # closed before
            self._waker.send(b"\0")
        self._crew.await_turn(_JOIN_SECONDS)

    def _next_connection(self) -> Connection | None:
        """Wait for the next client; ``None`` when the server closes."""
        with self._hand_over:
            while not self._closing.is_set():
                try:
                    self._hand_over.wait((self._listener.fileno(), self._wakened.fileno()))
                    if connection := self._accept():
                        return connection
                except Exception as error:  # noqa: BLE001 - it may neither end the server nor spin
                    if not self._closing.is_set():
                        self._report(error)
                        self._closing.wait(_ACCEPT_PAUSE_SECONDS)
        return None

    def _accept(self) -> Connection | None:
        """Return a connection to the client that waits; ``None`` if there is none after all."""
        connection = None
        self._reserve.lend()
        try:
            connection = self._admit()
        finally:
            if connection is None:
                self._reserve.refill()
        return connection

    def _admit(self) -> Connection | None:
        try:
            sock, address = accept(self._listener)
        except (BlockingIOError, ConnectionAbortedError):  # the client is gone
            return None
        if not self._connections.find_room():
            self._refuse(sock)
            return None
        try:
            sock.settimeout(0)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        except OSError:  # as above
            sock.close()
            return None
        connection = self._connection(sock, address[0])
        self._connections.admit(connection)
        try:
            self._crew.find_successor()
        except RuntimeError:  # no thread can be started
            connection.close()
            raise
        return connection

    def _refuse(self, sock: socket.socket) -> None:
        with sock, suppress(OSError):
            sock.settimeout(0)
            if not self._tls:
                refusal = plain(HTTPStatus.SERVICE_UNAVAILABLE, (("Retry-After", "1"),))
                sock.send(b"".join(encode(refusal, keep_alive=False)))
            # Unread bytes would turn the close into a reset, which could overtake the response.
            sock.recv(_RECEIVE_BYTES)

    def _connection(self, sock: socket.socket, client: str) -> Connection:
        return Connection(
            sock,
            self._answer,
            client=client,
            on_turn=self._connections.changed,
            request_timeout=self._request_timeout,
            idle_timeout=self._idle_timeout,
            tls=self._tls,
            hand_over=self._hand_over,
        )

    def _serve(self, connection: Connection) -> None:
        try:
            with self._hand_over:
                connection.serve()
        except BaseException as error:  # noqa: BLE001 - the thread stays, and prints nothing
            self._report(error)
        finally:
            connection.close()
            self._reserve.refill()

    def _answer(self, request: Request, kept: Callable[[], bool]) -> tuple[bytes, bytes]:
        with_body = request.method != "HEAD"
        try:
            response = self._compressed(self._response(request), request)
            return encode(response, keep_alive=kept(), with_body=with_body)
        except Exception as error:  # noqa: BLE001 - the client gets 500, on_error the reason
            self._report(error)
            return encode(
                plain(HTTPStatus.INTERNAL_SERVER_ERROR), keep_alive=kept(), with_body=with_body
            )

    def _response(self, request: Request) -> Response:
        if self._local_only and not names_this_machine(request.headers.get("host")):
            return Response(HTTPStatus.MISDIRECTED_REQUEST, _MISDIRECTED)
        if self._access_control and (refusal := self._access_control.authorize(request)):
            return refusal
        route = self._routes.get(request.path.removesuffix("/") or "/")
        if route is None:
            return plain(HTTPStatus.NOT_FOUND)
        if request.method not in _METHODS:
            return plain(HTTPStatus.METHOD_NOT_ALLOWED, (("Allow", ", ".join(_METHODS)),))
        return route(request)

    def _compressed(self, response: Response, request: Request) -> Response:
        if len(response.body) < _GZIP_MIN_BYTES:
            return response
        headers = (*response.headers, ("Vary", "Accept-Encoding"))
        if not accepts_gzip(request.headers.get("accept-encoding")):
            return response._replace(headers=headers)
        return response._replace(
            body=self._gzip(response.body),
            headers=(*headers, ("Content-Encoding", "gzip")),
        )

    def _gzip(self, body: bytes) -> bytes:
        """Compress ``body``, once for all clients that get the same object."""
        with self._gzip_lock:
            if self._last_gzip[0] is not body:
                self._last_gzip = body, zlib.compress(body, _GZIP_LEVEL, wbits=_GZIP_WBITS)
            return self._last_gzip[1]

    def _report(self, error: BaseException) -> None:
        with suppress(Exception):
            self._on_error(_PROBE, error)
