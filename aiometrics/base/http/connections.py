"""Limits the number of connections, and chooses which one has to go for the next."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable

from aiometrics.base.http.connection import Connection

#: How long a client waits for room, and how often room is looked for without a reported change.
_ROOM_SECONDS, _LOOK_SECONDS = 1.0, 0.02
#: How long the acceptor waits for a thread whose connection was cut.
_LEAVE_SECONDS = 1.0
#: How long ``close_all`` waits, in all, for threads that are inside a route.
_JOIN_SECONDS = 2.0


class ConnectionLimit:
    """At most ``most`` connections, each in a daemon thread.

    One thread admits them; any thread may report changes and close them.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._connections: dict[threading.Thread, Connection] = {}
        self._changed = threading.Event()
        self._closed = False

    def changed(self) -> None:
        """Report that a client's turn began or a connection ended: there may be room."""
        self._changed.set()

    def find_room(self) -> bool:
        """Whether there is, or soon is, room for one more connection.

        If need be, the client that has kept the server waiting longest is disconnected.
        """
        deadline = time.monotonic() + _ROOM_SECONDS
        while not self._make_room():
            if self._closed or time.monotonic() >= deadline:
                return False
            self._changed.wait(_LOOK_SECONDS)
            self._changed.clear()
        return True

    def admit(self, connection: Connection, serve: Callable[[Connection], None]) -> None:
        """Run ``serve`` for a connection in a new thread.

        Raises ``RuntimeError`` if no thread can be started.
        """
        thread = threading.Thread(
            target=serve, args=(connection,), name="aiometrics-http-client", daemon=True
        )
        self._connections[thread] = connection
        try:
            thread.start()
        except RuntimeError:
            connection.close()
            raise

    def close_all(self) -> None:
        """Cut all connections and wait for the threads, but not for those stuck inside a route."""
        connections = self._connections.copy()
        for connection in connections.values():
            connection.cut()
        join(connections, _JOIN_SECONDS)

    def admit_no_more(self) -> None:
        """Make pending and future :meth:`find_room` calls return False."""
        self._closed = True
        self._changed.set()

    def _make_room(self) -> bool:
        self._connections = {
            thread: connection
            for thread, connection in self._connections.items()
            if thread.is_alive()
        }
        if len(self._connections) < self._most:
            return True
        thread = self._ended_thread() or self._evict()
        if thread is None:
            self._end_after_response()
            return False
        thread.join(_LEAVE_SECONDS)
        return not thread.is_alive()

    def _ended_thread(self) -> threading.Thread | None:
        return next(
            (thread for thread, connection in self._connections.items() if connection.ended), None
        )

    def _evict(self) -> threading.Thread | None:
        """Cut a connection and return its thread; ``None`` if every client is being answered.

        Of the clients with most connections it is the one that has kept the server waiting longest,
        so that one host alone cannot drive out others.
        """
        counts, waited = self._counts(), {}
        for thread, connection in self._connections.items():
            seconds = connection.waited_seconds()
            if seconds is not None:
                waited[thread] = counts[connection.client], seconds
        if not waited:
            return None
        thread = max(waited, key=waited.__getitem__)
        self._connections[thread].cut()
        return thread

    def _end_after_response(self) -> None:
        """Make the responses in progress the last ones of their connections.

        Otherwise clients that are always being answered could keep others out.
        """
        for connection in self._connections.values():
            connection.last_response = True

    def _counts(self) -> Counter[str]:
        """Return the number of connections by client."""
        return Counter(connection.client for connection in self._connections.values())


def join(threads: Iterable[threading.Thread], seconds: float) -> None:
    """Wait for ``threads``, ``seconds`` in all, but not for the current one or ones not started."""
    deadline = time.monotonic() + seconds
    for thread in threads:
        if thread is not threading.current_thread() and thread.is_alive():
            thread.join(max(0.0, deadline - time.monotonic()))
