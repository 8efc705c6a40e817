"""The text that Prometheus reads: its contents in both formats, and how it is written."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
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
    """Go on at once."""


def unexpected(error: Exception) -> None:
    """Fail on an error of the application that the test does not expect."""
    raise AssertionError(error)


def renderer(
    registry: CollectorRegistry | None = None, on_error: Callable[[Exception], None] = unexpected
) -> Renderer:
    """Return a renderer that does not pause."""
    return Renderer(registry, on_error=on_error, pause=no_pause)


def rendered(snapshot: Snapshot, form: TextFormat = TEXT, writer: Renderer | None = None) -> str:
    """Return the text of one scrape."""
    return b"".join((writer or renderer()).slices(snapshot, FACTS, form)).decode()


def parsed(snapshot: Snapshot, form: TextFormat, writer: Renderer | None = None) -> list[Metric]:
    """Return the text of one scrape as prometheus_client parses it."""
    return list(PARSERS[form](rendered(snapshot, form, writer)))


def collected(snapshot: Snapshot) -> list[Metric]:
    """Return the families of the collector."""
    return list(SnapshotCollector(lambda: (snapshot, FACTS)).collect())


def samples(families: Iterable[Metric]) -> list[object]:
    """Return all samples in order."""
    return [sample for family in families for sample in family.samples]


def test_openmetrics_has_all_that_the_collector_has() -> None:
    """Families, help, types, units and samples are equal."""
    assert collected(shop()) == parsed(shop(), OPENMETRICS)


def test_text_has_all_that_the_collector_has_except_units() -> None:
    """Text 0.0.4 cannot express units; everything else is equal."""
    families = parsed(shop(), TEXT)
    for family, metric in zip(families, collected(shop()), strict=True):
        family.unit = metric.unit
    assert collected(shop()) == families


@FORMATS
def test_an_empty_snapshot_still_describes_every_metric(form: TextFormat) -> None:
    """HELP and TYPE of every metric are there before anything was traced."""
    described = {
        (family.name, family.type, family.documentation) for family in parsed(Snapshot(0), form)
    }
    assert {(metric.family, metric.kind, metric.help) for metric in METRICS} == described


def test_a_histogram_in_text() -> None:
    """Buckets are cumulative, in seconds like the sum; the count is that of the last bucket."""
    start_delay = histogram(2, 1, 0, 4, sum_ns=1_500_000_000)
    lines = [
        line
        for line in rendered(Snapshot(0, loops=(loop(start_delay=start_delay),))).splitlines()
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
        for line in rendered(Snapshot(0, loops=(loop(),)), OPENMETRICS).splitlines()
        if "asyncio_loop_blocking" in line
    ]
    assert [
        f"# HELP asyncio_loop_blocking_seconds {LOOP_BLOCKING_SECONDS.help}",
        "# TYPE asyncio_loop_blocking_seconds counter",
        "# UNIT asyncio_loop_blocking_seconds seconds",
        'asyncio_loop_blocking_seconds_total{loop="MainThread"} 0.0',
    ] == lines


def test_only_openmetrics_has_an_end_mark() -> None:
    """It is the last line and occurs once."""
    assert rendered(Snapshot(0), OPENMETRICS).endswith("\n# EOF\n")
    assert 1 == rendered(Snapshot(0), OPENMETRICS).count("# EOF")
    assert "# EOF" not in rendered(Snapshot(0), TEXT)


def test_help_is_escaped_as_each_format_requires() -> None:
    """Both escape backslashes and newlines, and OpenMetrics escapes quotes too."""
    metric = METRICS[0]._replace(name="x", help='a "b" \\ c\nd')
    assert '# HELP x a "b" \\\\ c\\nd\n# TYPE x histogram\n' == TEXT.header(metric)
    assert '# HELP x a \\"b\\" \\\\ c\\nd\n# TYPE x histogram\n' == OPENMETRICS.header(metric)


@FORMATS
@given(names=st.lists(st.text(st.characters(exclude_categories=["Cs"])), min_size=3, max_size=3))
def test_any_label_is_read_back_as_it_was(form: TextFormat, names: list[str]) -> None:
    """Quotes, newlines, backslashes, braces, NUL and non-ASCII reach the scraper unchanged."""
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
def test_lone_surrogates_do_not_break_the_text(form: TextFormat, name: str) -> None:
    """A file name that is not UTF-8 is escaped the same way by the renderer and the collector."""
    snapshot = Snapshot(0, coroutines=(coroutine(name),))
    assert samples(collected(snapshot)) == samples(parsed(snapshot, form))


def test_names_that_differ_by_a_surrogate_stay_two_series() -> None:
    """Prometheus rejects a series that occurs twice."""
    lines = rendered(
        Snapshot(0, coroutines=(coroutine("\udc80"), coroutine("\udc81")))
    ).splitlines()
    assert ['asyncio_tasks{coroutine="\\\\udc80"} 0', 'asyncio_tasks{coroutine="\\\\udc81"} 0'] == [
        line for line in lines if line.startswith("asyncio_tasks{")
    ]


@given(bound=st.floats(min_value=1e-9, max_value=1e9))
def test_bucket_bounds_are_written_as_prometheus_client_writes_them(bound: float) -> None:
    """``le`` is the same as in histograms of the application, whatever the buckets."""
    assert floatToGoString(bound) == bound_text(bound)  # type: ignore[no-untyped-call]


@pytest.mark.parametrize(
    ("bound", "text"),
    [(5e-5, "5e-05"), (0.1, "0.1"), (5.0, "5.0"), (1e6, "1e+06"), (float("inf"), "+Inf")],
)
def test_bucket_bounds_are_canonical(bound: float, text: str) -> None:
    """They are written as the OpenMetrics specification demands."""
    assert text == bound_text(bound)


def test_promtool_finds_no_fault(binary: Callable[[str], str]) -> None:
    """Names, types, help and units follow the conventions that Prometheus' linter checks."""
    checked = subprocess.run(
        [binary("promtool"), "check", "metrics"],
        input=rendered(shop()),
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert (0, "", "") == (checked.returncode, checked.stdout, checked.stderr)


def test_text_comes_in_slices_with_a_pause_after_each() -> None:
    """Slices are bounded, and other threads can run between any two of them."""
    pauses: list[int] = []
    many = Snapshot(
        0, yield_points=tuple(yield_point(f"shop/db.py:{line} fetch") for line in range(500))
    )
    slices = list(
        Renderer(on_error=unexpected, pause=lambda: pauses.append(1)).slices(many, FACTS, TEXT)
    )
    assert rendered(many) == b"".join(slices).decode()
    assert len(slices) <= len(pauses) + 1
    assert 10 < len(slices) <= len(rendered(many)) // 32_768 + 2
    assert max(map(len, slices)) < 40_000


def test_text_is_rendered_while_it_is_read() -> None:
    """Rows are not made before their slice is asked for."""
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
    """The second scrape reuses the labels of the first; the third drops those that vanished."""
    writer = renderer()
    first = rendered(shop(), TEXT, writer)
    cached = {values: text for texts in writer._cache.values() for values, text in texts.items()}
    assert first == rendered(shop(), TEXT, writer)
    assert all(
        text is cached[values]
        for texts in writer._cache.values()
        for values, text in texts.items()
        if values
    )
    rendered(Snapshot(0), TEXT, writer)
    assert {} == writer._cache["coroutine",]


def test_new_numbers_under_cached_labels_are_shown() -> None:
    """Only labels are cached, never values."""
    writer = renderer()
    rendered(Snapshot(0, coroutines=(coroutine("c", live=1),)), TEXT, writer)
    assert 'asyncio_tasks{coroutine="c"} 2\n' in rendered(
        Snapshot(0, coroutines=(coroutine("c", live=2),)), TEXT, writer
    )


SCRAPES: list[tuple[Snapshot, TextFormat]] = [
    (
        Snapshot(0, yield_points=tuple(yield_point(f"{name}.py:{line} f") for line in range(300))),
        form,
    )
    for name in ("a", "b")
    for form in (TEXT, OPENMETRICS)
]


def test_scrapes_may_be_rendered_alternately() -> None:
    """Slices taken in turn make the same texts as scrapes that are rendered alone."""
    writer = renderer()
    turns = zip_longest(
        *(writer.slices(snapshot, FACTS, form) for snapshot, form in SCRAPES), fillvalue=b""
    )
    assert [rendered(*scrape) for scrape in SCRAPES] == [
        b"".join(parts).decode() for parts in zip(*turns, strict=True)
    ]


def test_several_threads_may_use_one_renderer() -> None:
    """Each thread gets its own text, however they interleave."""
    writer = Renderer(on_error=unexpected)
    with ThreadPoolExecutor(len(SCRAPES)) as threads:
        texts = list(
            threads.map(lambda scrape: rendered(scrape[0], scrape[1], writer), SCRAPES * 5)
        )
    assert [rendered(*scrape) for scrape in SCRAPES] * 5 == texts


@FORMATS
def test_the_metrics_of_the_application_follow_ours(form: TextFormat) -> None:
    """They are as prometheus_client writes them, and the whole text is still valid."""
    registry = CollectorRegistry()
    Info("service", "About\nit.", registry=registry).info({"name": '"x"\\'})
    Histogram("order_seconds", "Time.", ["shop"], buckets=[1], registry=registry).labels(
        "größe"
    ).observe(0.5)
    ours, whole = (
        rendered(shop(), form).removesuffix("# EOF\n"),
        rendered(shop(), form, renderer(registry)),
    )
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
def test_a_failing_collector_of_the_application_costs_only_its_own_families(
    form: TextFormat,
) -> None:
    """The error is reported; ours and what was collected before are there, and valid."""
    registry = CollectorRegistry()
    Gauge("stock", "Items.", registry=registry).set(7)
    registry.register(Failing())
    errors: list[Exception] = []
    families = parsed(shop(), form, renderer(registry, errors.append))
    assert [*samples(collected(shop())), Sample("stock", {}, 7)] == samples(families)
    assert ["the database is gone"] == [str(error) for error in errors]


@FORMATS
def test_a_family_that_cannot_be_written_is_reported_and_left_out(form: TextFormat) -> None:
    """A broken sample does not affect the families around it."""
    registry = CollectorRegistry()
    Gauge("before", "Before.", registry=registry)
    Gauge("broken", "Broken.", ["name"], registry=registry).labels("\udc80")
    Gauge("after", "After.", registry=registry)
    errors: list[Exception] = []
    names = {family.name for family in parsed(Snapshot(0), form, renderer(registry, errors.append))}
    assert {"before", "after"} == names - {metric.family for metric in METRICS}
    assert [UnicodeEncodeError] == [type(error) for error in errors]


@FORMATS
def test_our_own_collector_in_the_registry_does_not_double_our_metrics(form: TextFormat) -> None:
    """It is not asked for its samples, and nothing is reported."""
    registry = CollectorRegistry()
    registry.register(
        SnapshotCollector(lambda: pytest.fail("asked for samples that are written already"))
    )
    assert rendered(shop(), form) == rendered(shop(), form, renderer(registry))


@FORMATS
def test_a_metric_of_the_application_with_one_of_our_names_is_left_out_and_reported(
    form: TextFormat,
) -> None:
    """Two families with the same name would fail the whole scrape."""
    registry = CollectorRegistry()
    Gauge("asyncio_tasks", "All tasks.", registry=registry)
    errors: list[Exception] = []
    assert rendered(shop(), form) == rendered(shop(), form, renderer(registry, errors.append))
    assert [
        (
            "the application's registry has a metric 'asyncio_tasks', which aiometrics has too: "
            "rename the application's to export it"
        )
    ] == [str(error) for error in errors]
