"""Random programs in virtual time: numbers add up exactly, and both recorders agree."""

from __future__ import annotations

from operator import add

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.random_programs import MISUSES, PROGRAMS, ROOTS, Ops, Result, name_of, run_program

from aiometrics.exposition.profile import totals_of
from aiometrics.pages.layout import STATUSES
from aiometrics.pages.snapshot import total
from aiometrics.recorder.implementation import IMPLEMENTATIONS

EXAMPLES = settings(max_examples=150)


def check_tiling(result: Result) -> None:
    """Check that start delays, segments and waits add up to the wall time of tasks."""
    points, coroutines = result.snapshot.yield_points, result.snapshot.coroutines
    wall_ns = sum(entry.wall[status].sum_ns for entry in coroutines for status in STATUSES)
    parts_ns = sum(point.segments.sum_ns + point.waits.sum_ns for point in points)
    assert wall_ns == result.snapshot.loops[0].start_delay.sum_ns + parts_ns


def check_active(result: Result) -> None:
    """Check that active times equal those of the program, by coroutine and by yield point."""
    for root in (*ROOTS, "main"):
        true_ns = sum(life.active_ns for life in result.run.all_lives if life.root == root)
        points = result.snapshot.yield_points_of(name_of(root))
        assert true_ns == sum(point.segments.sum_ns for point in points)
        recorded = [
            entry for entry in result.snapshot.coroutines if entry.coroutine == name_of(root)
        ]
        assert true_ns == sum(
            entry.active[status].sum_ns for entry in recorded for status in STATUSES
        )


def check_counts(result: Result) -> None:
    """Check that every task was created once and ended once, with the right status."""
    statuses = {
        (entry.coroutine, status): entry.wall[status].count
        for entry in result.snapshot.coroutines
        for status in STATUSES
        if entry.wall[status].count
    }
    assert result.run.statuses() == statuses
    for entry in result.snapshot.coroutines:
        assert (
            entry.created == total(entry.wall.values()).count == total(entry.active.values()).count
        )
        assert (0, 0) == (entry.live, entry.destroyed_pending)
    assert 0 == sum(
        point.suspended + point.oldest_suspension_ns for point in result.snapshot.yield_points
    )
    assert (
        sum(entry.created for entry in result.snapshot.coroutines)
        == result.snapshot.loops[0].start_delay.count
    )


def check_shapes(result: Result) -> None:
    """Check that all numbers of a yield point's durations can be of the same durations."""
    for point in result.snapshot.yield_points:
        for found, longest_ns in (
            (point.segments, point.segment_max_ns),
            (point.waits, point.wait_max_ns),
        ):
            assert found.native is not None
            assert sum(found.native.values()) == found.count
            assert longest_ns <= found.sum_ns <= longest_ns * found.count
        assert point.wait_tasks <= point.waits.count
        squares_ns2, segments = point.segment_squares_ns2, point.segments
        assert segments.sum_ns**2 <= squares_ns2 * segments.count
        assert squares_ns2 <= point.segment_max_ns * segments.sum_ns


def check_chains(result: Result) -> None:
    """Check that the tree of awaits has all that its yield points have, to the nanosecond."""
    snapshot = result.snapshot
    ends: dict[tuple[str, str, str], tuple[int, int, int]] = {}
    for chain in snapshot.chains:
        labels = (chain.coroutine, chain.yield_point, chain.awaits)
        assert not chain.frames or chain.yield_point in chain.frames
        numbers = (chain.waits, chain.wait_ns, chain.active_ns)
        known = ends.get(labels, (0, 0, 0))
        ends[labels] = (known[0] + numbers[0], known[1] + numbers[1], known[2] + numbers[2])
    assert ends == {
        point.labels: (point.waits.count, point.waits.sum_ns, point.segments.sum_ns)
        for point in snapshot.yield_points
        if point.waits.count or point.segments.count
    }


def check_profiles(result: Result) -> None:
    """Profiles of awaits add up to the counters."""
    points = result.snapshot.yield_points
    sums = [0, 0, 0]
    for sample in totals_of(result.snapshot).by_coroutine(0).samples:
        sums = list(map(add, sums, sample.values))
    assert sums == [
        sum(point.segments.sum_ns for point in points),
        sum(point.waits.sum_ns for point in points),
        sum(point.waits.count for point in points),
    ]


def check_requests(result: Result) -> None:
    """Check that requests are charged for all their tasks until they are left.

    What the tasks take later is background. If a request is alone in its task, its active time and
    its waits add up to its wall time.
    """
    visits, snapshot = result.run.visits, result.snapshot
    for name in {visit.type for visit in visits}:
        entry, own = snapshot.request(name), [visit for visit in visits if visit.type == name]
        assert sum(visit.active_ns for visit in own) == entry.active.sum_ns
        assert sum(visit.background_ns for visit in own) == entry.background_ns
        assert sum(visit.wall_ns or 0 for visit in own) == total(entry.wall.values()).sum_ns
        assert (len(own), len(own), 0) == (
            total(entry.wall.values()).count,
            entry.active.count,
            entry.in_progress,
        )
    finished = result.run.finished
    assert sorted((visit.type, visit.wall_ns, visit.active_ns) for visit in visits) == sorted(
        (found.request, found.wall_ns, found.active_ns) for found in finished
    )
    assert sum(point.wait_ns for found in finished for point in found.points) == sum(
        wait.wait_ns for wait in snapshot.request_waits
    )
    alone = [
        found
        for found in finished
        if sum(visit.entered_ns == found.started for visit in visits) == 1
    ]
    for found in alone:
        (visit,) = (visit for visit in visits if visit.entered_ns == found.started)
        if visit.alone:
            assert found.wall_ns == found.active_ns + sum(point.wait_ns for point in found.points)
    for found in finished:
        steps = found.timeline.steps
        assert found.active_ns == sum(step.end_ns - step.begin_ns for step in steps)
        assert {step.task for step in steps} <= {task.number for task in found.timeline.tasks}
        assert all(0 <= step.begin_ns <= step.end_ns <= found.wall_ns for step in steps)
    assert not any(snapshot.scope_errors.values())


@EXAMPLES
@given(program=PROGRAMS, eager=st.booleans())
def test_numbers_add_up_in_random_programs(
    implementation: str, program: Ops, *, eager: bool
) -> None:
    """Times are exact to the nanosecond, and gauges are true in the middle of the program."""
    result = run_program(program, implementation=implementation, eager=eager)
    assert [] == result.run.problems
    check_tiling(result)
    check_active(result)
    check_counts(result)
    check_shapes(result)
    check_chains(result)
    check_profiles(result)
    check_requests(result)


@EXAMPLES
@given(program=MISUSES, eager=st.booleans())
def test_misused_scopes_leave_other_numbers_correct(
    implementation: str, program: Ops, *, eager: bool
) -> None:
    """Wherever scopes are entered and left, the numbers of tasks and loops stay exact."""
    result = run_program(program, implementation=implementation, eager=eager)
    assert [] == result.run.problems
    check_tiling(result)
    check_active(result)
    check_counts(result)
    check_shapes(result)
    check_chains(result)
    check_profiles(result)


@EXAMPLES
@given(
    program=st.one_of(PROGRAMS, MISUSES),
    eager=st.booleans(),
    options=st.sampled_from(
        [{}, {"max_yield_points": 3, "max_coroutines": 1, "max_requests": 1}, {"sample": 1 / 2}]
    ),
)
def test_every_implementation_writes_the_same_page(
    program: Ops, *, eager: bool, options: dict[str, float]
) -> None:
    """One program leaves the same bytes and the same timelines with each recorder."""
    reference, *others = [
        run_program(program, implementation=name, eager=eager, **options)
        for name in sorted(IMPLEMENTATIONS)
    ]
    for other in others:
        assert reference.page == other.page
        assert [found.recorded_steps for found in reference.run.finished] == [
            found.recorded_steps for found in other.run.finished
        ]


def test_both_implementations_are_compared_where_both_are_built() -> None:
    """The comparison above compares both recorders, or this test is skipped."""
    if len(IMPLEMENTATIONS) == 1:
        pytest.skip("only the Python recorder is built here")
    assert {"c", "python"} == set(IMPLEMENTATIONS)
