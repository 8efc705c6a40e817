"""Stats pages: their layout, full pages, continued pages, and readers that trust nothing."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.samples import LAYOUT, page

from aiometrics.base.internal_errors import InternalErrors
from aiometrics.instrumentation.hooks.handles import HandleHook
from aiometrics.instrumentation.slots import SlotPool
from aiometrics.pages.header import PageError, PageFormat
from aiometrics.pages.layout import (
    CHAIN_NODE,
    COROUTINE,
    ENTRY,
    ENTRY_BYTES,
    ENTRY_WORDS,
    HEADER,
    HELD,
    LOOP,
    LOOP_NAME_BYTES,
    LOOP_STATS,
    MAX_EXEMPLARS,
    MAX_HELD,
    MAX_PLACES,
    MAX_PROBES,
    NAME_BYTES,
    OWN_CHAIN_NODES,
    OWN_COROUTINES,
    REQUEST,
    REQUEST_WAIT,
    SCOPE_ERROR,
    SCOPE_ERRORS,
    SEGMENT_PATH,
    STATUSES,
    VERSION,
    WORD,
    YIELD_POINT,
    Layout,
    from_seconds,
    pending_ns,
)
from aiometrics.pages.merge import merged_coroutines, merged_overflow, merged_yield_points
from aiometrics.pages.reader import read
from aiometrics.pages.snapshot import Histogram, Snapshot, total
from aiometrics.recorder.places import Places
from aiometrics.testing import ManualClock, TracedLoop, traced_loop


def counted(snapshot: Snapshot, coroutine: str) -> list[tuple[str, int, int]]:
    """Return the yield points of one coroutine, with their numbers of segments and of waits."""
    return [
        (point.yield_point, point.segments.count, point.waits.count)
        for point in snapshot.yield_points_of(coroutine)
    ]


def regions(layout: Layout) -> Iterator[tuple[int, int]]:
    """Yield start and size in words of each part of a page, in the order of layout's docstring."""
    yield 0, len(HEADER)
    yield layout.bounds, len(layout.segment_bounds_ns) + len(layout.wait_bounds_ns)
    yield layout.loop, len(LOOP)
    yield layout.start_delay, len(layout.segment_pieces_ns) + 2
    yield layout.iterations, len(layout.segment_pieces_ns) + 2
    yield layout.loop_stats, len(LOOP_STATS)
    yield layout.samples, MAX_PLACES * ENTRY_WORDS
    yield layout.errors, MAX_PROBES * ENTRY_WORDS
    yield layout.exemplars, MAX_EXEMPLARS * ENTRY_WORDS
    for number in range(MAX_HELD):
        yield layout.held_entry(number), len(HELD) + ENTRY_BYTES // WORD
    yield from task_regions(layout)
    yield from request_regions(layout)
    for number in range(layout.max_chain_nodes + OWN_CHAIN_NODES):
        yield layout.chain_node(number), len(CHAIN_NODE)
    for number in range(layout.max_segment_paths + 1):
        yield layout.segment_path(number), len(SEGMENT_PATH)
    yield layout.strings, layout.string_bytes // WORD


def task_regions(layout: Layout) -> Iterator[tuple[int, int]]:
    """Yield start and size of the parts of a page that are about tasks."""
    for number in range(layout.max_coroutines + OWN_COROUTINES):
        yield layout.coroutine(number), len(COROUTINE)
        for histogram in (layout.wall, layout.active):
            for status in range(len(STATUSES)):
                yield histogram(number, status), len(layout.wait_pieces_ns) + 2
    for number in range(layout.max_yield_points + 1):
        yield layout.yield_point(number), len(YIELD_POINT)
        yield layout.segments(number), len(layout.segment_pieces_ns) + 2
        yield layout.waits(number), len(layout.wait_pieces_ns) + 2


def request_regions(layout: Layout) -> Iterator[tuple[int, int]]:
    """Yield start and size of the parts of a page that are about requests."""
    yield layout.scope_errors, len(SCOPE_ERRORS)
    for number in range(layout.max_requests + 1):
        yield layout.request(number), len(REQUEST)
        for status in range(len(STATUSES)):
            yield layout.request_wall(number, status), len(layout.wait_pieces_ns) + 2
        yield layout.request_active(number), len(layout.wait_pieces_ns) + 2
    for number in range(layout.max_request_waits + 1):
        yield layout.request_wait(number), len(REQUEST_WAIT)


@given(
    st.lists(st.integers(1, 10**18), min_size=1, max_size=64, unique=True),
    st.lists(st.integers(1, 10**18), min_size=1, max_size=64, unique=True),
    st.integers(1, 50),
    st.integers(1, 50),
    st.integers(1, 50),
)
def test_parts_of_a_page_lie_side_by_side(
    segment: list[int], wait: list[int], coroutines: int, points: int, requests: int
) -> None:
    """For any buckets and capacities, there are no gaps or overlaps from first to last word."""
    layout = Layout(tuple(sorted(segment)), tuple(sorted(wait)), coroutines, points, requests)
    found = list(regions(layout))
    assert [start + size for start, size in found[:-1]] == [start for start, _ in found[1:]]
    assert 0 == found[0][0]
    assert layout.size == sum(size for _, size in found) * WORD


def test_c_header_has_every_word_of_every_record() -> None:
    """The names are those of Python, so that a page means the same to both recorders."""
    header = Path(__file__).parents[2] / "aiometrics/recorder/csrc/constants.h"
    declared = {
        "HEADER": HEADER,
        "LOOP": LOOP,
        "COROUTINE": COROUTINE,
        "POINT": YIELD_POINT,
        "SCOPE_ERROR": SCOPE_ERROR,
        "REQUEST": REQUEST,
        "REQUEST_WAIT": REQUEST_WAIT,
        "SEGMENT_PATH": SEGMENT_PATH,
        "CHAIN_NODE": CHAIN_NODE,
    }
    written = {
        name: int(value)
        for name, value in re.findall(
            r"^ +(\w+) = (\d+),$", header.read_text("ascii"), re.MULTILINE
        )
    }
    for record, words in declared.items():
        assert {name: written[f"{record}_{name.upper()}"] for name in words} == words
        assert written[f"{record}_SCALARS"] == len(words)


def test_bounds_are_rounded_to_nanoseconds() -> None:
    """Options are in seconds, but pages are in nanoseconds."""
    assert Layout((100_000, 1_000_000_000), (1,), 2, 3, 4) == from_seconds(
        (0.0001, 1), (1e-9,), 2, 3, 4
    )


def test_new_page_is_empty() -> None:
    """Nothing has happened yet, so that a reader sees nothing but the loop."""
    view = read(bytes(page().memory), now_ns=7, unix_ns=1_000_007)
    assert ("MainThread", 0, 1_000_007, None) == (
        view.loop.loop,
        view.loop.blocking_ns,
        view.loop.heartbeat_ns,
        view.loop.running,
    )
    nothing = {
        "coroutine": 0,
        "yield_point": 0,
        "request": 0,
        "request_wait": 0,
        "string": 0,
        "loop": 0,
    }
    assert ((), (), nothing) == (view.coroutines, view.yield_points, view.overflow)


@pytest.mark.parametrize(
    ("ns", "bucket"),
    [
        (0, 0),
        (999_999, 0),
        (1_000_000, 0),
        (1_000_001, 1),
        (50_000_000, 1),
        (50_000_001, 2),
        (10**15, 2),
    ],
)
def test_bucket_includes_its_bound(implementation: str, ns: int, bucket: int) -> None:
    """``le`` means less than or equal, to the nanosecond, for segments and waits alike."""

    async def works(traced: TracedLoop) -> None:
        traced.clock.advance_ns(ns)
        future = traced.loop.create_future()
        traced.loop.call_soon(resolve, traced, future)
        await future

    def resolve(traced: TracedLoop, future: asyncio.Future[None]) -> None:
        traced.clock.advance_ns(ns)
        future.set_result(None)

    bounds = (0.001, 0.05)
    with traced_loop(
        implementation=implementation,
        segment_buckets=bounds,
        wait_buckets=bounds,
        native_histograms=False,
    ) as traced:
        traced.run(works(traced))
        seen = traced.snapshot()
    expected = Histogram(
        (1_000_000, 50_000_000), tuple(int(number == bucket) for number in range(3)), ns
    )
    point = next(point for point in seen.yield_points if point.awaits == "Future")
    assert (expected, expected) == (point.segments, point.waits)


@pytest.fixture
def tasks_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave callbacks untimed, so that only tasks need records."""
    monkeypatch.setattr(HandleHook, "install", lambda _: None)


@pytest.mark.usefixtures("tasks_only")
def test_numbers_go_to_other_when_there_is_no_record_left(implementation: str) -> None:
    """Capacity is never exceeded and nothing is lost.

    The numbers under (other) and those under known names add up to the total.
    """

    async def works(lines: int) -> None:
        if lines:
            await asyncio.sleep(1)
        await asyncio.sleep(1)

    async def others() -> None:
        await asyncio.sleep(1)

    async def main() -> None:
        await asyncio.gather(works(1), works(0), others(), others())

    with traced_loop(implementation=implementation, max_coroutines=2, max_yield_points=2) as traced:
        traced.run(main())
        seen = traced.snapshot()
    names = [entry.coroutine.rpartition(".")[2] for entry in seen.coroutines]
    assert ["(other)", "main", "works"] == names
    assert [2, 1, 2] == [entry.created for entry in seen.coroutines]
    assert [2, 1, 2] == [entry.wall["completed"].count for entry in seen.coroutines]
    assert 3 == len(seen.yield_points)
    # One segment per await and one at the end of each of the five tasks.
    assert (1 + 3 + 2) + 5 == total(point.segments for point in seen.yield_points).count
    # (return) of works, both second lines; others is one new code, though two tasks ran it.
    assert {
        "coroutine": 1,
        "yield_point": 3,
        "request": 0,
        "request_wait": 0,
        "string": 0,
        "loop": 0,
    } == seen.overflow


@pytest.mark.usefixtures("tasks_only")
def test_overflow_counts_names_not_events(implementation: str) -> None:
    """A name without room is counted once, however often it occurs."""

    async def works() -> None:
        await asyncio.sleep(1)

    async def main() -> None:
        for _ in range(10):
            await asyncio.create_task(works())

    with traced_loop(implementation=implementation, max_yield_points=1) as traced:
        traced.run(main())
        seen = traced.snapshot()
    assert {
        "coroutine": 0,
        "yield_point": 3,
        "request": 0,
        "request_wait": 0,
        "string": 0,
        "loop": 0,
    } == seen.overflow


def test_strings_without_room_are_counted() -> None:
    """When the string area is full, a new name becomes (other), and known names still work."""
    made = page()
    room = LAYOUT.string_bytes - LOOP_NAME_BYTES - len("(other)(callback)") - 2 * NAME_BYTES
    assert 0 < room < NAME_BYTES
    assert 1 == made.add_request("v" * NAME_BYTES)
    assert (OWN_COROUTINES, OWN_COROUTINES + 1) == (
        made.add_coroutine("w" * NAME_BYTES),
        made.add_coroutine("x" * room),
    )
    assert (0, 0) == (made.add_coroutine("y"), made.add_yield_point(OWN_COROUTINES, "y", "z"))
    assert 1 == made.add_yield_point(OWN_COROUTINES, "x" * room, "(other)")
    view = read(bytes(made.memory), 0, 0)
    assert {
        "coroutine": 0,
        "yield_point": 0,
        "request": 0,
        "request_wait": 0,
        "string": 3,
        "loop": 0,
    } == view.overflow


def test_coroutine_without_a_record_takes_no_room() -> None:
    """Names beyond the capacity do not fill the string area."""
    made = page()
    for number in range(LAYOUT.max_coroutines):
        made.add_coroutine(f"c{number}")
    used = made.words[HEADER["strings_used"]]
    assert (0, used) == (made.add_coroutine("one more"), made.words[HEADER["strings_used"]])
    overflow = {
        "coroutine": 1,
        "yield_point": 0,
        "request": 0,
        "request_wait": 0,
        "string": 0,
        "loop": 0,
    }
    assert overflow == read(bytes(made.memory), 0, 0).overflow


def test_name_of_the_loop_may_change_for_ever() -> None:
    """Threads with ever new names take no more room, and a name that is too long is cut."""
    made = page()
    used = made.words[HEADER["strings_used"]]
    for number in range(10_000):
        made.open(f"Thread-{number} (run)")
    assert (used, "Thread-9999 (run)") == (
        made.words[HEADER["strings_used"]],
        read(bytes(made.memory), 0, 0).loop.loop,
    )
    made.open("ü" * 100)
    assert "ü" * (LOOP_NAME_BYTES // 2) == read(bytes(made.memory), 0, 0).loop.loop


def test_names_that_are_not_valid_text_are_escaped() -> None:
    """A lone surrogate in a name is stored as an escape sequence."""
    made = page()
    made.words[LAYOUT.coroutine(made.add_coroutine("bad\udcff")) + COROUTINE["created"]] = 1
    assert ["bad\\udcff"] == [
        entry.coroutine for entry in read(bytes(made.memory), 0, 0).coroutines
    ]


def _header(**changes: int) -> bytes:
    made = page()
    for name, value in changes.items():
        made.words[HEADER[name]] = value
    return bytes(made.memory)


def _words(changes: dict[int, int]) -> bytes:
    made = page()
    made.add_yield_point(made.add_coroutine("c"), "p", "a")
    for offset, value in changes.items():
        made.words[offset] = value
    return bytes(made.memory)


USED = LOOP_NAME_BYTES + len("(other)(callback)cpa")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "0 bytes are not a stats page"),
        (b"\0" * 8, "8 bytes are not a stats page"),
        (bytes(page().memory)[:-1], f"{LAYOUT.size - 1} bytes are not a stats page"),
        (b"\0" * LAYOUT.size, "not a stats page: the magic number is missing"),
        (
            _header(version=VERSION + 1),
            f"a page of version {VERSION + 1}; this reader knows version {VERSION}",
        ),
        (
            _header(segment_bounds=0),
            r"a page with \[0, 3\] bucket bounds and room for \[3, 4, 2\] records is out of range",
        ),
        (_header(wait_bounds=65), r"a page with \[2, 65\] bucket bounds and room"),
        (_header(max_coroutines=0), r"room for \[0, 4, 2\] records is out of range"),
        (
            _header(max_yield_points=1_000_001),
            r"room for \[3, 1000001, 2\] records is out of range",
        ),
        (_header(weight=0), "a page whose tasks count 0 times each"),
        (
            _header(segment_bounds=64, wait_bounds=64)[: (len(HEADER) + 9) * WORD],
            f"{(len(HEADER) + 9) * WORD} bytes are too few",
        ),
        (_header(max_coroutines=4), f"a page of {LAYOUT.size} bytes that should have"),
        (_header(size=8), f"a page of {LAYOUT.size} bytes that should have {LAYOUT.size}"),
        (_header(string_bytes=8), f"a page of {LAYOUT.size} bytes that should have {LAYOUT.size}"),
        (
            _words({LAYOUT.samples + ENTRY["length"]: ENTRY_BYTES + 1}),
            "an entry of at most 256 bytes cannot have 257",
        ),
        (
            _words({LAYOUT.errors + ENTRY_WORDS + ENTRY["length"]: -1}),
            "an entry of at most 256 bytes cannot have -1",
        ),
        (_header(coroutines=0), "a page with room for 5 coroutines cannot have 0"),
        (_header(yield_points=6), "a page with room for 5 yield_points cannot have 6"),
        (
            _header(strings_used=-1),
            f"the string area of {LAYOUT.string_bytes} bytes cannot have -1 in use",
        ),
        (
            _header(strings_used=LAYOUT.string_bytes + 1),
            f"cannot have {LAYOUT.string_bytes + 1} in use",
        ),
        (
            _header(loop_name=-1),
            f"string reference -0x1 points outside the {LOOP_NAME_BYTES + 17} bytes in use",
        ),
        (
            _words({LAYOUT.coroutine(OWN_COROUTINES) + COROUTINE["name"]: USED + 1}),
            f"string reference {USED + 1:#x} points outside the {USED} bytes",
        ),
        (
            _words({LAYOUT.yield_point(1) + YIELD_POINT["coroutine"]: 3}),
            "yield point 1 belongs to coroutine 3, but there are 3",
        ),
        (
            _words(
                {
                    LAYOUT.loop + LOOP["segment_since_ns"]: 1,
                    LAYOUT.loop + LOOP["segment_coroutine"]: 3,
                }
            ),
            "is of coroutine 3, but there are 3",
        ),
    ],
)
def test_reader_says_what_is_wrong_with_a_page(data: bytes, message: str) -> None:
    """Each impossible number is refused, and the message quotes it."""
    with pytest.raises(PageError, match=message):
        read(data, 0, 0)


def _full() -> bytes:
    with traced_loop(max_coroutines=3, max_yield_points=6) as traced:

        async def works() -> None:
            await asyncio.sleep(0.2)

        async def main() -> None:
            await asyncio.gather(works(), works())

        traced.run(main())
        (slot,) = traced.instrumentation._slot_pool.all()
        return bytes(slot.page.memory)


FULL = _full()
WORDS = st.tuples(st.integers(0, len(FULL) // WORD - 1), st.integers(-(2**63), 2**63 - 1))
INTERESTING = st.tuples(
    st.integers(0, len(HEADER) + 60),
    st.one_of(st.integers(-2, 40), st.integers(-(2**63), 2**63 - 1)),
)


@settings(max_examples=300)
@given(
    changes=st.lists(st.one_of(WORDS, INTERESTING), max_size=5),
    end=st.integers(0, len(FULL)),
    cut=st.booleans(),
)
def test_reader_survives_any_page(changes: list[tuple[int, int]], end: int, *, cut: bool) -> None:
    """It returns a view or raises PageError, whatever is overwritten and wherever it is cut."""
    damaged = bytearray(FULL)
    words = memoryview(damaged).cast("q")
    for place, value in changes:
        words[place] = value
    try:
        view = read(bytes(damaged[:end]) if cut else bytes(damaged), 0, 0)
    except PageError:
        return
    assert isinstance(view.loop.loop, str)


@settings(max_examples=200)
@given(st.binary(max_size=4096))
def test_reader_survives_any_bytes(data: bytes) -> None:
    """It raises PageError, because random bytes are not a page."""
    with pytest.raises(PageError):
        read(data, 0, 0)


@settings(max_examples=200)
@given(st.integers(0, len(FULL) * 8 - 1))
def test_reader_survives_a_flipped_bit(bit: int) -> None:
    """It returns a view or raises PageError when memory has lost a bit."""
    damaged = bytearray(FULL)
    damaged[bit // 8] ^= 1 << bit % 8
    try:
        read(bytes(damaged), 0, 0)
    except PageError:
        return


def test_sampled_tasks_count_as_many_times_as_they_stand_for(implementation: str) -> None:
    """About one in 4 of 4 000 tasks is traced, and every number is multiplied by 4."""

    async def works() -> None:
        await asyncio.sleep(0)

    async def main() -> None:
        for _ in range(4000):
            await asyncio.create_task(works())

    with traced_loop(implementation=implementation, sample=1 / 4) as traced:
        traced.run(main())
        seen = traced.snapshot()
    (entry,) = (entry for entry in seen.coroutines if entry.coroutine.endswith("works"))
    assert 0.25 == seen.sample_ratio
    # The draw is fixed, so that the number is always this one; a fair draw of one in 4 lies between
    # 3 600 and 4 400.
    assert 4116 == entry.created
    assert (entry.created, entry.created, 0) == (
        entry.wall["completed"].count,
        entry.active["completed"].count,
        entry.live,
    )
    assert [entry.created] * 2 == [
        point.segments.count for point in seen.yield_points_of(entry.coroutine)
    ]
    assert [entry.created, 0] == [
        point.waits.count for point in seen.yield_points_of(entry.coroutine)
    ]


def slot_pool(max_loops: int = 2) -> SlotPool:
    """Return the slot pool of a process, without recorders."""
    return SlotPool(
        PageFormat(LAYOUT, 100, 1),
        max_loops,
        places=Places(),
        objectives={},
        internal_errors=InternalErrors(),
    )


def test_loops_get_different_names_when_their_threads_have_the_same_one() -> None:
    """The second loop gets a number; a third gets no page, which is counted."""
    pool = slot_pool()
    slots = [pool.claim("worker") for _ in range(3)]
    assert ["worker", "worker-2", None] == [slot and slot.name for slot in slots]
    assert (1, 2) == (
        merged_overflow(read(bytes(slot.page.memory), 0, 0) for slot in pool.all())["loop"],
        len(pool.all()),
    )


def test_later_loop_continues_the_page_of_its_name() -> None:
    """A loop without a page of its name gets a new page, or any free one if there is no new one.

    The counters of that one go on, so it keeps its name.
    """
    pool = slot_pool()
    first, second = pool.claim("a"), pool.claim("b")
    assert first is not None
    assert second is not None
    pool.release(first)
    pool.release(second)
    assert second is pool.claim("b")
    assert first is pool.claim("c")
    assert ["a", "b"] == [read(bytes(slot.page.memory), 0, 0).loop.loop for slot in pool.all()]


def test_page_keeps_its_counters_but_not_its_gauges_when_taken_over(implementation: str) -> None:
    """Live and suspended tasks and the segment in progress are gone, and counters stay."""

    async def stuck() -> None:
        await asyncio.Event().wait()

    async def main(traced: TracedLoop) -> asyncio.Task[None]:
        task = asyncio.create_task(stuck())
        await asyncio.sleep(1)
        traced.clock.advance(1)
        return task

    with traced_loop(implementation=implementation) as traced:
        task = traced.run(main(traced))
        before = traced.snapshot()
        traced.instrumentation.uninstrument(traced.loop)
        gone = traced.snapshot()
        traced.instrumentation.instrument(traced.loop)
        assert 1 == len(traced.instrumentation._slot_pool.all())
        traced.run(main(traced)).cancel()
        after = traced.snapshot()
        task.cancel()
    name = next(entry.coroutine for entry in before.coroutines if entry.coroutine.endswith("stuck"))
    assert [(1, 1), (1, 0), (2, 1)] == [
        (seen.coroutine(name).created, seen.coroutine(name).live) for seen in (before, gone, after)
    ]
    assert [1, 0, 1] == [
        sum(point.suspended for point in seen.yield_points_of(name))
        for seen in (before, gone, after)
    ]
    assert 0 == sum(point.oldest_suspension_ns for point in gone.yield_points)
    assert [0, 0, 0] == [
        seen.loops[0].heartbeat_ns for seen in (before, gone, after)
    ]  # it runs at none of these moments
    assert [1_000_000_000, 1_000_000_000, 2_000_000_000] == [
        seen.loops[0].blocking_ns for seen in (before, gone, after)
    ]


def test_counted_part_of_the_segment_in_progress_stays_when_a_page_is_closed(
    implementation: str,
) -> None:
    """No counter falls when a loop is released in the middle of a blocking segment."""

    async def main(traced: TracedLoop) -> list[int]:
        traced.clock.advance(0.25)
        before = traced.snapshot()
        traced.instrumentation.uninstrument(traced.loop)
        return [seen.loops[0].blocking_ns for seen in (before, traced.snapshot())]

    with traced_loop(implementation=implementation) as traced:
        assert [250_000_000, 250_000_000] == traced.run(main(traced))


@pytest.mark.parametrize(
    ("since", "counted", "observed", "expected"),
    [
        (0, 0, 500, 0),  # nothing is in progress
        (1000, 0, 0, 0),  # no reader observed it
        (1000, 0, 900, 0),  # observed before the segment began
        (1000, 0, 1099, 0),  # not blocking yet when observed
        (1000, 0, 1100, 100),
        (1000, 60, 1160, 100),
        (1000, 160, 1160, 0),  # settled
        # settled after a later observation, before an eager child moved the beginning
        (1000, 200, 1160, 0),
    ],
)
def test_pending_is_the_observed_part_of_a_blocking_segment(
    since: int, counted: int, observed: int, expected: int
) -> None:
    """It is 0 below the threshold, and excludes the part that is already counted."""
    assert expected == pending_ns(since, counted, observed, threshold_ns=100)


def test_pages_of_several_loops_are_added_up() -> None:
    """Records of the same name are merged, and the oldest suspension is the oldest of all pages."""
    made = [page(), page()]
    for number, one in enumerate(made, 1):
        handle = one.add_coroutine("shop.handle")
        record = LAYOUT.coroutine(handle)
        point = one.add_yield_point(handle, "shop/db.py:1 f", "asyncio.sleep")
        one.words[record + COROUTINE["created"]] = 10 * number
        one.words[record + COROUTINE["live"]] = number
        one.words[LAYOUT.wall(handle, 0)] = 5
        one.words[LAYOUT.wall(handle, 0) + 1] = 1
        one.words[LAYOUT.yield_point(point) + YIELD_POINT["suspended"]] = number
        one.words[LAYOUT.yield_point(point) + YIELD_POINT["oldest_ns"]] = 700 - number
        one.words[HEADER["overflow_string"]] = number
    made[1].words[LAYOUT.coroutine(made[1].add_coroutine("shop.other")) + COROUTINE["created"]] = 1
    views = [read(bytes(one.memory), 1000, 5000) for one in made]
    handled, other = merged_coroutines(views)
    assert ("shop.handle", 30, 3, Histogram((2_000, 3_000, 4_000), (2, 0, 0, 0), 10)) == (
        handled.coroutine,
        handled.created,
        handled.live,
        handled.wall["completed"],
    )
    assert ("shop.other", 1) == (other.coroutine, other.created)
    (point_view,) = merged_yield_points(views)
    assert (3, 4698) == (point_view.suspended, point_view.oldest_suspension_ns)
    assert {
        "coroutine": 0,
        "yield_point": 0,
        "request": 0,
        "request_wait": 0,
        "string": 3,
        "loop": 0,
    } == merged_overflow(views)
    assert {
        "coroutine": 0,
        "yield_point": 0,
        "request": 0,
        "request_wait": 0,
        "string": 0,
        "loop": 0,
    } == merged_overflow([])


def test_histograms_with_different_buckets_cannot_be_added() -> None:
    """The error names the bounds of both."""
    one, two = Histogram((1,), (0, 0), 0), Histogram((2,), (0, 0), 0)
    with pytest.raises(
        ValueError, match=r"bounds \(1,\) and \(2,\) cannot be added: use the same buckets"
    ):
        one + two
    assert 0.0 == one.mean_ns
    assert 2.5 == Histogram((1,), (1, 1), 5).mean_ns


def test_snapshot_raises_when_a_coroutine_is_unknown() -> None:
    """The error lists the known coroutines."""
    with pytest.raises(KeyError, match=r"no coroutine 'a'; known: \[\]"):
        Snapshot(0).coroutine("a")


def test_memory_is_bounded_at_the_defaults() -> None:
    """The page of a loop fits into 2 MB, with native histograms into 5."""
    defaults = from_seconds(
        (0.0001, 0.001, 0.01, 0.05, 0.1, 0.5, 1, 5),
        (0.001, 0.01, 0.05, 0.1, 0.5, 1, 5, 10, 60),
        256,
        1000,
        100,
    )
    assert 2_000_000 > defaults.size
    assert 5_000_000 > replace(defaults, native=True).size
    assert all(
        start < end
        for start, end in pairwise(
            (0, defaults.loop, defaults.coroutines, defaults.yield_points, defaults.strings)
        )
    )


def test_times_in_a_page_are_converted_to_unix_time() -> None:
    """Pages store when a suspension began by the monotonic clock."""
    clock = ManualClock(5_000)
    made = page()
    made.add_coroutine("c")
    made.add_yield_point(1, "p", "a")
    made.words[LAYOUT.yield_point(1) + YIELD_POINT["suspended"]] = 1
    made.words[LAYOUT.yield_point(1) + YIELD_POINT["oldest_ns"]] = 2_000
    view = read(bytes(made.memory), clock(), 1_763_856_000_000_000_000)
    assert [1_763_855_999_999_997_000] == [
        point.oldest_suspension_ns for point in view.yield_points
    ]
