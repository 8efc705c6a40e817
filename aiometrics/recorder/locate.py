"""From what the recorder meets, code and places, to record numbers of its page: the twin of ``csrc/locate.c`` and ``csrc/callback.c``."""

from __future__ import annotations

from types import CodeType
from typing import Any

from aiometrics.pages.layout import CALLBACKS
from aiometrics.recorder.await_chain import awaited_by, code_of, frame_of, opaque
from aiometrics.recorder.callback import identity
from aiometrics.recorder.labels import Labels

#: Places of dead code would pile up in the caches; past this many they start anew.
CACHE_ENTRIES = 16_384
#: Links of an await chain that are followed: more than the interpreter can nest, but an end to what leads back to itself.
MAX_DEPTH = 10_000


class Locator:
    """Asks the labels once for each thing, and remembers the answer."""

    def __init__(self, labels: Labels) -> None:
        self._labels = labels
        self._records: dict[CodeType, int] = {}
        self._origins: dict[CodeType, int] = {}
        self._points: dict[tuple[Any, ...], int] = {}
        self._request_waits: dict[tuple[int, int], int] = {}

    def coroutine(self, coro: Any) -> int:
        """The record of tasks with this root coroutine."""
        code = code_of(coro)
        if code is None:
            return self._labels.coroutine(coro)
        record = self._records.get(code)
        if record is None:
            record = self._labels.coroutine(coro)
            if not self._labels.transparent(coro):
                _keep(self._records, code, record)
        return record

    def yield_point(self, record: int, root: Any, yielded: Any) -> int:
        """The yield point: the innermost frame of the highest origin in the await chain, and the first thing with a name below it."""
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
        key = (record, *_position(owner), *_identity(callee, yielded))
        point = self._points.get(key)
        if point is None:
            point = self._labels.yield_point(record, owner, callee, yielded)
            _keep(self._points, key, point)
        return point

    def callback(self, callback: Any) -> int:
        """The yield point that stands for a callback."""
        key = (CALLBACKS, *identity(callback))
        point = self._points.get(key)
        if point is None:
            point = self._labels.callback(callback)
            _keep(self._points, key, point)
        return point

    def request_wait(self, request: int, point: int) -> int:
        """Where waits of requests at a yield point are added."""
        key = (request, point)
        record = self._request_waits.get(key)
        if record is None:
            record = self._labels.request_wait(request, point)
            _keep(self._request_waits, key, record)
        return record

    def _origin_of(self, link: Any, code: CodeType) -> int:
        origin = self._origins.get(code)
        if origin is None:
            origin = self._labels.origin(link)
            _keep(self._origins, code, origin)
        return origin


def _position(owner: Any) -> tuple[Any, int]:
    frame = frame_of(owner)
    return (type(owner), 0) if frame is None else (frame.f_code, frame.f_lasti)


def _identity(callee: Any, yielded: Any) -> tuple[Any, ...]:
    """What makes two awaits of one instruction different yield points: the callee's code, or its type and that of the future."""
    return (code_of(callee) or type(callee), type(yielded))


def _keep(cache: dict[Any, int], key: Any, value: int) -> None:
    if len(cache) >= CACHE_ENTRIES:
        cache.clear()
    cache[key] = value
