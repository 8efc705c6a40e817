"""The C core writes records as Python does, byte for byte, or leaves them to it."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from random import Random

import pytest
from support.renderings import Copied, rendered, rendered_in_c

from aiometrics.exporter.scrape import ScrapeHandler
from aiometrics.exposition.families import ExporterInfo
from aiometrics.pages.exemplar_table import SEGMENT, WALL, ExemplarTable
from aiometrics.pages.header import PageError
from aiometrics.pages.held_table import HeldTable
from aiometrics.pages.layout import (
    COROUTINE,
    HEADER,
    HELD,
    LOOP,
    MAX_HELD,
    NAME_BYTES,
    NO_COROUTINE,
    REQUEST,
    REQUEST_WAIT,
    SEGMENT_PATH,
    SQUARE_NS2,
    STATUSES,
    YIELD_POINT,
    Layout,
)
from aiometrics.pages.merge import merged
from aiometrics.pages.page import Page
from aiometrics.pages.reader import read
from aiometrics.pages.records import Records
from aiometrics.pages.snapshot import (
    EAGER_CHILD,
    OTHER,
    RAISE,
    RETURN,
    RUNNING,
    Exemplar,
    Snapshot,
)
from aiometrics.recorder.implementation import IMPLEMENTATIONS

pytestmark = pytest.mark.skipif("c" not in IMPLEMENTATIONS, reason="the C recorder is not built")
NOW_NS, UNIX_NS = 5_000_000_000, 1_763_856_000_000_000_000
NAMES = ("shop.größe", 'a"b\\c\nd', "x", "", "\U0001f600", "ユ" * 300)
POINTS = (RETURN, RAISE, EAGER_CHILD, RUNNING, "shop.py:1 f", 'say "no"', "\\", "ü")


def layout(*, native: bool) -> Layout:
    """Return a small layout."""
    return Layout((1_000, 1_000_000), (2_000, 3_000, 10**10), 8, 12, 2, native=native)


def number(random: Random) -> int:
    """Return a number of any length that a page can have."""
    return random.choice((0, 0, 1, random.randrange(1 << random.randrange(1, 63))))


def page_with(random: Random, *, native: bool) -> Page:
    """Return a page with any names and numbers; some of its records have the same names."""
    page = Page(
        layout(native=native),
        blocking_threshold_ns=100,
        weight=random.choice((1, 1, 7, 1000)),
    )
    page.open("MainThread")
    for _ in range(random.randrange(9)):
        page.add_coroutine(random.choice(NAMES))
    for _ in range(random.randrange(13)):
        coroutine = random.randrange(page.words[HEADER["coroutines"]])
        page.add_yield_point(coroutine, random.choice(POINTS), random.choice(NAMES))
    for _ in range(random.randrange(3)):
        page.add_request(random.choice((*NAMES, OTHER)))
    for _ in range(random.randrange(9)):
        request = random.randrange(page.words[HEADER["requests"]])
        page.add_request_wait(request, random.choice(NAMES))
    held = HeldTable(page)
    for _ in range(random.randrange(9)):
        coroutine = random.randrange(NO_COROUTINE, page.words[HEADER["coroutines"]])
        entry = held.number(coroutine, random.choice(("", *NAMES[:5], "y" * 256)))
        held.add(entry, number(random) >> 8, number(random) >> 8)
    fill(random, page)
    return page


def fill(random: Random, page: Page) -> None:
    """Write numbers into all records that are in use."""
    words, at = page.words, page.layout
    for record in range(words[HEADER["coroutines"]]):
        start = at.coroutine(record)
        for word in range(start + COROUTINE["created"], start + at.coroutine_words):
            words[word] = number(random)
    for record in range(words[HEADER["yield_points"]]):
        start = at.yield_point(record)
        for word in range(start + YIELD_POINT["blocking_ns"], start + at.yield_point_words):
            words[word] = number(random) if random.random() < 0.5 else 0
        words[start + YIELD_POINT["square_s2"]] %= 10**10
        words[start + YIELD_POINT["square_ns2"]] %= SQUARE_NS2
        words[start + YIELD_POINT["oldest_ns"]] %= 1 << 60
    for record in range(words[HEADER["requests"]]):
        start = at.request(record)
        used = random.random() < 0.8
        for word in range(start + REQUEST["objective_ns"], start + at.request_words):
            words[word] = number(random) if used and random.random() < 0.5 else 0
    for record in range(words[HEADER["request_waits"]]):
        words[at.request_wait(record) + REQUEST_WAIT["wait_ns"]] = number(random)
    for name in ("segment_since_ns", "segment_counted_ns", "looked_ns"):
        words[at.loop + LOOP[name]] = random.randrange(1000)
    exemplars = ExemplarTable(page)
    for _ in range(random.randrange(5)):
        exemplar = Exemplar(
            (("trace_id", "a" * 32),), random.randrange(3_000_000), UNIX_NS + random.randrange(9)
        )
        exemplars.put(SEGMENT, random.randrange(words[HEADER["yield_points"]]), exemplar)
        kind = random.randrange(WALL, WALL + len(STATUSES) + 1)  # the last one is of no status
        exemplars.put(kind, random.randrange(words[HEADER["requests"]] + 1), exemplar)


@pytest.mark.parametrize("native", [True, False])
def test_both_write_the_same_bytes(native: bool) -> None:  # noqa: FBT001 - a parameter
    """Of one page or of several, of sampled tasks, and of writers that are gone."""
    random = Random(7)  # noqa: S311 - the test must be reproducible
    for _ in range(40):
        pages = [
            Copied(page_with(random, native=native).copy(), alive=random.random() < 0.8)
            for _ in range(random.choice((1, 1, 2, 5)))
        ]
        compiled = rendered_in_c(pages, NOW_NS, UNIX_NS)
        assert compiled.compiled
        assert rendered(pages, NOW_NS, UNIX_NS).formats == compiled.formats


def test_time_without_a_request_is_no_request() -> None:
    """The first type is (other), which is left out until it is used."""
    page = Page(layout(native=True), blocking_threshold_ns=100)
    page.open("MainThread")
    page.words[page.layout.request_wall(0, 1)] = 1
    pages = [Copied(page.copy())]
    compiled = rendered_in_c(pages, NOW_NS, UNIX_NS)
    assert compiled.compiled
    assert b'request="(other)"' not in compiled.formats[0]
    assert rendered(pages, NOW_NS, UNIX_NS).formats == compiled.formats


def negative(page: Page) -> None:
    """A number is negative."""
    page.words[page.layout.segments(1)] = -1


def not_utf_8(page: Page) -> None:
    """A name is not UTF-8."""
    ref = page.words[page.layout.yield_point(1) + YIELD_POINT["awaits"]]
    page.memory[page.layout.strings * 8 + (ref >> 32)] = 0xFF


def too_many_squares(page: Page) -> None:
    """A sum of squares is larger than any that can be."""
    page.words[page.layout.yield_point(1) + YIELD_POINT["square_ns2"]] = SQUARE_NS2


def before_1970(page: Page) -> None:
    """A task is suspended since a time before 1970."""
    page.words[page.layout.yield_point(1) + YIELD_POINT["oldest_ns"]] = -2 * UNIX_NS


def negative_samples(page: Page) -> None:
    """Less than no sample was taken of a line."""
    HeldTable(page).add(HeldTable(page).number(1, "shop.py:1 f"), -1, 0)


def negative_time(page: Page) -> None:
    """The samples of a line stand for less than no time."""
    HeldTable(page).add(HeldTable(page).number(1, "shop.py:1 f"), 1, -1)


def line_not_utf_8(page: Page) -> None:
    """The text of a line that held the loop is not UTF-8."""
    entry = page.layout.held_entry(HeldTable(page).number(1, "shop.py:1 f"))
    page.memory[(entry + len(HELD)) * 8] = 0xFF


def negative_wait(page: Page) -> None:
    """A request waited for less than no time."""
    wait = page.add_request_wait(page.add_request("GET /"), "sleep")
    page.words[page.layout.request_wait(wait) + REQUEST_WAIT["wait_ns"]] = -1


def negative_request(page: Page) -> None:
    """Less than no request is in progress."""
    page.words[page.layout.request(0) + REQUEST["in_progress"]] = -1


def request_not_utf_8(page: Page) -> None:
    """The name of a request is not UTF-8."""
    request = page.add_request("GET /")
    ref = page.words[page.layout.request(request) + REQUEST["name"]]
    page.memory[page.layout.strings * 8 + (ref >> 32)] = 0xFF


def heavy(page: Page) -> None:
    """Each task counts very often."""
    page.words[HEADER["weight"]] = 1 << 60


def late(page: Page) -> None:
    """An exemplar is of a time that 64 bits cannot hold."""
    ExemplarTable(page).put(SEGMENT, 1, Exemplar((("trace_id", "a"),), 1, 1 << 63))


@pytest.mark.parametrize(
    "damage",
    [
        negative,
        not_utf_8,
        too_many_squares,
        before_1970,
        negative_samples,
        negative_time,
        line_not_utf_8,
        negative_wait,
        negative_request,
        request_not_utf_8,
        heavy,
        late,
    ],
)
def test_what_is_odd_is_left_to_python(damage: Callable[[Page], None]) -> None:
    """Then all pages are, as their records are added up."""
    page = page_with(Random(4), native=True)  # noqa: S311 - the test must be reproducible
    sound = Copied(page.copy())
    assert page.words[HEADER["yield_points"]] > 1
    damage(page)
    pages = [sound, Copied(page.copy())]
    both = rendered_in_c(pages, NOW_NS, UNIX_NS)
    assert not both.compiled
    assert rendered(pages, NOW_NS, UNIX_NS).formats == both.formats


def test_a_line_is_cut_between_characters() -> None:
    """So is a name. A long one would else leave all pages to Python for ever."""
    page = page_with(Random(4), native=True)  # noqa: S311 - the test must be reproducible
    HeldTable(page).number(1, "x" * 255 + "ü")
    page.add_request("y" * (NAME_BYTES - 1) + "ü")
    pages = [Copied(page.copy())]
    compiled = rendered_in_c(pages, NOW_NS, UNIX_NS)
    assert compiled.compiled
    assert b'held_at="' + 255 * b"x" + b'"' in compiled.formats[0]
    assert rendered(pages, NOW_NS, UNIX_NS).formats == compiled.formats


def test_an_exemplar_of_no_yield_point_is_left_out() -> None:
    """Its kind and number may be of any size."""
    page = page_with(Random(4), native=True)  # noqa: S311 - the test must be reproducible
    exemplar = Exemplar((("trace_id", "a"),), 1, UNIX_NS)
    for kind, number_of_none in product((SEGMENT, WALL, 1 << 63), (1 << 63, 13)):
        ExemplarTable(page).put(kind, number_of_none, exemplar)
    pages = [Copied(page.copy())]
    compiled = rendered_in_c(pages, NOW_NS, UNIX_NS)
    assert compiled.compiled
    assert rendered(pages, NOW_NS, UNIX_NS).formats == compiled.formats


@pytest.mark.parametrize("points", [2_000_001, 1 << 40, 1 << 62, (1 << 63) - 1])
def test_a_number_of_yield_points_beyond_all_memory_is_declined(points: int) -> None:
    """The C core does not rely on who calls it for that, and takes no memory for them."""
    maps = bytes((0, 1)), b""
    records = IMPLEMENTATIONS["c"].core.Records(maps, maps)
    places = (0, 0, 0, 0, points, *(0,) * 11)
    exemplars = [(SEGMENT, 10**digits, UNIX_NS) for digits in range(18)]
    assert not records.add(bytes(1 << 18), places, 1, 0, True, 0, exemplars)  # noqa: FBT003 - as in C


@pytest.mark.parametrize("objectives_ns", [(0, 5, 3), (3, 0, 5), (5, 3, 0)])
def test_of_different_objectives_the_longest_is_shown(objectives_ns: tuple[int, ...]) -> None:
    """The order of pages is none that anybody could know."""
    pages: list[Copied] = []
    for objective_ns in objectives_ns:
        page = Page(layout(native=True), blocking_threshold_ns=100)
        request = page.layout.request(page.add_request("GET /"))
        page.words[request + REQUEST["objective_ns"]] = objective_ns
        pages.append(Copied(page.copy()))
    text, *_ = rendered_in_c(pages, NOW_NS, UNIX_NS).formats
    (line,) = (
        line for line in text.splitlines() if line.startswith(b"asyncio_request_objective_s")
    )
    assert line.endswith(b" 5e-09")
    assert rendered(pages, NOW_NS, UNIX_NS).formats[0] == text


@pytest.mark.parametrize("place", [9, 10, 12])
@pytest.mark.parametrize("start", [-1, 1 << 40, (1 << 63) - 1])
def test_a_table_beyond_all_memory_is_declined(place: int, start: int) -> None:
    """Of lines that held the loop, of requests and of their waits."""
    maps = bytes((0, 1)), b""
    records = IMPLEMENTATIONS["c"].core.Records(maps, maps)
    places = [0] * 16
    places[11] = places[13] = 1
    assert records.add(bytes(1 << 18), tuple(places), 1, 0, True, 0, [])  # noqa: FBT003 - as in C
    places[place] = start
    assert not records.add(bytes(1 << 18), tuple(places), 1, 0, True, 0, [])  # noqa: FBT003


def path_to_nowhere(page: Page) -> None:
    """Segments end at a yield point that is none."""
    page.words[page.layout.segment_path(0) + SEGMENT_PATH["segments"]] = 1
    page.words[page.layout.segment_path(0) + SEGMENT_PATH["ended"]] = 99


def line_of_nobody(page: Page) -> None:
    """A line held the loop in tasks of a coroutine that is none."""
    HeldTable(page).number(page.words[HEADER["coroutines"]], "shop.py:1 f")


def line_of_less_than_nobody(page: Page) -> None:
    """The number of the coroutine is less than that of the loop itself."""
    HeldTable(page).number(NO_COROUTINE - 1, "shop.py:1 f")


def last_line_of_nobody(page: Page) -> None:
    """So did the last one that there is room for."""
    entry = page.layout.held_entry(MAX_HELD - 1)
    page.words[entry + HELD["coroutine"]], page.words[entry + HELD["length"]] = 99, 1


def line_too_long(page: Page) -> None:
    """A line has a byte more than there is room for."""
    entry = HeldTable(page).number(1, "shop.py:1 f")
    page.words[page.layout.held_entry(entry) + HELD["length"]] = 257


def line_too_short(page: Page) -> None:
    """A line has less than no text."""
    entry = HeldTable(page).number(1, "shop.py:1 f")
    page.words[page.layout.held_entry(entry) + HELD["length"]] = -1


def wait_of_nobody(page: Page) -> None:
    """A request that is none has waited."""
    page.add_request_wait(page.words[HEADER["requests"]], "sleep")


def wait_of_less_than_nobody(page: Page) -> None:
    """The number of the request is negative."""
    page.add_request_wait(-1, "sleep")


def wait_for_text_beyond(page: Page) -> None:
    """What a request waited for is where there is no text."""
    wait = page.add_request_wait(0, "sleep")
    page.words[page.layout.request_wait(wait) + REQUEST_WAIT["awaits"]] = 0x9900_0000_0001


@pytest.mark.parametrize(
    "damage",
    [
        path_to_nowhere,
        line_of_nobody,
        line_of_less_than_nobody,
        last_line_of_nobody,
        line_too_long,
        line_too_short,
        wait_of_nobody,
        wait_of_less_than_nobody,
        wait_for_text_beyond,
    ],
)
def test_what_is_damaged_is_refused_and_changes_nothing(damage: Callable[[Page], None]) -> None:
    """The records that were added before are still written."""
    page = page_with(Random(4), native=True)  # noqa: S311 - the test must be reproducible
    sound = page.copy()
    damage(page)
    records = IMPLEMENTATIONS["c"].new_records()
    read(sound, NOW_NS, UNIX_NS, records=records)
    with pytest.raises(PageError, match=r"but there are|cannot have|points outside"):
        read(page.copy(), NOW_NS, UNIX_NS, records=records)
    assert records is not None
    assert not records.declined


def test_a_scrape_is_written_in_c() -> None:
    """Its source is asked to leave the records to the C core."""
    page = page_with(Random(4), native=True)  # noqa: S311 - the test must be reproducible
    given: list[Records | None] = []

    def source(records: Records | None) -> tuple[Snapshot, ExporterInfo]:
        given.append(records)
        view = read(page.copy(), NOW_NS, UNIX_NS, records=records)
        return merged([view], taken_ns=1, sample_ratio=1.0), ExporterInfo("1", "c", "direct")

    body = ScrapeHandler(source, None, lambda _: None).answer(None).body
    (records,) = given
    if IMPLEMENTATIONS["c"].new_records() is not None and records is not None:
        assert not records.declined
        assert records.layout == page.layout
    assert b"asyncio_segment_seconds_bucket{" in body
