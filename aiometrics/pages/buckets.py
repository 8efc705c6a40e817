"""The buckets in which a page counts durations.

A native histogram has exponential buckets, whose bounds no user can choose; a classic one has the
bounds that the user chose. Where both are wanted, a page counts in the pieces into which all these
bounds divide the axis: a duration is counted once, and both histograms are exact sums of pieces.
"""

from __future__ import annotations

from bisect import bisect_left
from functools import lru_cache
from math import isqrt
from typing import NamedTuple

from aiometrics.pages.snapshot import Histogram

#: In the terms of Prometheus: each bound is 2**(2**-SCHEMA) times the one before.
SCHEMA = 2
#: Bucket i ends at 2**(i/4) s. The first one is the zero bucket, which has all durations up to its
#: bound, about a microsecond; the last one also has all those over its bound, ten minutes.
ZERO_INDEX, LAST_INDEX = -80, 37


def _bound_ns(index: int) -> int:
    """Return the most whole ns that bucket ``index`` can have."""
    fourth_power = 10**36 << index if index >= 0 else 10**36 >> -index
    return isqrt(isqrt(fourth_power))


#: The upper bounds of all native buckets but the last one, which is unbounded.
NATIVE_BOUNDS_NS = tuple(map(_bound_ns, range(ZERO_INDEX, LAST_INDEX)))


class Buckets(NamedTuple):
    """The pieces in which durations are counted, and the buckets that each one belongs to."""

    bounds_ns: tuple[int, ...]
    #: The upper bound of each piece but the last one, which has none.
    pieces_ns: tuple[int, ...]
    #: By piece, the number of its classic bucket.
    classic: tuple[int, ...]
    #: By piece, the index of its native bucket; empty if there are no native buckets.
    native: tuple[int, ...]

    def histogram(self, words: list[int], weight: int) -> Histogram:
        """Return the histogram whose sum and counts, one per piece, are ``words``.

        Each duration counts ``weight`` times.
        """
        counts = [0] * (len(self.bounds_ns) + 1)
        native: dict[int, int] = {}
        sum_ns, *pieces = words
        for piece, count in enumerate(pieces):
            if count:
                counts[self.classic[piece]] += count * weight
                if self.native:
                    index = self.native[piece]
                    native[index] = native.get(index, 0) + count * weight
        return Histogram(
            self.bounds_ns, tuple(counts), sum_ns * weight, native if self.native else None
        )


@lru_cache(maxsize=64)
def buckets(bounds_ns: tuple[int, ...], *, native: bool) -> Buckets:
    """Return the pieces for classic buckets with these bounds, and native ones if wanted."""
    pieces_ns = tuple(sorted({*bounds_ns, *NATIVE_BOUNDS_NS})) if native else bounds_ns
    ends = (*pieces_ns, max(pieces_ns[-1], NATIVE_BOUNDS_NS[-1]) + 1)
    return Buckets(
        bounds_ns,
        pieces_ns,
        tuple(bisect_left(bounds_ns, end) for end in ends),
        tuple(ZERO_INDEX + bisect_left(NATIVE_BOUNDS_NS, end) for end in ends) if native else (),
    )
