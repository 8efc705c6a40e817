"""Some yield points have rows of their own, and the sums of the others change nothing."""

from __future__ import annotations

from collections.abc import Iterable
from random import Random

import pytest
from prometheus_client.parser import text_string_to_metric_families as parse
from support.renderings import Copied, rendered, rendered_in_c
from support.samples import FACTS, histogram, yield_point

from aiometrics.exporter.scrape import ScrapeHandler
from aiometrics.exposition.detail import Detail
from aiometrics.exposition.families import ExporterInfo
from aiometrics.pages.exemplar_table import SEGMENT, ExemplarTable
from aiometrics.pages.layout import HEADER, YIELD_POINT, Layout
from aiometrics.pages.merge import merged
from aiometrics.pages.page import Page
from aiometrics.pages.reader import read
from aiometrics.pages.records import Records
from aiometrics.pages.snapshot import (
    CALLBACK,
    EAGER_CHILD,
    OTHER,
    RETURN,
    RUNNING,
    Exemplar,
    Histogram,
    Snapshot,
    YieldPoint,
    total,
)
from aiometrics.recorder.implementation import IMPLEMENTATIONS

NOW_NS, UNIX_NS = 5_000_000_000, 1_763_856_000_000_000_000
NAMES = ("shop.größe", 'a"b', "shop.jobs.Worker.run", CALLBACK)
PLACES = (RETURN, EAGER_CHILD, "shop.py:1 f", "shop.py:2 g", "shop.py:3 h", OTHER)
#: Words of a yield point that only grow.
COUNTED = ("blocking_ns", "inflicted_wait_ns", "square_s2", "segment_max_ns", "wait_tasks")
COUNT = 3

compiled = pytest.mark.skipif("c" not in IMPLEMENTATIONS, reason="the C recorder is not built")


def empty_page(*, native: bool = True, weight: int = 1) -> Page:
    """Return a page with room for some yield points."""
    layout = Layout((1_000, 1_000_000), (2_000, 3_000, 10**10), 8, 16, 2, native=native)
    page = Page(layout, blocking_threshold_ns=100, weight=weight)
    page.open("MainThread")
    for name in NAMES:
        page.add_coroutine(name)
    return page


def go_on(random: Random, page: Page) -> None:
    """Let a program run: yield points are reached, some for the first time."""
    words, at = page.words, page.layout
    for _ in range(random.randrange(4)):
        page.add_yield_point(
            random.randrange(words[HEADER["coroutines"]]),
            random.choice(PLACES),
            random.choice("ab"),
        )
    for number in range(words[HEADER["yield_points"]]):
        if random.random() < 0.5:
            continue
        start, segments = at.yield_point(number), at.segments(number)
        words[segments] += random.choice((1, 10**3, 10**9))
        words[segments + 1 + random.randrange(at.segment_words - 1)] += random.randrange(5)
        words[at.waits(number)] += random.randrange(10**6)
        words[at.waits(number) + 1 + random.randrange(at.wait_words - 1)] += random.randrange(5)
        for name in COUNTED:
            words[start + YIELD_POINT[name]] += random.randrange(3)
        words[start + YIELD_POINT["square_ns2"]] += random.randrange(10**9)
        words[start + YIELD_POINT["suspended"]] = random.randrange(3)
        words[start + YIELD_POINT["oldest_ns"]] = random.randrange(2) * NOW_NS
        if random.random() < 0.1:
            exemplar = Exemplar((("trace_id", "a" * 32),), 5_000, UNIX_NS + random.randrange(99))
            ExemplarTable(page).put(SEGMENT, number, exemplar)


def points_of(copies: Iterable[Copied]) -> tuple[YieldPoint, ...]:
    """Return all yield points of pages."""
    views = [read(page.data, NOW_NS, UNIX_NS, alive=page.alive) for page in copies]
    return merged(views, taken_ns=UNIX_NS, sample_ratio=1.0).yield_points


def counters(points: Iterable[YieldPoint]) -> tuple[object, ...]:
    """Return the sums of all counters, and what does not depend on rows either."""
    some = list(points)
    return (
        total(point.segments for point in some),
        total(point.waits for point in some),
        sum(point.blocking_ns for point in some),
        sum(point.inflicted_wait_ns for point in some),
        sum(point.segment_squares_ns2 for point in some),
        sum(point.wait_tasks for point in some),
        sum(point.suspended for point in some),
        min((p.oldest_suspension_ns for p in some if p.oldest_suspension_ns), default=0),
        max(point.segment_max_ns for point in some),
    )


def never_fell(before: YieldPoint, now: YieldPoint) -> bool:
    """Whether no counter is less than it was."""
    return (
        _histogram_never_fell(before.segments, now.segments)
        and _histogram_never_fell(before.waits, now.waits)
        and before.blocking_ns <= now.blocking_ns
        and before.inflicted_wait_ns <= now.inflicted_wait_ns
        and before.segment_squares_ns2 <= now.segment_squares_ns2
        and before.wait_tasks <= now.wait_tasks
    )


def _histogram_never_fell(before: Histogram, now: Histogram) -> bool:
    native = now.native or {}
    return (
        before.sum_ns <= now.sum_ns
        and all(one <= two for one, two in zip(before.counts, now.counts, strict=True))
        and all(count <= native[index] for index, count in (before.native or {}).items())
    )


@pytest.mark.parametrize("native", [True, False])
def test_sums_are_kept_and_no_counter_falls(native: bool) -> None:  # noqa: FBT001 - a parameter
    """Whatever becomes the most active yield points, over 20 scrapes of each of 10 programs."""
    random = Random(14)  # noqa: S311 - the test must be reproducible
    promoted = 0
    for _ in range(10):
        pages = [empty_page(native=native, weight=random.choice((1, 7))) for _ in range(2)]
        detail, before = Detail(COUNT), list[YieldPoint]()
        for _ in range(20):
            for page in pages:
                go_on(random, page)
            points = points_of(Copied(page.copy()) for page in pages)
            rows = {row.labels: row for row in detail.of(points)}
            for coroutine in {point.coroutine for point in points}:
                kept, all_of = (
                    [row for row in some if row.coroutine == coroutine]
                    for some in (rows.values(), points)
                )
                assert counters(kept) == counters(all_of)
            assert all(never_fell(row, rows[row.labels]) for row in before)
            own, places = (
                sum(row.yield_point not in {EAGER_CHILD, OTHER} for row in some)
                for some in (rows.values(), points)
            )
            assert min(COUNT, places) <= own <= 2 * COUNT
            promoted += own > COUNT
            # What has only been waited at, and not to an end, may be gone.
            before = [row for row in rows.values() if row.segments.count or row.waits.count]
    assert promoted


def test_the_most_active_ones_are_shown() -> None:
    """From the first scrape on they have all that they counted; later ones begin at 0."""
    detail = Detail(1)
    small, large = (
        yield_point(place, segments=histogram(number, sum_ns=number))
        for place, number in (("small", 1), ("large", 2))
    )
    (shown, other) = detail.of([small, large])
    assert shown == large
    assert (other.yield_point, other.awaits, other.segments) == (OTHER, OTHER, small.segments)
    for counts, own in (((9,), (0,)), ((10, 5), (1, 5))):
        grown = yield_point("small", segments=histogram(*counts, sum_ns=sum(counts)))
        rows = {row.yield_point: row.segments for row in detail.of([grown, large])}
        assert rows == {
            "large": large.segments,
            "small": histogram(*own, sum_ns=sum(own)),
            OTHER: histogram(9, sum_ns=9),
        }


def test_there_are_no_others_while_all_have_room() -> None:
    """The first counts of a coroutine are in no other row."""
    points = [yield_point(f"place {number}") for number in range(3)]
    assert detail_of(3, points) == tuple(points)


def detail_of(count: int, points: list[YieldPoint]) -> tuple[YieldPoint, ...]:
    """Return what the first scrape shows."""
    return Detail(count).of(points)


def test_what_is_no_place_is_never_summed_up() -> None:
    """A segment in progress moves to where it ends, and eager children are waits only."""
    points = [yield_point(place) for place in (RUNNING, EAGER_CHILD, "shop.py:1 f", "shop.py:2 g")]
    rows = detail_of(1, points)
    assert [row.yield_point for row in rows] == [RUNNING, EAGER_CHILD, "shop.py:1 f", OTHER]


@compiled
@pytest.mark.parametrize("native", [True, False])
def test_both_write_the_same_bytes(native: bool) -> None:  # noqa: FBT001 - a parameter
    """Also if a page is left out for a scrape, so that counters fall, and if writers are gone."""
    random = Random(15)  # noqa: S311 - the test must be reproducible
    for _ in range(6):
        pages = [empty_page(native=native, weight=random.choice((1, 7))) for _ in range(3)]
        in_python, in_c = Detail(COUNT), Detail(COUNT)
        for _ in range(20):
            for page in pages:
                go_on(random, page)
            left = random.sample(pages, random.choice((2, 3, 3)))
            copies = [Copied(page.copy(), alive=random.random() < 0.9) for page in left]
            found = rendered_in_c(copies, NOW_NS, UNIX_NS, in_c)
            assert found.compiled
            assert rendered(copies, NOW_NS, UNIX_NS, detail=in_python).formats == found.formats


@compiled
@pytest.mark.parametrize(("segments", "waits"), [((1, 2, 3, 4), (1,)), ((1,), (1, 2, 3, 4))])
def test_both_see_any_bucket_that_has_fallen(
    segments: tuple[int, ...], waits: tuple[int, ...]
) -> None:
    """Segments and waits have buckets of their own: there may be more of either."""
    layout = Layout(segments, waits, 8, 16, 2, native=False)
    start = layout.yield_point(2)
    buckets: list[int] = []
    for kind, words in ((layout.segments, layout.segment_words), (layout.waits, layout.wait_words)):
        buckets += range(kind(2) + 1 - start, kind(2) + words - start)
    for bucket in buckets:
        page = Page(layout, blocking_threshold_ns=100)
        page.open("MainThread")
        numbers = [page.add_yield_point(1, place, "a") for place in ("shop.py:1 f", "shop.py:2 g")]
        record = layout.yield_point(numbers[1])
        in_python, in_c = Detail(1), Detail(1)
        page.words[layout.segments(numbers[0])], page.words[layout.segments(numbers[0]) + 1] = 2, 1
        for word in buckets:
            page.words[record + word] = 5
        for sum_ns, count in ((1, 5), (3, 5), (3, 4)):
            page.words[layout.segments(numbers[1])] = sum_ns
            page.words[record + bucket] = count
            copies = [Copied(page.copy())]
            found = rendered_in_c(copies, NOW_NS, UNIX_NS, in_c)
            assert found.compiled
            assert rendered(copies, NOW_NS, UNIX_NS, detail=in_python).formats == found.formats


@compiled
def test_values_go_on_where_the_core_declines() -> None:
    """A page that C leaves to Python changes no row, and from then on Python sums up."""
    random = Random(16)  # noqa: S311 - the test must be reproducible
    page, odd = empty_page(), empty_page()
    in_python, in_both = Detail(COUNT), Detail(COUNT)
    for scrape in range(40):
        go_on(random, page)
        if scrape == 20:
            odd.words[HEADER["weight"]] = 1 << 60
            odd.add_yield_point(3, "shop.py:9 odd", "c")
            odd.words[odd.layout.segments(1) + 1] = 1
        copies = [Copied(page.copy()), Copied(odd.copy())]
        found = rendered_in_c(copies, NOW_NS, UNIX_NS, in_both)
        assert found.compiled == (scrape < 20)
        assert rendered(copies, NOW_NS, UNIX_NS, detail=in_python).formats == found.formats


@compiled
def test_what_was_remembered_of_other_pages_is_not_taken_off() -> None:
    """A process may trace anew, with other buckets, while its application serves the metrics."""
    detail, random = Detail(COUNT), Random(17)  # noqa: S311 - the test must be reproducible
    for native in (True, False, True):
        page = empty_page(native=native)
        for _ in range(20):
            go_on(random, page)
            assert rendered_in_c([Copied(page.copy())], NOW_NS, UNIX_NS, detail).compiled
        points = points_of([Copied(page.copy())])
        assert counters(detail.of(points, page.layout)) == counters(points)


def test_a_scrape_has_the_rows_that_the_source_wants() -> None:
    """They are counted in the number of series, and the next scrape knows them."""
    random, page = Random(4), empty_page()  # noqa: S311 - the test must be reproducible
    for _ in range(5):
        go_on(random, page)

    def source(records: Records | None) -> tuple[Snapshot, ExporterInfo]:
        view = read(page.copy(), NOW_NS, UNIX_NS, records=records)
        return merged([view], taken_ns=1, sample_ratio=1.0), FACTS._replace(detail=1)

    handler = ScrapeHandler(source, None, lambda _: None)
    for _ in range(2):
        samples = [
            sample
            for family in parse(handler.answer(None).body.decode())
            for sample in family.samples
        ]
        places = {sample.labels.get("yield_point") for sample in samples} - {None, EAGER_CHILD}
        assert len(places - {OTHER}) == 1
        assert OTHER in places
        (series,) = (sample.value for sample in samples if sample.name == "aiometrics_series")
        assert series == len(samples)
