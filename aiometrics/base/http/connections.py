"""Limits the number of connections, and chooses which one has to go for the next."""

from __future__ import annotations

from collections import Counter

from aiometrics.base.http.connection import Connection
from aiometrics.base.unpatched import Flag, monotonic

#: How long a client waits for room, and how often room is looked for without a reported change.
_ROOM_SECONDS, _LOOK_SECONDS = 1.0, 0.02
#: How long the next client waits for a connection that was cut.
_LEAVE_SECONDS = 1.0


class ConnectionLimit:
    """At most ``most`` connections.

    One thread at a time admits them; any thread may report changes and cut them.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._connections: list[Connection] = []
        self._changed = Flag()
        self._closed = False

    def changed(self) -> None:
        """Report that a client's turn began or a connection ended: there may be room."""
        self._changed.set()

    def find_room(self) -> bool:
        """Whether there is, or soon is, room for one more connection.

        If need be, the client that has kept the server waiting longest is disconnected.
        """
        deadline = monotonic() + _ROOM_SECONDS
        while not self._make_room():
            if self._closed or monotonic() >= deadline:
                return False
            self._changed.wait(_LOOK_SECONDS)
            self._changed.clear()
        return True

    def admit(self, connection: Connection) -> None:
        """Count a connection until it is closed."""
        self._connections.append(connection)

    def admit_no_more(self) -> None:
        """Make pending and future :meth:`find_room` calls return False."""
        self._closed = True
        self._changed.set()

    def cut_all(self) -> None:
        """Cut all connections."""
        for connection in self._connections:
            connection.cut()

    def _make_room(self) -> bool:
        self._connections = [found for found in self._connections if not found.closed.is_set()]
        if len(self._connections) < self._most:
            return True
        leaving = self._ended() or self._evict()
        if leaving is None:
            self._end_after_response()
            return False
        return leaving.closed.wait(_LEAVE_SECONDS)

    def _ended(self) -> Connection | None:
        return next((found for found in self._connections if found.ended), None)

    def _evict(self) -> Connection | None:
        """Cut a connection and return it; ``None`` if every client is being answered.

        Of the clients with most connections it is the one that has kept the server waiting longest,
        so that one host alone cannot drive out others.
        """
        counts, waited = self._counts(), {}
        for connection in self._connections:
            seconds = connection.waited_seconds()
            if seconds is not None:
                waited[connection] = counts[connection.client], seconds
        if not waited:
            return None
        longest = max(waited, key=waited.__getitem__)
        longest.cut()
        return longest

    def _end_after_response(self) -> None:
        """Make the responses in progress the last ones of their connections.

        Otherwise clients that are always being answered could keep others out.
        """
        for connection in self._connections:
            connection.last_response = True

    def _counts(self) -> Counter[str]:
        """Return the number of connections by client."""
        return Counter(connection.client for connection in self._connections)
