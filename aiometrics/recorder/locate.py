"""Finds the record number of a coroutine, yield point or callback, and caches it.

It is the twin of ``csrc/locate.c``, and of the cache in ``csrc/callback.c``.
"""

from __future__ import annotations

from types import CodeType
from typing import Any

from aiometrics.pages.layout import CALLBACKS
from aiometrics.recorder.await_chain import awaited_by, code_of, frame_of, opaque
from aiometrics.recorder.callback import identity
from aiometrics.recorder.labels import Labels

#: Places of dead code would pile up, so a cache that has this many entries starts anew.
CACHE_ENTRIES = 16_384
#: Links of an await chain that are followed: more than the interpreter can nest, but few enough to
#: end a chain that leads back to itself.
MAX_DEPTH = 10_000


class Locator:
    """Asks the :class:`Labels` of a page for each record once and caches the answer."""

    def __init__(self, labels: Labels) -> None:
        self._labels = labels
        self._records: dict[CodeType, int] = {}
        self._origins: dict[CodeType, int] = {}
        self._points: dict[tuple[Any, ...], int] = {}
        self._request_waits: dict[tuple[int, int], int] = {}

    def coroutine(self, coro: Any) -> int:
        """Return the record of tasks with this root coroutine."""
        code = code_of(coro)
        if code is None:
            return self._labels.coroutine(coro)
        record = self._records.get(code)
        if record is None:
            record = self._labels.coroutine(coro)
            if not self._labels.transparent(coro):
                _remember(self._records, code, record)
        return record

    def yield_point(self, record: int, root: Any, yielded: Any) -> int:
        """Return the yield point of a suspended task.

        That is the innermost frame of the highest origin in the await chain, together with the
        first link below it that has a name.
        """
        owner, callee, highest = root, None, -1
        below = False
        link = root
        for _ in range(MAX_DEPTH):
            if link is None:
                break
            if below and not opaque(link):
                callee, below = link, False
            code = code_of(link)
            if code is not None:
                origin = self._origin_of(link, code)
                if origin >= highest:
                    owner, callee, highest, below = link, None, origin, True
            link = awaited_by(link)
        key = (record, *_instruction(owner), *_awaited(callee, yielded))
        point = self._points.get(key)
        if point is None:
            point = self._labels.yield_point(record, owner, callee, yielded)
            _remember(self._points, key, point)
        return point

    def callback(self, callback: Any) -> int:
        """Return the yield point that stands for a callback."""
        key = (CALLBACKS, *identity(callback))
        point = self._points.get(key)
        if point is None:
            point = self._labels.callback(callback)
            _remember(self._points, key, point)
        return point

    def request_wait(self, request: int, point: int) -> int:
        """Return the record where waits of a type of request at a yield point are added."""
        key = (request, point)
        record = self._request_waits.get(key)
        if record is None:
            record = self._labels.request_wait(request, point)
            _remember(self._request_waits, key, record)
        return record

    def _origin_of(self, link: Any, code: CodeType) -> int:
        origin = self._origins.get(code)
        if origin is None:
            origin = self._labels.origin(link)
            _remember(self._origins, code, origin)
        return origin


def _instruction(owner: Any) -> tuple[Any, int]:
    frame = frame_of(owner)
    return (type(owner), 0) if frame is None else (frame.f_code, frame.f_lasti)


def _awaited(callee: Any, yielded: Any) -> tuple[Any, ...]:
    """Return what makes two awaits of one instruction different yield points.

    That is the callee's code, or else its type, and the type of the future that the task yielded.
    """
    return (code_of(callee) or type(callee), type(yielded))


def _remember(cache: dict[Any, int], key: Any, value: int) -> None:
    if len(cache) >= CACHE_ENTRIES:
        cache.clear()
    cache[key] = value
