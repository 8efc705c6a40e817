"""The laws of the vocabulary, held exactly for random programs, and both recorders held to one another."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from programs import PROGRAMS, ROOTS, Ops, Result, name_of, perform

from aiometrics.catalogue import STATUSES
from aiometrics.recorder import IMPLEMENTATIONS
from aiometrics.snapshot import total

EXAMPLES = settings(max_examples=150, deadline=None)


def check_tiling(result: Result) -> None:
    """Start delay, segments and waits tile the life of every task."""
    points, coroutines = result.snapshot.yield_points, result.snapshot.coroutines
    wall_ns = sum(entry.wall[status].sum_ns for entry in coroutines for status in STATUSES)
    parts_ns = sum(point.segments.sum_ns + point.waits.sum_ns for point in points)
    assert wall_ns == result.snapshot.loops[0].start_delay.sum_ns + parts_ns


def check_active(result: Result) -> None:
    """What a coroutine's tasks took is what ended at its yield points, and what the program says it took."""
    for root in (*ROOTS, "main"):
        true_ns = sum(life.active_ns for life in result.run.all_lives if life.root == root)
        points = result.snapshot.yield_points_of(name_of(root))
        assert true_ns == sum(point.segments.sum_ns for point in points)
        recorded = [entry for entry in result.snapshot.coroutines if entry.coroutine == name_of(root)]
        assert true_ns == sum(entry.active[status].sum_ns for entry in recorded for status in STATUSES)


def check_counts(result: Result) -> None:
    """Every task was created once, ended once in the way it did, and nothing is left."""
    statuses = {
        (entry.coroutine, status): entry.wall[status].count
        for entry in result.snapshot.coroutines
        for status in STATUSES
        if entry.wall[status].count
    }
    assert result.run.statuses() == statuses
    for entry in result.snapshot.coroutines:
        assert entry.created == total(entry.wall.values()).count == total(entry.active.values()).count
        assert (0, 0) == (entry.live, entry.destroyed_pending)
    assert 0 == sum(point.suspended + point.oldest_suspension_ns for point in result.snapshot.yield_points)
    assert sum(entry.created for entry in result.snapshot.coroutines) == result.snapshot.loops[0].start_delay.count


@EXAMPLES
@given(program=PROGRAMS, eager=st.booleans())
def test_the_laws_hold_for_every_program(implementation: str, program: Ops, *, eager: bool) -> None:
    """Whatever tasks do, their time is accounted for to the nanosecond, and the gauges tell the truth in the middle of it."""
    result = perform(program, implementation=implementation, eager=eager)
    assert [] == result.run.problems
    check_tiling(result)
    check_active(result)
    check_counts(result)


@EXAMPLES
@given(
    program=PROGRAMS, eager=st.booleans(), options=st.sampled_from([{}, {"max_yield_points": 3, "max_coroutines": 1}, {"sample": 1 / 2}])
)
def test_every_implementation_writes_the_same_page(program: Ops, *, eager: bool, options: dict[str, float]) -> None:
    """The recorders are twins: one program leaves the same bytes with each of them."""
    reference, *others = [perform(program, implementation=name, eager=eager, **options).page for name in sorted(IMPLEMENTATIONS)]
    for other in others:
        assert reference == other


def test_both_implementations_are_compared_where_both_are_built() -> None:
    """The comparison above compares something; where only one recorder is built it says so by being skipped."""
    if len(IMPLEMENTATIONS) == 1:
        pytest.skip("only the Python recorder is built here")
    assert {"c", "python"} == set(IMPLEMENTATIONS)
