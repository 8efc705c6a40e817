"""One client's connection: requests in, answers out, each within its deadline, on a blocking socket and the caller's thread."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from http import HTTPStatus

from aiometrics.http.messages import (
    HEAD_END,
    Head,
    Request,
    RequestError,
    check_start,
    encode,
    parse_head,
    plain,
)
from aiometrics.http.tls import Tls

_RECEIVE_BYTES = 16384
#: What is read and thrown away after an error, so that the client gets to see it: a reset could overtake the answer.
_LINGER_BYTES = 1 << 18
#: For so long, where the time for its request is over already.
_LINGER_SECONDS = 1.0
#: From one answer on a connection to the next at least. Scrapes take longer.
_PACE_SECONDS = 0.005
#: What is not yet keeping us waiting: so long a client may take to ask for the first time, with TLS or without, and to take an answer.
_SHAKING_SECONDS, _ASKING_SECONDS, _TAKING_SECONDS = 0.05, 0.02, 0.1


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
    """Serves one client on ``sock``.

    ``answer`` turns a request into the bytes of a response, and asks in the end whether the connection is kept. ``tls`` says how to
    encrypt, if at all. ``on_turn`` is called when the client's turn begins, and at the end.

    A request must arrive within ``request_timeout`` seconds in all, the TLS handshake before the first one included, and so must its
    answer be taken. Between requests the connection may idle for ``idle_timeout`` seconds.
    """

    def __init__(
        self,
        sock: socket.socket,
        answer: Callable[[Request, Callable[[], bool]], bytes],
        *,
        client: str,
        on_turn: Callable[[], object],
        request_timeout: float,
        idle_timeout: float,
        tls: Callable[[], Tls] | None,
    ) -> None:
        #: The client's address, without its port.
        self.client = client
        #: Set from outside: the answer in the making is the last one.
        self.leaving = False
        #: Since when it is the client's turn, to ask or to take an answer, and how much of that it has for free; ``None`` if it is ours.
        self._turn: tuple[float, float] | None = (
            time.monotonic(),
            _SHAKING_SECONDS if tls else _ASKING_SECONDS,
        )
        #: Whether it has ended or is about to, since :meth:`close` or :meth:`cut` was called.
        self.over = False
        self._sock = sock
        self._answer = answer
        self._request_timeout = request_timeout
        self._idle_timeout = idle_timeout
        self._on_turn = on_turn
        self._tls = tls
        self._buffer = bytearray()
        self._next_at = 0.0
        #: Held by who closes, cuts or exchanges the socket: nobody may touch a descriptor that is another's by then.
        self._changing = threading.Lock()

    def serve(self) -> None:
        """Answer requests until either side has had enough. What ``answer`` raises comes through; what the network does, does not."""
        deadline = _Deadline(self._request_timeout)
        with suppress(OSError):
            if self._tls:
                self._begin_tls(self._tls(), deadline)
            while self._exchange(deadline):
                if not self._buffer:
                    self._receive(_Deadline(self._idle_timeout))
                deadline = _Deadline(self._request_timeout)

    def waited_seconds(self) -> float | None:
        """How long the client has kept us waiting, ``None`` if it has not."""
        if self._turn is None:
            return None
        since, free = self._turn
        waited = time.monotonic() - since
        return waited if waited >= free else None

    def cut(self) -> None:
        """From any thread: whatever :meth:`serve` waits for on the network fails, and it returns."""
        self.over = True
        with self._changing, suppress(OSError):  # the client was faster
            socket.socket.shutdown(
                self._sock, socket.SHUT_RDWR
            )  # an SSLSocket's own would drop to plain text

    def close(self) -> None:
        """Let go of the socket."""
        self.over = True
        with self._changing:
            self._sock.close()
        self._on_turn()

    def forget(self) -> None:
        """As :meth:`close`, in a forked child, where whoever held the lock is not."""
        self._sock.close()

    def _begin_tls(self, tls: Tls, deadline: _Deadline) -> None:
        with self._changing:
            self._sock = encrypted = tls.wrap(self._sock)
        deadline.limit(encrypted)
        tls.shake_hands(encrypted)

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
                self._linger(_Deadline(_LINGER_SECONDS))
            return False
        self._keep_pace()
        self._turn = None
        answer = self._answer(head.request, lambda: head.keep_alive and not self.leaving)
        self._turn = time.monotonic(), _TAKING_SECONDS
        self._on_turn()
        self._send(answer)
        self._turn = self._turn[0], 0.0
        return head.keep_alive and not self.leaving

    def _keep_pace(self) -> None:
        """Who asks without end gets answers that the loop beside us does not notice."""
        time.sleep(max(0.0, self._next_at - time.monotonic()))
        self._next_at = time.monotonic() + _PACE_SECONDS

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
        socket.socket.shutdown(
            self._sock, socket.SHUT_WR
        )  # an SSLSocket's own would drop to plain text
        self._buffer.clear()
        while len(self._buffer) < _LINGER_BYTES:
            self._receive(deadline)
