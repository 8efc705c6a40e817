"""Validates the header of a page and extracts its format.

The format is its bucket bounds, capacities, blocking threshold and sampling weight.
"""

from __future__ import annotations

from functools import lru_cache
from itertools import accumulate, pairwise
from mmap import mmap
from typing import NamedTuple

from aiometrics.pages.layout import (
    HEADER,
    MAGIC,
    MAX_BOUNDS,
    MAX_RECORDS,
    VERSION,
    WORD,
    Layout,
)

Buffer = bytes | bytearray | mmap

#: The largest number of bytes that :func:`parse_header` needs.
HEAD_BYTES = (len(HEADER) + 2 * MAX_BOUNDS) * WORD


class PageError(ValueError):
    """The bytes are not a page that this version can read; the message says what is wrong."""


class PageVersionError(PageError):
    """The bytes are a page of another version."""


class PageFormat(NamedTuple):
    """The properties that two pages must share for one to be continued as the other."""

    layout: Layout
    blocking_threshold_ns: int
    #: The number of tasks that each traced task stands for.
    weight: int


def version_of(head: Buffer) -> int | None:
    """Return the version of the page that begins with ``head``, or ``None`` if it is not a page."""
    if len(head) < len(HEADER) * WORD:
        return None
    words = memoryview(head)[: len(HEADER) * WORD].cast("q")
    return words[HEADER["version"]] if words[HEADER["magic"]] == MAGIC else None


def parse_header(head: Buffer, size: int) -> PageFormat:
    """Return the format of a page of ``size`` bytes that begins with ``head``.

    Raises :class:`PageError` if no page can begin like that.
    """
    if size < len(HEADER) * WORD or size % WORD:
        raise PageError(f"{size} bytes are not a stats page")
    version = version_of(head)
    if version is None:
        raise PageError("not a stats page: the magic number is missing")
    if version != VERSION:
        raise PageVersionError(f"a page of version {version}; this reader knows version {VERSION}")
    words = memoryview(head)[: len(head) // WORD * WORD].cast("q")
    counts = [words[HEADER[name]] for name in ("segment_bounds", "wait_bounds")]
    capacities = [
        words[HEADER[name]] for name in ("max_coroutines", "max_yield_points", "max_requests")
    ]
    if not all(1 <= count <= MAX_BOUNDS for count in counts) or not all(
        1 <= count <= MAX_RECORDS for count in capacities
    ):
        raise PageError(
            f"a page with {counts} bucket bounds and room for {capacities} records is out of range"
        )
    if words[HEADER["weight"]] < 1:
        raise PageError(
            f"a page whose tasks count {words[HEADER['weight']]} times each is out of range"
        )
    if words[HEADER["native"]] not in (0, 1):
        raise PageError(
            f"a page whose histograms are native: {words[HEADER['native']]} is out of range"
        )
    ends = list(accumulate((len(HEADER), *counts)))
    if ends[-1] > len(words):
        raise PageError(f"{size} bytes are too few for the bucket bounds")
    segment_ns, wait_ns = (tuple(words[start:end].tolist()) for start, end in pairwise(ends))
    if not all(
        1 <= lower < upper
        for bounds in (segment_ns, wait_ns)
        for lower, upper in pairwise((*bounds, bounds[-1] + 1))
    ):
        raise PageError(
            f"bucket bounds must ascend from 1 ns on, not be {segment_ns} and {wait_ns}"
        )
    layout = _layout(segment_ns, wait_ns, *capacities, native=bool(words[HEADER["native"]]))
    if (
        layout.size != size
        or words[HEADER["size"]] != size
        or words[HEADER["string_bytes"]] != layout.string_bytes
    ):
        raise PageError(f"a page of {size} bytes that should have {layout.size}")
    return PageFormat(layout, words[HEADER["blocking_threshold_ns"]], words[HEADER["weight"]])


#: A process has pages of one layout, and those of other processes that it reads have the same.
_layout = lru_cache(maxsize=8)(Layout)
