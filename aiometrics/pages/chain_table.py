"""The tree of awaits in a page: nodes by parent and place, which are only ever added."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from aiometrics.pages.layout import (
    CHAIN_NODE,
    HEADER,
    NO_NODE,
    NO_POINT,
    OTHER_NODE,
    OTHER_POINT_NODE,
    OWN_CHAIN_NODES,
)
from aiometrics.pages.page import Page

_Key = tuple[int, int, int]


class ChainTable:
    """The chain nodes of a page. Those that it already has are continued."""

    def __init__(self, page: Page) -> None:
        self._page = page
        self._numbers = {key: number for number, key in self._written()}

    @property
    def full(self) -> bool:
        """Whether a chain found no room. From then on, new ones are not looked at."""
        return bool(self._page.words[HEADER["chains_full"]])

    def node(self, places: Sequence[str], point: int) -> int:
        """Return the node where a chain ends at a yield point; its places come outermost first."""
        if not point:
            return OTHER_POINT_NODE
        *outer, innermost = places
        parent = NO_NODE
        for place in outer:
            parent = self._number(parent, place, NO_POINT)
            if not parent:
                return OTHER_NODE
        return self._number(parent, innermost, point) or OTHER_NODE

    def _number(self, parent: int, place: str, point: int) -> int:
        """Return a node, which is added if there is room; else 0."""
        ref = self._page.chain_string(place)
        number = self._numbers.get((parent, ref, point), 0) if ref else 0
        return number or self._add((parent, ref, point))

    def _add(self, key: _Key) -> int:
        words, layout = self._page.words, self._page.layout
        number = words[HEADER["chain_nodes"]]
        if not key[1] or number >= layout.max_chain_nodes + OWN_CHAIN_NODES:
            words[HEADER["chains_full"]] = 1
            return 0
        start = layout.chain_node(number)
        for field, value in zip(("parent", "place", "point"), key, strict=True):
            words[start + CHAIN_NODE[field]] = value
        words[HEADER["chain_nodes"]] = number + 1
        self._numbers[key] = number
        return number

    def _written(self) -> Iterator[tuple[int, _Key]]:
        words, layout = self._page.words, self._page.layout
        for number in range(OWN_CHAIN_NODES, words[HEADER["chain_nodes"]]):
            start = layout.chain_node(number)
            parent, place, point = words[start : start + CHAIN_NODE["active_ns"]]
            yield number, (parent, place, point)
