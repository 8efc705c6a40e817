"""Descriptors that are held for clients."""

from __future__ import annotations

import socket
import threading
from contextlib import suppress

from aiometrics.base import fork, unpatched


class Reserve:
    """Holds ``size`` descriptors, each of which can be exchanged for the one of a client.

    So clients are served when the program has no descriptor left, which is when it is looked at,
    and a program that counts its descriptors sees no scrape.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._held: list[socket.socket] = []
        self._lock = threading.Lock()
        fork.forget_in_child(self, fork.Stage.LOCKS, Reserve._forget)
        for _ in range(size):
            self.refill()

    def lend(self) -> None:
        """Free one descriptor, if one is held."""
        with self._lock:
            if self._held:
                self._held.pop().close()

    def refill(self) -> None:
        """Hold one more descriptor in place of a client's, unless there are enough or none free."""
        with suppress(OSError), self._lock:
            if len(self._held) < self._size:
                self._held.append(_descriptor())

    def close(self) -> None:
        """Free all descriptors and hold no more."""
        with self._lock:
            self._size = 0
            while self._held:
                self._held.pop().close()

    def _forget(self) -> None:
        """Hold nothing in a forked child, where the lock may be held for ever."""
        self._lock = threading.Lock()
        self._held = []
        self._size = 0


def _descriptor() -> socket.socket:
    with fork.creation_lock:
        held = unpatched.socket_class()()
        fork.forget_in_child(held, fork.Stage.DESCRIPTORS, fork.close)
    return held
