"""The HTTP server: daemon threads that answer while the event loop is blocked, and that no client can hold for long."""

from __future__ import annotations

import errno
import os
import selectors
import socket
import threading
import time
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import replace
from functools import partial
from http import HTTPStatus
from typing import Any

from aiometrics.guard import Guard
from aiometrics.http_connection import Connection
from aiometrics.http_messages import Head, Request, Response, encode, plain
from aiometrics.negotiation import accepts_gzip

__all__ = ["MetricsServer", "Request", "Response", "Route"]

Route = Callable[[Request], Response]

_PROBE = "http"
_METHODS = ("GET", "HEAD")
_BACKLOG = 128
#: Pause after a failure to accept, which for want of file descriptors would otherwise repeat at once.
_ACCEPT_PAUSE_SECONDS = 1.0
#: How long the acceptor waits for a thread that has nothing left to do.
_LEAVE_SECONDS = 1.0
#: How long ``close`` waits, in all, for threads that are inside a route.
_JOIN_SECONDS = 2.0
#: Metrics compress twenty to one at level 1; level 6 takes three times as long for a tenth less.
_GZIP_LEVEL = 1
_GZIP_MIN_BYTES = 1024
_GZIP_WBITS = 31
_RECEIVE_BYTES = 16384

# Not epoll or kqueue: a forked child would share their state.
_Selector: type[selectors.BaseSelector] = getattr(selectors, "PollSelector", selectors.SelectSelector)


class MetricsServer:
    """Serves ``routes`` (path to function) over HTTP/1.1 on ``addr`` and ``port`` (0: any free one), a daemon thread per connection.

    The port is bound here and answered from :meth:`start` on. A request must arrive within ``request_timeout`` seconds in all, however
    its bytes are spread, and so must its answer be taken; between requests a connection may idle for ``idle_timeout`` seconds, which by
    default is longer than the usual scrape intervals. Beyond ``max_connections`` the client that has kept us waiting longest has to go
    for the next one; where none does, because all are being answered, a client gets 503 and no thread.

    ``guard`` says whether TLS is spoken, and sees every request first: a response that it returns is the answer. What it or a route
    raises goes to ``on_error`` with the probe's name ``"http"``, and the client gets 500.

    Raises ``OSError``, with the number that the system gave, if the address cannot be bound.
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
        guard: Guard | None = None,
    ) -> None:
        self._listener = _listen(addr, port)
        self._waker, self._wakened = socket.socketpair()
        self._address = self._listener.getsockname()
        self._routes = routes
        self._on_error = on_error
        self._request_timeout = request_timeout
        self._idle_timeout = idle_timeout
        self._max_connections = max_connections
        self._guard = guard
        self._tls = guard.tls if guard and guard.encrypted else None
        self._pid = os.getpid()
        self._closing = threading.Event()
        #: Changed by the acceptor alone.
        self._connections: dict[threading.Thread, Connection] = {}
        self._acceptor = threading.Thread(target=self._accept_until_closed, name="aiometrics-http", daemon=True)

    @property
    def port(self) -> int:
        """The port that is bound."""
        return int(self._address[1])

    @property
    def url(self) -> str:
        """The address as a browser on this machine takes it, without a path; a loopback one if every interface is bound."""
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(self._address[0], self._address[0])  # noqa: S104 - compared, not bound
        scheme = "https" if self._tls else "http"
        return f"{scheme}://{f'[{host}]' if ':' in host else host}:{self.port}"

    def start(self) -> None:
        """Begin to answer."""
        self._acceptor.start()

    def close(self) -> None:
        """Free the port, cut every connection and wait for the threads; one that is stuck inside a route is left behind.

        Idempotent. In a forked child, where the threads do not exist, it lets go of the inherited sockets; the parent serves on.
        """
        inherited = self._pid != os.getpid()
        if not inherited:
            self._stop_accepting()
        for sock in (self._listener, self._waker, self._wakened):
            sock.close()
        if not inherited:
            self._stop_connections()
            return
        for connection in self._connections.values():
            connection.forget()

    def _stop_accepting(self) -> None:
        self._closing.set()
        with suppress(OSError):  # closed before
            self._waker.send(b"\0")
        _join([self._acceptor])

    def _stop_connections(self) -> None:
        connections = self._connections.copy()
        for connection in connections.values():
            connection.cut()
        _join(connections)

    def _accept_until_closed(self) -> None:
        with _Selector() as selector:
            selector.register(self._listener, selectors.EVENT_READ)
            selector.register(self._wakened, selectors.EVENT_READ)
            while not self._closing.is_set():
                try:
                    selector.select()
                    self._accept()
                except Exception as error:  # noqa: BLE001 - whatever it is, it may neither end the server nor make it spin
                    if not self._closing.is_set():
                        self._report(error)
                        self._closing.wait(_ACCEPT_PAUSE_SECONDS)

    def _accept(self) -> None:
        try:
            sock, address = self._listener.accept()
        except (BlockingIOError, ConnectionAbortedError):  # the client has gone again
            return
        if not self._make_room():
            self._refuse(sock)
            return
        try:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        except OSError:  # as above
            sock.close()
            return
        self._spawn(sock, address[0])

    def _make_room(self) -> bool:
        """Whether one more connection may be served, which may be at the cost of another."""
        self._connections = {thread: connection for thread, connection in self._connections.items() if thread.is_alive()}
        if len(self._connections) < self._max_connections:
            return True
        leaving = self._leaving()
        if leaving is None:
            return False
        leaving.join(_LEAVE_SECONDS)
        return not leaving.is_alive()

    def _leaving(self) -> threading.Thread | None:
        """A thread whose connection is over, if need be that of the client that has kept us waiting longest."""
        for thread, connection in self._connections.items():
            if connection.over:
                return thread
        victim = _longest_waited_for(self._connections)
        if victim is not None:
            self._connections[victim].cut()
        return victim

    def _refuse(self, sock: socket.socket) -> None:
        with sock, suppress(OSError):
            sock.settimeout(0)
            if not self._tls:
                sock.send(encode(plain(HTTPStatus.SERVICE_UNAVAILABLE, (("Retry-After", "1"),)), keep_alive=False))
            sock.recv(_RECEIVE_BYTES)  # unread bytes would turn the close into a reset, which could overtake the answer

    def _spawn(self, sock: socket.socket, client: str) -> None:
        connection = Connection(
            sock,
            self._answer,
            client=client,
            request_timeout=self._request_timeout,
            idle_timeout=self._idle_timeout,
            tls=self._tls,
        )
        thread = threading.Thread(target=self._serve, args=(connection,), name="aiometrics-http-client", daemon=True)
        self._connections[thread] = connection
        try:
            thread.start()
        except RuntimeError:  # no thread to be had
            connection.close()
            raise

    def _serve(self, connection: Connection) -> None:
        try:
            connection.serve()
        except Exception as error:  # noqa: BLE001 - the interpreter would print it to the application's output
            self._report(error)
        finally:
            connection.close()

    def _answer(self, head: Head) -> bytes:
        request = head.request
        encoded = partial(encode, keep_alive=head.keep_alive, with_body=request.method != "HEAD")
        try:
            return encoded(_compressed(self._response(request), request))
        except Exception as error:  # noqa: BLE001 - the client learns that it failed, the caller why
            self._report(error)
            return encoded(plain(HTTPStatus.INTERNAL_SERVER_ERROR))

    def _response(self, request: Request) -> Response:
        if self._guard and (refusal := self._guard.authorize(request)):
            return refusal
        route = self._routes.get(request.path)
        if route is None:
            return plain(HTTPStatus.NOT_FOUND)
        if request.method not in _METHODS:
            return plain(HTTPStatus.METHOD_NOT_ALLOWED, (("Allow", ", ".join(_METHODS)),))
        return route(request)

    def _report(self, error: Exception) -> None:
        with suppress(Exception):
            self._on_error(_PROBE, error)


def _listen(addr: str, port: int) -> socket.socket:
    try:
        found = socket.getaddrinfo(addr, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, _, _, _, address = min(found, key=lambda candidate: candidate[0] != socket.AF_INET)
        return _bound(family, address)
    except OSError as error:
        raise type(error)(error.errno, f"cannot serve metrics on port {port} of {addr!r}: {error.strerror}{_advice(error)}") from None


def _advice(error: OSError) -> str:
    if error.errno == errno.EADDRINUSE:
        return ". Give another port, or port=0 for any free one; of several workers, each needs a port of its own"
    if error.errno == errno.EACCES:
        return ". Ports below 1024 need a privilege: give one from 1024 on, or port=0 for any free one"
    if error.errno == errno.EADDRNOTAVAIL or isinstance(error, socket.gaierror):
        return ". Give an address of this machine: '0.0.0.0' for all it has, '127.0.0.1' to be reached from this machine only"
    return ""


def _bound(family: int, address: tuple[Any, ...]) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        if os.name == "posix":  # elsewhere it would let two servers share the port
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(address)
        sock.listen(_BACKLOG)
        sock.settimeout(0)
    except BaseException:
        sock.close()
        raise
    return sock


def _longest_waited_for(connections: Mapping[threading.Thread, Connection]) -> threading.Thread | None:
    """Of the clients with most connections the one whose turn it has been for longest: one host alone drives out nobody else."""
    counts = Counter(connection.client for connection in connections.values())
    turns = {thread: (counts[each.client], -since) for thread, each in connections.items() if (since := each.client_since) is not None}
    return max(turns, key=turns.__getitem__, default=None)


def _compressed(response: Response, request: Request) -> Response:
    if len(response.body) < _GZIP_MIN_BYTES:
        return response
    headers = (*response.headers, ("Vary", "Accept-Encoding"))
    if not accepts_gzip(request.headers.get("accept-encoding")):
        return replace(response, headers=headers)
    body = zlib.compress(response.body, _GZIP_LEVEL, wbits=_GZIP_WBITS)
    return replace(response, body=body, headers=(*headers, ("Content-Encoding", "gzip")))


def _join(threads: Iterable[threading.Thread]) -> None:
    """Wait for ``threads``, within bounds, except for one that is asking or that never ran."""
    deadline = time.monotonic() + _JOIN_SECONDS
    for thread in threads:
        if thread is not threading.current_thread() and thread.is_alive():
            thread.join(max(0.0, deadline - time.monotonic()))
