"""Profiles: their sums are those of the counters, and other programs can read them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import jsonschema  # type: ignore[import-untyped]  # it has no stubs of its own
from hypothesis import given
from hypothesis import strategies as st
from support import pprof_proto
from support.samples import shop

from aiometrics.base.yielding import no_pause
from aiometrics.exposition.profile import (
    Profile,
    Sample,
    Totals,
    Values,
    apportioned,
    totals_of,
)
from aiometrics.exposition.profile_formats import Frame, collapsed, frame_of, pprof, speedscope
from aiometrics.exposition.profile_parents import with_parents
from aiometrics.pages.snapshot import Chain, Held, Snapshot, YieldPoint

SCHEMA = json.loads((Path(__file__).parent / "speedscope.schema.json").read_text())
WEIGHTS = st.dictionaries(st.integers(), st.integers(0, 1 << 62), max_size=20)


def sample() -> Snapshot:
    """Return a snapshot whose yield points were reached by chains of two frames, half by each."""
    found = shop()
    chains = [
        Chain(*point[:1], (outer, point[1]), *point[1:], waits, wait_ns, active_ns)
        for point, numbers in ((p.labels, p) for p in found.yield_points)
        for outer, waits, wait_ns, active_ns in _halves(numbers)
    ]
    return replace(found, chains=tuple(chains))


def _halves(point: YieldPoint) -> Iterator[tuple[str, int, int, int]]:
    waits, wait_ns, active_ns = point.waits.count, point.waits.sum_ns, point.segments.sum_ns
    one = waits // 2, wait_ns // 2, active_ns // 2
    yield ("shop/web.py:3 handle", *one)
    yield ("shop/job.py:4 run", waits - one[0], wait_ns - one[1], active_ns - one[2])


def counters(snapshot: Snapshot) -> tuple[int, int, int]:
    """Return what the counters of all yield points add up to."""
    points = snapshot.yield_points
    return (
        sum(point.segments.sum_ns for point in points),
        sum(point.waits.sum_ns for point in points),
        sum(point.waits.count for point in points),
    )


def sums(profile: Profile) -> tuple[int, ...]:
    """Return what the samples add up to, by type."""
    return tuple(map(sum, zip(*(sample.values for sample in profile.samples), strict=True)))


def held(snapshot: Snapshot, coroutine: str, held_at: str, ns: int) -> Snapshot:
    """Return the snapshot with one more sampled line."""
    return replace(snapshot, held=(*snapshot.held, Held(coroutine, held_at, 1, ns)))


def busiest(snapshot: Snapshot) -> tuple[str, int]:
    """Return the coroutine with the most active time, and that time in ns."""
    active: dict[str, int] = {}
    for point in snapshot.yield_points:
        active[point.coroutine] = active.get(point.coroutine, 0) + point.segments.sum_ns
    return max(active.items(), key=lambda pair: pair[1])


@given(st.dictionaries(st.lists(st.sampled_from("abc"), min_size=1).map(tuple), st.integers(1, 9)))
def test_parents_leave_the_sums_of_each_coroutine(lineages: dict[tuple[str, ...], int]) -> None:
    """However many tasks of which creators were seen, and of whatever coroutines."""
    profile = totals_of(sample()).by_coroutine(0)
    named = {name: letter for letter, name in zip("abc", sorted(labels(profile)), strict=False)}
    renamed = replace(
        profile,
        samples=tuple(
            replace(one, coroutine=named.get(one.coroutine, one.coroutine))
            for one in profile.samples
        ),
    )
    found = with_parents(renamed, lineages)
    for coroutine in labels(renamed):
        assert sums(of(renamed, coroutine)) == sums(of(found, coroutine))


def labels(profile: Profile) -> set[str]:
    """Return the coroutines of a profile."""
    return {one.coroutine for one in profile.samples}


def of(profile: Profile, coroutine: str) -> Profile:
    """Return the samples of one coroutine."""
    kept = tuple(one for one in profile.samples if one.coroutine == coroutine)
    return replace(profile, samples=kept)


def test_sums_are_those_of_the_counters() -> None:
    """With no sample, with few, and with more than there was time."""
    plain = replace(sample(), held=())
    coroutine, active_ns = busiest(plain)
    for sampled_ns in (0, 1, active_ns // 3, active_ns, 5 * active_ns):
        snapshot = held(held(plain, coroutine, "a.py:1 f > m.g", sampled_ns), coroutine, "b", 7)
        assert counters(snapshot) == sums(totals_of(snapshot).by_coroutine(0))
        assert 0 not in map(
            sum, (sample.values for sample in totals_of(snapshot).by_coroutine(0).samples)
        )


def test_sampled_lines_have_the_time_that_they_stand_for() -> None:
    """What they called is a frame of its own; the rest is at the awaits."""
    plain = replace(sample(), held=())
    coroutine, active_ns = busiest(plain)
    profile = totals_of(held(plain, coroutine, "shop/a.py:1 f > json.dumps", active_ns - 1))
    found = {
        sample.stack: sample.values.active_ns
        for sample in profile.by_coroutine(0).samples
        if sample.coroutine == coroutine and sample.values.active_ns
    }
    assert active_ns - 1 == found.pop((coroutine, "shop/a.py:1 f", "json.dumps"))
    assert 1 == sum(found.values())


def test_routes_have_their_active_time_and_waits() -> None:
    """The sums are those of the requests."""
    snapshot = sample()
    profile = totals_of(snapshot).by_route(0)
    assert sum(kind.active.sum_ns + kind.background_ns for kind in snapshot.requests) == sum(
        sample.values.active_ns for sample in profile.samples
    )
    assert sum(wait.wait_ns for wait in snapshot.request_waits) == sum(
        sample.values.wait_ns for sample in profile.samples
    )
    assert {kind.request for kind in snapshot.requests} >= {s.route for s in profile.samples}


def test_a_difference_has_what_was_counted_meanwhile() -> None:
    """What did not grow is not in it."""
    before = totals_of(sample())
    stack, values = next(iter(before.chains.items()))
    grown = values._replace(wait_ns=values.wait_ns + 5, waits=values.waits + 1)
    later = replace(before, taken_ns=before.taken_ns + 9, chains={**before.chains, stack: grown})
    profile = later.since(before).by_coroutine(9)
    assert (Sample(stack, Values(0, 5, 1), stack[0]),) == profile.samples
    assert (before.taken_ns, 9) == (profile.taken_ns, profile.duration_ns)
    assert () == later.since(later).by_coroutine(0).samples


@given(st.integers(0, 1 << 62), WEIGHTS)
def test_shares_add_up(amount: int, weights: dict[int, int]) -> None:
    """No share is off by more than 1."""
    shares, whole = apportioned(amount, weights), sum(weights.values())
    assert sum(shares.values()) == (amount if whole else 0)
    for key, share in shares.items():
        assert abs(share * whole - amount * weights[key]) <= whole


def test_frames_have_file_and_line() -> None:
    """Functions of one name in two files are two; what is no place is a name."""
    assert Frame("shop/db.fetch", "shop/db.py", 42) == frame_of("shop/db.py:42 fetch")
    assert Frame("In[3].f.<locals>.g", "In[3]", 1) == frame_of("In[3]:1 f.<locals>.g")
    assert Frame("asyncio.Queue.get") == frame_of("asyncio.Queue.get")
    assert Frame("(return)") == frame_of("(return)")


def test_pprof_has_every_sample() -> None:
    """Read by the ``protobuf`` package."""
    profile = totals_of(sample()).by_coroutine(30)
    parsed = pprof_proto.parse(pprof(profile, no_pause))
    assert (("active", "nanoseconds"), ("wait", "nanoseconds"), ("count", "count")) == parsed.types
    assert [
        (tuple(frame_of(text) for text in sample.stack), tuple(sample.values), sample.coroutine)
        for sample in profile.samples
    ] == [(stack.frames, stack.values, stack.labels["coroutine"]) for stack in parsed.stacks]
    text = parsed.message.string_table
    assert "active" == text[parsed.message.default_sample_type]
    assert (profile.taken_ns, 30) == (parsed.message.time_nanos, parsed.message.duration_nanos)
    by_route = pprof_proto.parse(pprof(totals_of(sample()).by_route(0), no_pause))
    assert all(["route"] == list(stack.labels) for stack in by_route.stacks)


def test_speedscope_accepts_its_format() -> None:
    """By its own schema; each type is a profile with the same sums."""
    profile = totals_of(sample()).by_coroutine(0)
    written = json.loads(speedscope(profile, no_pause))
    jsonschema.validate(written, SCHEMA)
    frames = written["shared"]["frames"]
    for place, shown in enumerate(written["profiles"]):
        assert sums(profile)[place] == sum(shown["weights"]) == shown["endValue"]
        assert [
            [frame_of(text).name for text in sample.stack]
            for sample in profile.samples
            if sample.values[place]
        ] == [[frames[number]["name"] for number in stack] for stack in shown["samples"]]
    jsonschema.validate(json.loads(speedscope(Profile((), 0, 0), no_pause)), SCHEMA)


def test_collapsed_stacks_have_a_line_each() -> None:
    """Their values add up, and a separator in a name is none."""
    profile = totals_of(sample()).by_coroutine(0)
    for place, kind in enumerate(("active", "wait", "count")):
        lines = collapsed(profile, no_pause, kind).decode().splitlines()
        assert sums(profile)[place] == sum(int(line.rpartition(" ")[2]) for line in lines)
        assert len(lines) == len({line.rpartition(" ")[0] for line in lines})
    odd = Sample(("a;b", "c\nd"), Values(1), "a")
    assert b"a,b;c d 2\n" == collapsed(Profile((odd, odd), 0, 0), no_pause)


def test_nothing_is_a_profile_too() -> None:
    """Before anything was traced."""
    empty = Totals(5, {}, {}, {}).by_coroutine(0)
    assert () == pprof_proto.parse(pprof(empty, no_pause)).stacks
    assert b"" == collapsed(empty, no_pause)
