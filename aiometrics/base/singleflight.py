"""What is expensive to make is made for everybody who asked before it was begun."""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable
from concurrent.futures import Future
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
T = TypeVar("T")


class SingleFlight(Generic[K, T]):
    """``make(key)`` for any number of threads, one at a time. However many ask at once, each gets what was begun after it asked.

    What ``make`` raises is raised to all who waited for it.
    """

    def __init__(self, make: Callable[[K], T]) -> None:
        self._make = make
        self._making = threading.Lock()
        self._lock = threading.Lock()
        #: What has not been begun yet: whoever asks may still join.
        self._next: dict[K, Future[T]] = {}

    def __call__(self, key: K) -> T:
        """What is made of ``key``."""
        with self._lock:
            joined = self._next.get(key)
            mine = self._next.setdefault(key, Future())
        if joined is None:
            self._fulfil(key, mine)
        return mine.result()

    def _fulfil(self, key: K, promise: Future[T]) -> None:
        with self._making:
            with self._lock:
                del self._next[key]
            try:
                promise.set_result(self._make(key))
            except BaseException as error:  # noqa: BLE001 - whatever it is, somebody may be waiting for it
                promise.set_exception(error)
