"""The connections that are served at a time: how many there may be, and who has to go for the next one."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable

from aiometrics.http.connection import Connection

#: How long a client waits for room, and how often it is looked for where nothing tells that there may be some.
_ROOM_SECONDS, _LOOK_SECONDS = 1.0, 0.02
#: How long the acceptor waits for a thread that has nothing left to do.
_LEAVE_SECONDS = 1.0
#: How long ``disperse`` waits, in all, for threads that are inside a route.
_JOIN_SECONDS = 2.0


class ConnectionLimit:
    """At most ``most`` connections, each in a daemon thread. One thread admits them, any may tell of changes and disperse them."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._connections: dict[threading.Thread, Connection] = {}
        self._changed = threading.Event()
        self._closed = False

    def changed(self) -> None:
        """It has become a client's turn, or a connection has ended: there may be room."""
        self._changed.set()

    def find_room(self) -> bool:
        """Whether there is room for one more, or soon is, if need be that of the client that has kept us waiting longest."""
        deadline = time.monotonic() + _ROOM_SECONDS
        while not self._make_room():
            if self._closed or time.monotonic() >= deadline:
                return False
            self._changed.wait(_LOOK_SECONDS)
            self._changed.clear()
        return True

    def admit(self, connection: Connection, serve: Callable[[Connection], None]) -> None:
        """Let a thread of its own ``serve`` it. Raises ``RuntimeError`` if there is no thread to be had."""
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
        """Cut all connections and wait for the threads; one that is stuck inside a route is left behind."""
        connections = self._connections.copy()
        for connection in connections.values():
            connection.cut()
        join(connections, _JOIN_SECONDS)

    def admit_no_more(self) -> None:
        """Whoever waits for room waits in vain."""
        self._closed = True
        self._changed.set()

    def forget(self) -> None:
        """Let go of the sockets in a forked child, where the threads are not."""
        for connection in self._connections.values():
            connection.forget()

    def _make_room(self) -> bool:
        self._connections = {
            thread: connection
            for thread, connection in self._connections.items()
            if thread.is_alive()
        }
        if len(self._connections) < self._most:
            return True
        thread = self._ending() or self._driven_out()
        if thread is None:
            self._ask_all_to_leave()
            return False
        thread.join(_LEAVE_SECONDS)
        return not thread.is_alive()

    def _ending(self) -> threading.Thread | None:
        return next(
            (thread for thread, connection in self._connections.items() if connection.over), None
        )

    def _driven_out(self) -> threading.Thread | None:
        """Of the clients with most connections the one that has kept us waiting longest: one host alone drives out nobody else."""
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

    def _ask_all_to_leave(self) -> None:
        """All are being answered, and get no more than that: they could ask on and on, ahead of others."""
        for connection in self._connections.values():
            connection.leaving = True

    def _counts(self) -> Counter[str]:
        """Connections by client."""
        return Counter(connection.client for connection in self._connections.values())


def join(threads: Iterable[threading.Thread], seconds: float) -> None:
    """Wait for ``threads``, so long in all, except for one that is asking or that never ran."""
    deadline = time.monotonic() + seconds
    for thread in threads:
        if thread is not threading.current_thread() and thread.is_alive():
            thread.join(max(0.0, deadline - time.monotonic()))
