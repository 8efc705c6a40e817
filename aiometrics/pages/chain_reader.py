"""Decodes the tree of awaits in a copy of a page, of which nothing is trusted."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

from aiometrics.base.yielding import Pause, in_slices
from aiometrics.pages.header import PageError
from aiometrics.pages.layout import (
    CHAIN_NODE,
    MAX_CHAIN_FRAMES,
    NO_NODE,
    NO_POINT,
    OTHER_NODE,
    OWN_CHAIN_NODES,
    Layout,
)
from aiometrics.pages.snapshot import (
    CALLBACK,
    EAGER_CHILD,
    OTHER,
    RAISE,
    RETURN,
    Chain,
    YieldPoint,
)

_PSEUDO = (RETURN, RAISE, EAGER_CHILD)


class ChainReader:
    """The chains of a page, given its yield points, and the texts that its words refer to.

    ``weight`` is the number of tasks for which each one counts.
    """

    def __init__(
        self,
        words: memoryview[int],
        layout: Layout,
        points: Sequence[YieldPoint],
        text: Callable[[int], str],
        weight: int,
    ) -> None:
        self._words = words
        self._layout = layout
        self._points = points
        self._text = text
        self._weight = weight

    def chains(self, used: int, pause: Pause) -> Iterator[Chain]:
        """Yield the chains of a page with so many nodes; those that never ended are left out."""
        yield from self._of_nodes(in_slices(range(OWN_CHAIN_NODES, used), pause))
        yield from map(_without_frames, filter(self._is_without_nodes, enumerate(self._points)))
        _, _, _, active_ns, wait_ns, waits = self._node(OTHER_NODE)
        if active_ns or waits:
            yield self._chain((OTHER, (), OTHER, OTHER), waits, wait_ns, active_ns)

    def _of_nodes(self, numbers: Iterable[int]) -> Iterator[Chain]:
        paths: dict[int, tuple[str, ...]] = {NO_NODE: ()}
        for number in numbers:
            parent, place, point, active_ns, wait_ns, waits = self._node(number)
            if parent not in paths or len(paths[parent]) > MAX_CHAIN_FRAMES:
                raise PageError(f"chain node {number} cannot be below node {parent}")
            frames = (*paths[parent], self._text(place))
            if point == NO_POINT:
                paths[number] = frames
                continue
            if not 0 <= point < len(self._points):
                raise PageError(
                    f"chain node {number} belongs to yield point {point}, "
                    f"but there are {len(self._points)}"
                )
            if active_ns or waits:
                end = self._points[point]
                labels = (end.coroutine, frames, end.yield_point, end.awaits)
                yield self._chain(labels, waits, wait_ns, active_ns)

    def _node(self, number: int) -> list[int]:
        start = self._layout.chain_node(number)
        return self._words[start : start + len(CHAIN_NODE)].tolist()

    def _chain(
        self,
        labels: tuple[str, tuple[str, ...], str, str],
        waits: int,
        wait_ns: int,
        active_ns: int,
    ) -> Chain:
        weight = self._weight
        return Chain(*labels, waits * weight, wait_ns * weight, active_ns * weight)

    @staticmethod
    def _is_without_nodes(numbered: tuple[int, YieldPoint]) -> bool:
        """Return whether a yield point was reached, by no chain that is recorded."""
        number, point = numbered
        pseudo = not number or point.coroutine == CALLBACK or point.yield_point in _PSEUDO
        return pseudo and bool(point.segments.count or point.waits.count)


def _without_frames(numbered: tuple[int, YieldPoint]) -> Chain:
    _, point = numbered
    return Chain(
        *(point.coroutine, (), point.yield_point, point.awaits),
        *(point.waits.count, point.waits.sum_ns, point.segments.sum_ns),
    )
