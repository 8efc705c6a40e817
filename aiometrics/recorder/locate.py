"""Finds the record number of a coroutine, yield point or callback, and caches it.

It is the twin of ``csrc/locate.c``, and of the cache in ``csrc/callback.c``.
"""

from __future__ import annotations

from types import CodeType
from typing import Any

from aiometrics.pages.layout import CALLBACKS
from aiometrics.recorder.await_chain import code_of, frame_of, links, opaque
from aiometrics.recorder.callback import identity
from aiometrics.recorder.labels import Labels
from aiometrics.recorder.table import Table


class Locator:
    """Asks the :class:`Labels` of a page for each record once and caches the answer."""

    def __init__(self, labels: Labels) -> None:
        self._labels = labels
        self._records = Table()
        self._origins = Table()
        self._points = Table()
        self._chain_nodes = Table()
        self._request_waits = Table()

    def coroutine(self, coro: Any) -> int:
        """Return the record of tasks with this root coroutine."""
        code = code_of(coro)
        if code is None:
            return self._labels.coroutine(coro)
        record = self._records.get(code)
        if record is None:
            record = self._labels.coroutine(coro)
            if not self._labels.transparent(coro):
                self._records.put(record, code)
        return record

    def suspension(self, record: int, root: Any, yielded: Any) -> tuple[int, int]:
        """Return the yield point of a suspended task, and the node of its await chain."""
        chain = list(links(root))
        point = self._yield_point(record, chain, yielded)
        return point, self._chain_node(record, point, chain, yielded)

    def _yield_point(self, record: int, chain: list[Any], yielded: Any) -> int:
        """Return the innermost frame of the highest origin in the await chain.

        The first link below it that has a name belongs to it.
        """
        owner, callee, highest = chain[0], None, -1
        below = False
        for link in chain:
            if below and not opaque(link):
                callee, below = link, False
            code = code_of(link)
            if code is not None:
                origin = self._origin_of(link, code)
                if origin >= highest:
                    owner, callee, highest, below = link, None, origin, True
        code, lasti = _instruction(owner)
        objects, word = (code, *_awaited(callee, yielded)), (record, lasti)
        point = self._points.get(*objects, word=word)
        if point is None:
            point = self._labels.yield_point(record, owner, callee, yielded)
            self._points.put(point, *objects, word=word)
        return point

    def _chain_node(self, record: int, point: int, chain: list[Any], yielded: Any) -> int:
        places = [_instruction(link) for link in chain]
        objects = (*(code for code, _ in places), type(yielded))
        word = (record, *(lasti for _, lasti in places))
        node = self._chain_nodes.get(*objects, word=word)
        if node is None:
            node = self._labels.chain_node(point, chain[0])
            self._chain_nodes.put(node, *objects, word=word)
        return node

    def callback(self, callback: Any) -> int:
        """Return the yield point that stands for a callback."""
        function, protocol, name = identity(callback)
        word = (CALLBACKS, name)
        point = self._points.get(function, protocol, word=word)
        if point is None:
            point = self._labels.callback(callback)
            self._points.put(point, function, protocol, word=word)
        return point

    def request_wait(self, request: int, point: int) -> int:
        """Return the record where waits of a type of request at a yield point are added."""
        word = (request, point)
        record = self._request_waits.get(word=word)
        if record is None:
            record = self._labels.request_wait(request, point)
            self._request_waits.put(record, word=word)
        return record

    def _origin_of(self, link: Any, code: CodeType) -> int:
        origin = self._origins.get(code)
        if origin is None:
            origin = self._labels.origin(link)
            self._origins.put(origin, code)
        return origin


def _instruction(link: Any) -> tuple[Any, int]:
    """Return the code of a link and the instruction that it is at, or else its type."""
    frame = frame_of(link)
    return (code_of(link) or type(link), 0) if frame is None else (frame.f_code, frame.f_lasti)


def _awaited(callee: Any, yielded: Any) -> tuple[Any, ...]:
    """Return what makes two awaits of one instruction different yield points.

    That is the callee's code, or else its type, and the type of the future that the task yielded.
    """
    return (code_of(callee) or type(callee), type(yielded))
