"""One client's connection: requests and responses within deadlines.

It blocks on its socket and runs on its caller's thread.
"""

from __future__ import annotations

import socket
import ssl
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from http import HTTPStatus
from typing import TYPE_CHECKING, TypeVar

from aiometrics.base import fork
from aiometrics.base.handover import HandOver
from aiometrics.base.http.messages import (
    HEAD_END,
    Head,
    Request,
    RequestError,
    check_start,
    encode,
    parse_head,
    plain,
)
from aiometrics.base.unpatched import Flag, lock, monotonic, sleep

if TYPE_CHECKING:
    from aiometrics.base.http.tls import Tls

T = TypeVar("T")

_RECEIVE_BYTES = 16384
#: Bytes that are read and dropped after an error, so that the client sees the response: a reset
#: could overtake it.
_LINGER_BYTES = 1 << 18
#: How long they are read for if the request has timed out already.
_LINGER_SECONDS = 1.0
#: The minimum time between two responses on a connection. Scrapes take longer.
_PACE_SECONDS = 0.005
#: Grace periods in which a client does not count as keeping the server waiting: for its first
#: request, with TLS or without, and for receiving a response.
_SHAKING_SECONDS, _ASKING_SECONDS, _TAKING_SECONDS = 0.05, 0.02, 0.1


class _Deadline:
    """A moment by which several socket operations must be ended together."""

    def __init__(self, seconds: float) -> None:
        self._at = monotonic() + seconds

    def remaining(self) -> float:
        """Return the seconds that remain. Raises ``TimeoutError`` if none do."""
        remaining = self._at - monotonic()
        if remaining <= 0:
            raise TimeoutError
        return remaining


class Connection:
    """Serves one client on ``sock``, which does not block.

    ``answer`` turns a request into the parts of a response, and asks at the end whether the
    connection is kept. ``tls`` says how to encrypt, if at all. ``on_turn`` is called when the
    client's turn begins, and at the end.

    A request must arrive within ``request_timeout`` seconds in all, including the TLS handshake
    before the first one, and its response must be received within as many. Between requests the
    connection may idle for ``idle_timeout`` seconds.
    """

    def __init__(
        self,
        sock: socket.socket,
        answer: Callable[[Request, Callable[[], bool]], tuple[bytes, ...]],
        *,
        client: str,
        on_turn: Callable[[], object],
        request_timeout: float,
        idle_timeout: float,
        tls: Callable[[], Tls] | None,
        hand_over: HandOver,
    ) -> None:
        #: The client's address, without its port.
        self.client = client
        #: Set from outside: the response in progress is the last one.
        self.last_response = False
        #: When the client's turn began, to send or to receive, and its grace period in seconds;
        #: ``None`` if it is our turn.
        self._turn: tuple[float, float] | None = (
            monotonic(),
            _SHAKING_SECONDS if tls else _ASKING_SECONDS,
        )
        #: Whether :meth:`close` or :meth:`cut` was called.
        self.ended = False
        #: Set when the socket is closed.
        self.closed = Flag()
        self._sock = sock
        self._answer = answer
        self._request_timeout = request_timeout
        self._idle_timeout = idle_timeout
        self._on_turn = on_turn
        self._tls = tls
        self._hand_over = hand_over
        self._buffer = bytearray()
        #: The last request as it came and as it was read: scrapers send the same one again.
        self._known: tuple[bytes, Head] | None = None
        self._next_at = 0.0
        #: Held while the socket is closed, cut or replaced: its descriptor may then be reused.
        self._changing = lock()
        fork.forget_in_child(self, fork.Stage.DESCRIPTORS, Connection._close_inherited)

    def serve(self) -> None:
        """Answer requests until either side ends the connection.

        Exceptions of ``answer`` propagate; network errors do not.
        """
        deadline = _Deadline(self._request_timeout)
        with suppress(OSError):
            if self._tls:
                self._begin_tls(self._tls(), deadline)
            while self._exchange(deadline):
                if not self._buffer:
                    self._receive(_Deadline(self._idle_timeout))
                deadline = _Deadline(self._request_timeout)

    def waited_seconds(self) -> float | None:
        """Return how long the client has kept the server waiting; ``None`` if it has not."""
        if self._turn is None:
            return None
        since, free = self._turn
        waited = monotonic() - since
        return waited if waited >= free else None

    def cut(self) -> None:
        """From any thread: make network operations of :meth:`serve` fail, so that it ends."""
        self.ended = True
        with self._changing, suppress(OSError):  # the client may have closed first
            _shutdown(self._sock, socket.SHUT_RDWR)

    def close(self) -> None:
        """Close the socket."""
        self.ended = True
        with self._changing:
            self._sock.close()
        self.closed.set()
        self._on_turn()

    def _close_inherited(self) -> None:
        """Close the socket in a forked child, where no thread would ever release the lock."""
        self._sock.close()

    def _begin_tls(self, tls: Tls, deadline: _Deadline) -> None:
        with self._changing:
            self._sock = encrypted = tls.wrap(self._sock)
        self._encrypted(partial(tls.shake_hands, encrypted), deadline)

    def _exchange(self, deadline: _Deadline) -> bool:
        """Answer one request; return whether another may follow."""
        try:
            head = self._receive_request(deadline)
        except RequestError as error:
            self._send(encode(plain(error.status), keep_alive=False))
            self._linger(deadline)
            return False
        except TimeoutError:
            if self._buffer:
                self._send(encode(plain(HTTPStatus.REQUEST_TIMEOUT), keep_alive=False))
                self._linger(_Deadline(_LINGER_SECONDS))
            return False
        self._keep_pace()
        self._turn = None
        response = self._answer(head.request, lambda: head.keep_alive and not self.last_response)
        self._turn = monotonic(), _TAKING_SECONDS
        self._on_turn()
        self._send(response)
        self._turn = self._turn[0], 0.0
        return head.keep_alive and not self.last_response

    def _keep_pace(self) -> None:
        """Pause before the response, so that endless requests do not slow down the loop."""
        early = self._next_at - monotonic()
        if early > 0:
            sleep(early)
        self._next_at = monotonic() + _PACE_SECONDS

    def _receive_request(self, deadline: _Deadline) -> Head:
        """Return the next request; its body is dropped, and what follows it stays in the buffer."""
        while (end := self._buffer.find(HEAD_END)) < 0:
            check_start(self._buffer)
            self._receive(deadline)
        end += len(HEAD_END)
        head = self._read_head(bytes(self._buffer[:end]))
        size = end + head.body_length
        while len(self._buffer) < size:
            self._receive(deadline)
        del self._buffer[:size]
        return head

    def _read_head(self, received: bytes) -> Head:
        if self._known is None or self._known[0] != received:
            self._known = received, parse_head(received)
        return self._known[1]

    def _receive(self, deadline: _Deadline) -> None:
        if isinstance(self._sock, ssl.SSLSocket):
            data = self._encrypted(partial(self._sock.recv, _RECEIVE_BYTES), deadline)
        else:
            data = self._hand_over.receive(self._sock, _RECEIVE_BYTES, deadline.remaining())
        if not data:
            raise ConnectionAbortedError
        self._buffer += data

    def _send(self, parts: tuple[bytes, ...]) -> None:
        if not isinstance(self._sock, ssl.SSLSocket):
            self._hand_over.send(self._sock, parts, self._request_timeout)
            return
        deadline = _Deadline(self._request_timeout)
        for part in filter(None, parts):
            rest = memoryview(part)
            while rest:
                rest = rest[self._encrypted(partial(_send_some, self._sock, rest), deadline) :]

    def _encrypted(self, operation: Callable[[], T], deadline: _Deadline) -> T:
        """Do what TLS may need several reads and writes for."""
        while True:
            remaining = deadline.remaining()
            try:
                return operation()
            except ssl.SSLWantReadError:
                write = False
            except ssl.SSLWantWriteError:
                write = True
            if not self._hand_over.wait((self._sock.fileno(),), remaining, write=write):
                raise TimeoutError

    def _linger(self, deadline: _Deadline) -> None:
        """End our side, then wait until the client ends its own."""
        _shutdown(self._sock, socket.SHUT_WR)
        self._buffer.clear()
        while len(self._buffer) < _LINGER_BYTES:
            self._receive(deadline)


def _send_some(sock: ssl.SSLSocket, data: memoryview) -> int:
    """Send what TLS takes at once, and return the number of bytes; with gevent, that may be 0."""
    count = sock.send(data)
    if not count:
        raise ssl.SSLWantWriteError
    return count


def _shutdown(sock: socket.socket, how: int) -> None:
    """Shut a socket down. The method of an ``SSLSocket`` would switch to plain text."""
    if isinstance(sock, ssl.SSLSocket):
        socket.socket.shutdown(sock, how)
    else:
        sock.shutdown(how)
