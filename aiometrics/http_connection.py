"""One client's connection: requests in, answers out, each within its deadline, on a blocking socket and the caller's thread."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from contextlib import suppress
from http import HTTPStatus
from typing import TYPE_CHECKING, cast

from aiometrics.http_messages import HEAD_END, Head, RequestError, check_start, encode, parse_head, plain

if TYPE_CHECKING:
    import ssl

_RECEIVE_BYTES = 16384
#: What is read and thrown away after an error, so that the client gets to see it: a reset could overtake the answer.
_LINGER_BYTES = 1 << 18


class _Deadline:
    """A moment by which several socket operations must be over together."""

    def __init__(self, seconds: float) -> None:
        self._at = time.monotonic() + seconds

    def limit(self, sock: socket.socket) -> None:
        """Leave to the next operation on ``sock`` the time that remains.

        Raises ``TimeoutError`` if none does.
        """
        remaining = self._at - time.monotonic()
        if remaining <= 0:
            raise TimeoutError
        sock.settimeout(remaining)


class Connection:
    """Serves one client on ``sock``, which stays the caller's to close; ``answer`` turns a request into the bytes of a response.

    A request must arrive within ``request_timeout`` seconds in all, the TLS handshake before the first one included, and so must its
    answer be taken. Between requests the connection may idle for ``idle_timeout`` seconds.
    """

    def __init__(
        self,
        sock: socket.socket,
        answer: Callable[[Head], bytes],
        *,
        request_timeout: float,
        idle_timeout: float,
        tls: bool,
    ) -> None:
        self._sock = sock
        self._answer = answer
        self._request_timeout = request_timeout
        self._idle_timeout = idle_timeout
        self._tls = tls
        self._buffer = bytearray()

    def serve(self) -> None:
        """Answer requests until either side has had enough. What ``answer`` raises comes through; what the network does, does not."""
        deadline = _Deadline(self._request_timeout)
        with suppress(OSError):
            if self._tls:
                deadline.limit(self._sock)
                cast("ssl.SSLSocket", self._sock).do_handshake()
            while self._exchange(deadline):
                if not self._buffer:
                    self._receive(_Deadline(self._idle_timeout))
                deadline = _Deadline(self._request_timeout)

    def _exchange(self, deadline: _Deadline) -> bool:
        """Answer one request; whether another may follow."""
        try:
            head = self._receive_request(deadline)
        except RequestError as error:
            self._send(encode(plain(error.status), keep_alive=False))
            self._linger(deadline)
            return False
        except TimeoutError:
            if self._buffer:
                self._send(encode(plain(HTTPStatus.REQUEST_TIMEOUT), keep_alive=False))
            return False
        self._send(self._answer(head))
        return head.keep_alive

    def _receive_request(self, deadline: _Deadline) -> Head:
        """The next request, the body read and dropped, what follows it left in the buffer."""
        while (end := self._buffer.find(HEAD_END)) < 0:
            check_start(self._buffer)
            self._receive(deadline)
        end += len(HEAD_END)
        head = parse_head(self._buffer[:end])
        size = end + head.body_length
        while len(self._buffer) < size:
            self._receive(deadline)
        del self._buffer[:size]
        return head

    def _receive(self, deadline: _Deadline) -> None:
        deadline.limit(self._sock)
        data = self._sock.recv(_RECEIVE_BYTES)
        if not data:
            raise ConnectionAbortedError
        self._buffer += data

    def _send(self, data: bytes) -> None:
        deadline = _Deadline(self._request_timeout)
        rest = memoryview(data)
        while rest:
            deadline.limit(self._sock)
            rest = rest[self._sock.send(rest) :]

    def _linger(self, deadline: _Deadline) -> None:
        """End our side, then let the client end its own."""
        socket.socket.shutdown(self._sock, socket.SHUT_WR)  # an SSLSocket's own would drop to plain text
        self._buffer.clear()
        while len(self._buffer) < _LINGER_BYTES:
            self._receive(deadline)
