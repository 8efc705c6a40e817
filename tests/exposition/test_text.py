"""The pages that Prometheus reads: what is on them, in both formats, and how they are written."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import zip_longest

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Gauge, Histogram, Info, Metric, generate_latest
from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text
from prometheus_client.samples import Sample
from prometheus_client.utils import floatToGoString
from support.samples import FACTS, coroutine, histogram, loop, shop, yield_point

from aiometrics.exposition.collector import SnapshotCollector
from aiometrics.exposition.families import bound_text
from aiometrics.exposition.metrics import LOOP_BLOCKING_SECONDS, LOOP_START_DELAY_SECONDS, METRICS
from aiometrics.exposition.text import OPENMETRICS, TEXT, Renderer, TextFormat
from aiometrics.pages.snapshot import Coroutine, Snapshot

FORMATS = pytest.mark.parametrize("form", [TEXT, OPENMETRICS], ids=lambda form: form.name)
PARSERS: dict[TextFormat, Callable[[str], Iterable[Metric]]] = {
    TEXT: parse_text,
    OPENMETRICS: parse_openmetrics,
}
GENERATORS: dict[TextFormat, Callable[[CollectorRegistry], bytes]] = {
    TEXT: generate_latest,
    OPENMETRICS: generate_openmetrics,
}


def no_pause() -> None:
    """Write on at once."""


def unexpected(error: Exception) -> None:
    """Fail where no error of the application is part of the test."""
    raise AssertionError(error)


def renderer(
    registry: CollectorRegistry | None = None, on_error: Callable[[Exception], None] = unexpected
) -> Renderer:
    """A renderer that does not pause."""
    return Renderer(registry, on_error=on_error, pause=no_pause)


def page(snapshot: Snapshot, form: TextFormat = TEXT, writer: Renderer | None = None) -> str:
    """One page as text."""
    return b"".join((writer or renderer()).slices(snapshot, FACTS, form)).decode()


def parsed(snapshot: Snapshot, form: TextFormat, writer: Renderer | None = None) -> list[Metric]:
    """One page as prometheus_client reads it."""
    return list(PARSERS[form](page(snapshot, form, writer)))


def collected(snapshot: Snapshot) -> list[Metric]:
    """The same by way of the collector."""
    return list(SnapshotCollector(lambda: (snapshot, FACTS)).collect())


def samples(families: Iterable[Metric]) -> list[object]:
    """All samples in order."""
    return [sample for family in families for sample in family.samples]


def test_openmetrics_says_all_that_the_collector_says() -> None:
    """Families, help, types, units and samples are equal."""
    assert collected(shop()) == parsed(shop(), OPENMETRICS)


def test_text_says_all_that_the_collector_says_but_units() -> None:
    """Text 0.0.4 has no word for a unit; all else is equal."""
    families = parsed(shop(), TEXT)
    for family, metric in zip(families, collected(shop()), strict=True):
        family.unit = metric.unit
    assert collected(shop()) == families


@FORMATS
def test_an_empty_snapshot_still_describes_every_metric(form: TextFormat) -> None:
    """Before anything was traced, HELP and TYPE of the whole catalogue are there."""
    described = {
        (family.name, family.type, family.documentation) for family in parsed(Snapshot(0), form)
    }
    assert {(metric.family, metric.kind, metric.help) for metric in METRICS} == described


def test_a_histogram_in_text() -> None:
    """Buckets add up, bounds and sum are in seconds, the count is that of the last bucket."""
    start_delay = histogram(2, 1, 0, 4, sum_ns=1_500_000_000)
    lines = [
        line
        for line in page(Snapshot(0, loops=(loop(start_delay=start_delay),))).splitlines()
        if "start_delay_seconds" in line
    ]
    assert [
        f"# HELP asyncio_loop_start_delay_seconds {LOOP_START_DELAY_SECONDS.help}",
        "# TYPE asyncio_loop_start_delay_seconds histogram",
        'asyncio_loop_start_delay_seconds_bucket{loop="MainThread",le="0.001"} 2',
        'asyncio_loop_start_delay_seconds_bucket{loop="MainThread",le="0.1"} 3',
        'asyncio_loop_start_delay_seconds_bucket{loop="MainThread",le="1.0"} 3',
        'asyncio_loop_start_delay_seconds_bucket{loop="MainThread",le="+Inf"} 7',
        'asyncio_loop_start_delay_seconds_count{loop="MainThread"} 7',
        'asyncio_loop_start_delay_seconds_sum{loop="MainThread"} 1.5',
    ] == lines


def test_openmetrics_names_the_family_of_a_counter_without_total_and_gives_its_unit() -> None:
    """The sample keeps its suffix."""
    lines = [
        line
        for line in page(Snapshot(0, loops=(loop(),)), OPENMETRICS).splitlines()
        if "asyncio_loop_blocking" in line
    ]
    assert [
        f"# HELP asyncio_loop_blocking_seconds {LOOP_BLOCKING_SECONDS.help}",
        "# TYPE asyncio_loop_blocking_seconds counter",
        "# UNIT asyncio_loop_blocking_seconds seconds",
        'asyncio_loop_blocking_seconds_total{loop="MainThread"} 0.0',
    ] == lines


def test_only_openmetrics_ends_with_a_mark() -> None:
    """It is the last line, and there is one of it."""
    assert page(Snapshot(0), OPENMETRICS).endswith("\n# EOF\n")
    assert 1 == page(Snapshot(0), OPENMETRICS).count("# EOF")
    assert "# EOF" not in page(Snapshot(0), TEXT)


def test_help_is_escaped_as_each_format_wants_it() -> None:
    """Backslashes and newlines in both, quotes in OpenMetrics only."""
    metric = replace(METRICS[0], name="x", help='a "b" \\ c\nd')
    assert '# HELP x a "b" \\\\ c\\nd\n# TYPE x histogram\n' == TEXT.header(metric)
    assert '# HELP x a \\"b\\" \\\\ c\\nd\n# TYPE x histogram\n' == OPENMETRICS.header(metric)


@FORMATS
@given(names=st.lists(st.text(st.characters(exclude_categories=["Cs"])), min_size=3, max_size=3))
def test_any_label_is_read_back_as_it_was(form: TextFormat, names: list[str]) -> None:
    """Quotes, newlines, backslashes, braces, NUL and non-ASCII survive the way to the scraper."""
    place, task, awaits = names
    expected = dict(
        zip(("coroutine", "yield_point", "awaits"), ("c" + task, "p" + place, awaits), strict=True)
    )
    snapshot = Snapshot(
        0, yield_points=(yield_point("p" + place, coroutine="c" + task, awaits=awaits),)
    )
    suspended = next(
        family for family in parsed(snapshot, form) if family.name == "asyncio_suspended_tasks"
    )
    assert [expected] == [sample.labels for sample in suspended.samples]


@FORMATS
@given(name=st.text(st.characters(categories=["Cs", "L"]), min_size=1))
def test_lone_surrogates_do_not_break_the_page(form: TextFormat, name: str) -> None:
    """A file name that is not UTF-8 is spelled out, in both expositions alike."""
    snapshot = Snapshot(0, coroutines=(coroutine(name),))
    assert samples(collected(snapshot)) == samples(parsed(snapshot, form))


def test_names_that_differ_by_a_surrogate_stay_two_series() -> None:
    """Prometheus would refuse to take the same series twice."""
    lines = page(Snapshot(0, coroutines=(coroutine("\udc80"), coroutine("\udc81")))).splitlines()
    assert ['asyncio_tasks{coroutine="\\\\udc80"} 0', 'asyncio_tasks{coroutine="\\\\udc81"} 0'] == [
        line for line in lines if line.startswith("asyncio_tasks{")
    ]


@given(bound=st.floats(min_value=1e-9, max_value=1e9))
def test_bucket_bounds_are_written_as_prometheus_client_writes_them(bound: float) -> None:
    """The same ``le`` as in the histograms of the application, whatever the buckets."""
    assert floatToGoString(bound) == bound_text(bound)  # type: ignore[no-untyped-call]


@pytest.mark.parametrize(
    ("bound", "text"),
    [(5e-5, "5e-05"), (0.1, "0.1"), (5.0, "5.0"), (1e6, "1e+06"), (float("inf"), "+Inf")],
)
def test_bucket_bounds_are_canonical(bound: float, text: str) -> None:
    """As the OpenMetrics specification lists them."""
    assert text == bound_text(bound)


def test_promtool_has_nothing_to_say(binary: Callable[[str], str]) -> None:
    """Names, types, help and units follow the conventions that the linter of Prometheus knows."""
    checked = subprocess.run(
        [binary("promtool"), "check", "metrics"],
        input=page(shop()),
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert (0, "", "") == (checked.returncode, checked.stdout, checked.stderr)


def test_a_page_comes_in_slices_with_a_pause_after_each() -> None:
    """Whoever waits for the interpreter gets it between any two slices, the longest of which is bounded."""
    pauses: list[int] = []
    many = Snapshot(
        0, yield_points=tuple(yield_point(f"shop/db.py:{line} fetch") for line in range(500))
    )
    slices = list(
        Renderer(on_error=unexpected, pause=lambda: pauses.append(1)).slices(many, FACTS, TEXT)
    )
    assert page(many) == b"".join(slices).decode()
    assert len(slices) == len(pauses) + 1
    assert 10 < len(slices) <= len(page(many)) // 32_768 + 2
    assert max(map(len, slices)) < 40_000


def test_a_page_is_written_while_it_is_read() -> None:
    """Nothing is rendered ahead of the slice that was asked for."""
    asked: list[str] = []

    class Watched(tuple[Coroutine, ...]):
        __slots__ = ()

        def __iter__(self) -> Iterator[Coroutine]:
            for item in tuple.__iter__(self):
                asked.append("row")
                yield item

    slices = renderer().slices(
        Snapshot(0, coroutines=Watched(coroutine(f"c{n}") for n in range(5_000))), FACTS, TEXT
    )
    next(slices)
    assert 0 < len(asked) < 1_000


def test_labels_are_cached_and_those_that_vanish_are_dropped() -> None:
    """The second page writes the labels of the first from the cache; the third no longer remembers what the second did not have."""
    writer = renderer()
    first = page(shop(), TEXT, writer)
    cached = {values: text for texts in writer._cache.values() for values, text in texts.items()}
    assert first == page(shop(), TEXT, writer)
    assert all(
        text is cached[values]
        for texts in writer._cache.values()
        for values, text in texts.items()
        if values
    )
    page(Snapshot(0), TEXT, writer)
    assert {} == writer._cache["coroutine",]


def test_new_numbers_under_cached_labels_are_shown() -> None:
    """Only labels are remembered, never values."""
    writer = renderer()
    page(Snapshot(0, coroutines=(coroutine("c", live=1),)), TEXT, writer)
    assert 'asyncio_tasks{coroutine="c"} 2\n' in page(
        Snapshot(0, coroutines=(coroutine("c", live=2),)), TEXT, writer
    )


WANTED: list[tuple[Snapshot, TextFormat]] = [
    (
        Snapshot(0, yield_points=tuple(yield_point(f"{name}.py:{line} f") for line in range(300))),
        form,
    )
    for name in ("a", "b")
    for form in (TEXT, OPENMETRICS)
]


def test_pages_may_be_written_at_the_same_time() -> None:
    """Slices of different snapshots and formats, taken in turn from one renderer, make the pages that are written alone."""
    writer = renderer()
    turns = zip_longest(
        *(writer.slices(snapshot, FACTS, form) for snapshot, form in WANTED), fillvalue=b""
    )
    assert [page(*wanted) for wanted in WANTED] == [
        b"".join(parts).decode() for parts in zip(*turns, strict=True)
    ]


def test_several_threads_may_use_one_renderer() -> None:
    """Each gets its own page, however often they overtake each other."""
    writer = Renderer(on_error=unexpected)
    with ThreadPoolExecutor(len(WANTED)) as threads:
        pages = list(threads.map(lambda wanted: page(wanted[0], wanted[1], writer), WANTED * 5))
    assert [page(*wanted) for wanted in WANTED] * 5 == pages


@FORMATS
def test_the_metrics_of_the_application_follow_ours(form: TextFormat) -> None:
    """As prometheus_client writes them in the format asked for, and the page is still one valid page."""
    registry = CollectorRegistry()
    Info("service", "About\nit.", registry=registry).info({"name": '"x"\\'})
    Histogram("order_seconds", "Time.", ["shop"], buckets=[1], registry=registry).labels(
        "größe"
    ).observe(0.5)
    ours, whole = page(shop(), form).removesuffix("# EOF\n"), page(shop(), form, renderer(registry))
    theirs = GENERATORS[form](registry).decode()
    assert ours + theirs == whole
    assert {"service", "order_seconds"} <= {
        family.name.removesuffix("_info") for family in PARSERS[form](whole)
    }


class Failing:
    """A collector of an application whose database is gone."""

    def describe(self) -> list[Metric]:
        return []

    def collect(self) -> list[Metric]:
        raise ConnectionError("the database is gone")


@FORMATS
def test_a_failing_collector_of_the_application_costs_the_page_only_its_own_families(
    form: TextFormat,
) -> None:
    """The error is reported; ours and what was collected before are there, and the page is valid."""
    registry = CollectorRegistry()
    Gauge("stock", "Items.", registry=registry).set(7)
    registry.register(Failing())
    errors: list[Exception] = []
    families = parsed(shop(), form, renderer(registry, errors.append))
    assert [*samples(collected(shop())), Sample("stock", {}, 7)] == samples(families)
    assert ["the database is gone"] == [str(error) for error in errors]


@FORMATS
def test_a_family_that_cannot_be_written_is_reported_and_left_out(form: TextFormat) -> None:
    """One broken sample does not take the families around it along."""
    registry = CollectorRegistry()
    Gauge("before", "Before.", registry=registry)
    Gauge("broken", "Broken.", ["name"], registry=registry).labels("\udc80")
    Gauge("after", "After.", registry=registry)
    errors: list[Exception] = []
    names = {family.name for family in parsed(Snapshot(0), form, renderer(registry, errors.append))}
    assert {"before", "after"} == names - {metric.family for metric in METRICS}
    assert [UnicodeEncodeError] == [type(error) for error in errors]


@FORMATS
def test_our_own_collector_in_the_registry_does_not_double_the_page(form: TextFormat) -> None:
    """It is not even asked for its samples, and nothing is reported."""
    registry = CollectorRegistry()
    registry.register(
        SnapshotCollector(lambda: pytest.fail("asked for samples that are on the page already"))
    )
    assert page(shop(), form) == page(shop(), form, renderer(registry))


@FORMATS
def test_a_metric_of_the_application_with_one_of_our_names_is_left_out_and_reported(
    form: TextFormat,
) -> None:
    """Two families of one name would cost the whole scrape."""
    registry = CollectorRegistry()
    Gauge("asyncio_tasks", "All tasks.", registry=registry)
    errors: list[Exception] = []
    assert page(shop(), form) == page(shop(), form, renderer(registry, errors.append))
    assert [
        (
            "the application's registry has a metric 'asyncio_tasks', which aiometrics has too: "
            "rename the application's to export it"
        )
    ] == [str(error) for error in errors]
