"""Coalesces concurrent calls of an expensive function.

One call serves all callers that asked before it began.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from concurrent.futures import Future
from typing import Generic, TypeVar

from aiometrics.base.unpatched import lock

K = TypeVar("K", bound=Hashable)
T = TypeVar("T")


class SingleFlight(Generic[K, T]):
    """Calls ``make(key)`` for any number of threads, one call at a time.

    Each caller gets a result whose call began after it asked. An exception that ``make`` raises is
    raised in all callers that waited for that call.
    """

    def __init__(self, make: Callable[[K], T]) -> None:
        self._make = make
        self._making = lock()
        self._lock = lock()
        #: Results whose calls have not begun yet, so that further callers may still join.
        self._next: dict[K, Future[T]] = {}

    def __call__(self, key: K) -> T:
        """Return the result of ``make(key)``."""
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
            except BaseException as error:  # noqa: BLE001 - other threads may wait for it
                promise.set_exception(error)
