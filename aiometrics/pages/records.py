"""The records of pages of which a program can have many, which the C core reads and writes.

They are nearly all of an exposition. The C core adds them up and writes them without the GIL, so
that a scrape costs the loops no time. What it finds odd it declines, and Python reads it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from enum import IntEnum, IntFlag
from typing import Protocol

from aiometrics.pages.buckets import ZERO_INDEX, Buckets
from aiometrics.pages.header import Buffer
from aiometrics.pages.layout import Layout
from aiometrics.pages.snapshot import Exemplar

_MOST_NS = 1 << 62
#: Coroutine, yield point and what is awaited.
Labels = tuple[str, str, str]


class Table(IntEnum):
    """The kinds of records."""

    YIELD_POINTS = 0
    COROUTINES = 1
    HELD = 2
    REQUEST_WAITS = 3
    REQUESTS = 4


class Group(IntFlag):
    """The families that a record has a row in."""

    ENDED = 1
    AWAITED = 2
    BLOCKING = 4
    ALL = 7
    OBJECTIVE = 8


class Number(IntEnum):
    """How the numbers of several records become one, and what it is."""

    SEGMENTS = 0  # a histogram
    WAITS = 1  # a histogram
    COUNT = 2
    MOMENTARY = 3  # 0 if the writer is gone
    SECONDS = 4
    LONGEST_SECONDS = 5
    SQUARE_SECONDS = 6
    OLDEST_SECONDS = 7
    # Of requests, which are never sampled, but whose tasks may be:
    REQUEST_WALL = 8  # a histogram
    REQUEST_ACTIVE = 9  # a histogram whose sum is an estimate if tasks are sampled
    REQUESTS = 10  # 0 if the writer is gone
    VIOLATIONS = 11  # counted by the loop, and by readers


class Core(Protocol):
    """The C core's part."""

    def add(  # noqa: PLR0917 - C takes positions
        self,
        data: Buffer,
        parts: tuple[int, ...],
        weight: int,
        threshold_ns: int,
        alive: bool,  # noqa: FBT001 - as above
        unix_offset_ns: int,
        exemplars: list[tuple[int, int, int]],
        /,
    ) -> bool:
        """Add the records of a copy; False if they are for Python to read."""

    def fold(
        self, count: int, most: int, shown: tuple[object, ...], summed: tuple[bytes, ...], /
    ) -> tuple[list[tuple[bytes, bytes, bytes, bytes | None]], list[bytes]] | None:
        """Sum up yield points; ``None`` if Python has to read the pages."""

    def release(self) -> None:
        """Give back the memory of the copies; nothing can be read any more."""

    def text(self, *description: object) -> tuple[bytes, int]:
        """Return families as text, and how many samples they have."""

    def protobuf(self, *description: object) -> tuple[bytes, int]:
        """Return families as protobuf, and how many samples they have."""


#: Makes the C core's part, from the buckets of segments and of waits, by piece.
NewCore = Callable[[tuple[bytes, bytes], tuple[bytes, bytes]], Core]


class Records:
    """The records of the pages of one scrape. They keep the copies."""

    def __init__(self, new_core: NewCore) -> None:
        self._new_core = new_core
        self._core: Core | None = None
        self._layout: Layout | None = None
        #: The exemplars of all copies with their kinds, in the order of the core's numbers.
        self.exemplars: list[tuple[int, Exemplar]] = []
        #: Whether a page is to be read in Python, and so all of them.
        self.declined = False

    @property
    def filled(self) -> tuple[Core, Layout] | None:
        """The records that were added, and their layout; ``None`` if Python has read the pages."""
        if self.declined or self._core is None or self._layout is None:
            return None
        return self._core, self._layout

    @property
    def layout(self) -> Layout | None:
        """The layout of the pages that were added, also of those that are for Python to read."""
        return self._layout

    def release(self) -> None:
        """Give back the memory of the copies, without the GIL. Nothing can be read any more."""
        core, self._core = self._core, None
        if core is not None:
            core.release()

    def fold(
        self,
        count: int,
        most: int,
        shown: Mapping[Labels, object],
        summed: Iterable[str],
    ) -> tuple[dict[Labels, bytes | None], list[str]] | None:
        """Sum up yield points as :class:`aiometrics.exposition.detail.Detail` does.

        Return those that are shown from now on, and the coroutines of which others were summed up;
        ``None``, and all is declined, if the pages are for Python to read.
        """
        if self._core is None or self.declined:
            return None
        found = self._core.fold(
            count,
            most,
            tuple((*map(str.encode, labels), before) for labels, before in shown.items()),
            tuple(map(str.encode, summed)),
        )
        if found is None:
            self.declined = True
            return None
        new, coroutines = found
        return (
            {(c.decode(), y.decode(), a.decode()): before for c, y, a, before in new},
            [coroutine.decode() for coroutine in coroutines],
        )

    def add(
        self,
        data: Buffer,
        layout: Layout,
        used: Mapping[str, int],
        *,
        weight: int,
        threshold_ns: int,
        alive: bool,
        unix_offset_ns: int,
        exemplars: Mapping[tuple[int, int], Exemplar],
    ) -> bool:
        """Add the records of a copy, unless they are for Python to read.

        ``used`` are numbers of records by kind, and of bytes of strings; ``exemplars`` are
        keyed by their kind and the number of a record that is in use.
        """
        if self._core is None or self._layout is None:
            self._layout = layout
            self._core = self._new_core(_maps(layout.segment_buckets), _maps(layout.wait_buckets))
        if self._layout != layout or any(abs(e.unix_ns) > _MOST_NS for e in exemplars.values()):
            return False
        self.exemplars.extend((kind, exemplar) for (kind, _), exemplar in exemplars.items())
        return self._core.add(
            data,
            (
                layout.loop,
                layout.coroutines,
                used["coroutines"],
                layout.yield_points,
                used["yield_points"],
                layout.chain_nodes,
                used["chain_nodes"],
                layout.segment_paths,
                layout.max_segment_paths + 1,
                layout.held,
                layout.requests,
                used["requests"],
                layout.request_waits,
                used["request_waits"],
                layout.strings,
                used["string_bytes"],
            ),
            weight,
            threshold_ns,
            alive,
            unix_offset_ns,
            [(*key, exemplar.unix_ns) for key, exemplar in exemplars.items()],
        )


def _maps(buckets: Buckets) -> tuple[bytes, bytes]:
    return bytes(buckets.classic), bytes(index - ZERO_INDEX for index in buckets.native)
