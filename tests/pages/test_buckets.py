"""The pieces in which pages count, and the classic and native histograms that are made of them."""

from __future__ import annotations

import asyncio
from bisect import bisect_left
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aiometrics.pages.buckets import LAST_INDEX, NATIVE_BOUNDS_NS, SCHEMA, ZERO_INDEX, buckets
from aiometrics.pages.snapshot import Histogram
from aiometrics.testing import TracedLoop, traced_loop

BOUNDS_NS = (1, 1_000_000, 50_000_000, 10**12)
#: Just at, below and over a few bounds, and beyond all of them.
EDGES_NS = [
    bound + difference
    for bound in (*NATIVE_BOUNDS_NS[::9], NATIVE_BOUNDS_NS[-1], *BOUNDS_NS[1:])
    for difference in (-1, 0, 1)
]


def native_index(ns: int) -> int:
    """Return the index of the native bucket of a duration, by the definition of Prometheus."""
    return next(
        index
        for index in range(ZERO_INDEX, LAST_INDEX + 1)
        if Fraction(ns, 10**9) ** 2**SCHEMA <= Fraction(2) ** index or index == LAST_INDEX
    )


def counted(durations_ns: list[int], *, native: bool, weight: int = 1) -> Histogram:
    """Count durations in pieces, as a recorder does, and read them."""
    found = buckets(BOUNDS_NS, native=native)
    words = [sum(durations_ns)] + [0] * (len(found.pieces_ns) + 1)
    for ns in durations_ns:
        words[1 + bisect_left(found.pieces_ns, ns)] += 1
    return found.histogram(words, weight)


@given(st.lists(st.one_of(st.integers(0, 2**62), st.sampled_from(EDGES_NS)), max_size=20))
def test_both_histograms_are_exact(durations_ns: list[int]) -> None:
    """Classic counts are what they are without native ones, and both count the same durations."""
    found = counted(durations_ns, native=True)
    assert found.native is not None
    indexes = list(map(native_index, durations_ns))
    assert {index: indexes.count(index) for index in indexes} == found.native
    classic = counted(durations_ns, native=False)
    assert classic == Histogram(found.bounds_ns, found.counts, found.sum_ns)


def test_weight_counts_in_both_histograms() -> None:
    """A sampled task stands for several."""
    found = counted([5, 2_000_000, 2_000_000], native=True, weight=10)
    assert ((0, 10, 20, 0, 0), 40_000_050, {ZERO_INDEX: 10, native_index(2_000_000): 20}) == (
        found.counts,
        found.sum_ns,
        found.native,
    )


def test_histograms_add_up() -> None:
    """Native buckets are added by index; they are lost if one side has none."""
    one, two = counted([5, 2_000_000], native=True), counted([6, 10**9], native=True)
    assert {ZERO_INDEX: 2, native_index(2_000_000): 1, 0: 1} == (one + two).native
    assert (one + counted([7], native=False)).native is None


@pytest.mark.parametrize("native", [True, False])
def test_recorders_count_every_edge_exactly(implementation: str, native: bool) -> None:  # noqa: FBT001 - a parameter of pytest
    """C finds a piece by the highest bits of a duration, Python by bisection."""

    async def works(traced: TracedLoop) -> None:
        for ns in EDGES_NS:
            traced.clock.advance_ns(ns)
            await asyncio.sleep(0)

    with traced_loop(
        implementation=implementation,
        segment_buckets=[bound / 1e9 for bound in BOUNDS_NS],
        native_histograms=native,
    ) as traced:
        traced.run(works(traced))
        (point,) = (p for p in traced.snapshot().yield_points if p.awaits == "asyncio.sleep")
    assert counted(EDGES_NS, native=native) == point.segments
    assert max(EDGES_NS) == point.segment_max_ns
    assert sum(ns * ns for ns in EDGES_NS) == point.segment_squares_ns2
    assert 0 == point.wait_max_ns
