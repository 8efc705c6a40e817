"""Exemplars: which samples are kept, their labels, and where they stand in responses."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF
from prometheus_client import CollectorRegistry
from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from support import samples
from support.samples import FACTS, histogram, loop, yield_point

from aiometrics import request
from aiometrics.base.internal_errors import InternalErrors
from aiometrics.exposition.collector import SnapshotCollector
from aiometrics.exposition.text import OPENMETRICS, TEXT, Renderer, TextFormat
from aiometrics.pages.exemplar_table import SEGMENT, WALL, ExemplarTable, Key, decoded
from aiometrics.pages.header import PageError
from aiometrics.pages.layout import ENTRY, MAX_EXEMPLARS, WORD, from_seconds
from aiometrics.pages.merge import merged_requests, merged_yield_points
from aiometrics.pages.page import Page
from aiometrics.pages.reader import PageView, read
from aiometrics.pages.snapshot import Exemplar, RequestType, Snapshot
from aiometrics.requests.exemplars import (
    MAX_CHARACTERS,
    Exemplars,
    current_trace_ids,
    exemplar_labels,
)
from aiometrics.testing import TracedLoop, traced_loop

TRACE = ("0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331")
EXEMPLAR = Exemplar(
    (("request_id", 'REQ-"1"'), ("trace_id", TRACE[0])), 250_000_000, 1_763_856_000_123_456_789
)
SLOW = yield_point(
    segments=histogram(1, 0, 1, sum_ns=251_000_000), blocking_ns=250_000_000, exemplar=EXEMPLAR
)
TEXT_OF_EXEMPLAR = (
    f' # {{request_id="REQ-\\"1\\"",trace_id="{TRACE[0]}"}} 0.25 1763856000.123456789'
)


@pytest.fixture
def traced(implementation: str) -> Iterator[TracedLoop]:
    """A loop in virtual time."""
    with traced_loop(implementation=implementation) as made:
        yield made


def unexpected(error: Exception) -> None:
    """Fail the test: no registry of an application is served here that could fail."""
    raise AssertionError(error)


def page(snapshot: Snapshot, form: TextFormat) -> str:
    """One response as text."""
    return b"".join(
        Renderer(on_error=unexpected, pause=lambda: None).slices(snapshot, FACTS, form)
    ).decode()


def kept(traced: TracedLoop) -> dict[str, Exemplar]:
    """The exemplars by function of their yield point."""
    return {
        point.yield_point.rpartition(".")[2]: point.exemplar
        for point in traced.snapshot().yield_points
        if point.exemplar
    }


def test_the_exemplar_stands_at_its_bucket_and_at_the_counter() -> None:
    """It stands at the bucket of a quarter of a second and at the blocking seconds only."""
    marked = [
        line
        for line in page(Snapshot(0, yield_points=(SLOW,)), OPENMETRICS).splitlines()
        if " # " in line
    ]
    place = (
        'coroutine="shop.orders.handle",yield_point="shop/db.py:42 fetch",awaits="asyncio.sleep"'
    )
    assert [
        f'asyncio_segment_seconds_bucket{{{place},le="1.0"}} 2{TEXT_OF_EXEMPLAR}',
        f"asyncio_blocking_seconds_total{{{place}}} 0.25{TEXT_OF_EXEMPLAR}",
    ] == marked


@pytest.mark.parametrize(
    ("value_ns", "bound"), [(100_000_000, "0.1"), (100_000_001, "1.0"), (9_000_000_000, "+Inf")]
)
def test_which_bucket_a_sample_is_in(value_ns: int, bound: str) -> None:
    """A bound is the last duration of its bucket; longer durations are in the last bucket."""
    slow = replace(SLOW, exemplar=EXEMPLAR._replace(value_ns=value_ns))
    (line,) = (
        line
        for line in page(Snapshot(0, yield_points=(slow,)), OPENMETRICS).splitlines()
        if "_bucket{" in line and " # " in line
    )
    assert f'le="{bound}"' in line


def test_text_has_no_exemplars() -> None:
    """Text 0.0.4 has no exemplars: the response is that of a snapshot without any."""
    assert page(Snapshot(0, yield_points=(replace(SLOW, exemplar=None),)), TEXT) == page(
        Snapshot(0, yield_points=(SLOW,)), TEXT
    )


def test_the_collector_gives_the_same_exemplars() -> None:
    """prometheus_client reads the same from our response as it writes itself."""
    shown = Snapshot(0, yield_points=(SLOW,))
    registry = CollectorRegistry()
    collector = SnapshotCollector(lambda: (shown, FACTS))
    registry.register(collector)
    expected = [sample for family in collector.collect() for sample in family.samples]
    assert 2 == sum(sample.exemplar is not None for sample in expected)
    parsed = parse_openmetrics(page(shown, OPENMETRICS))  # type: ignore[no-untyped-call]
    assert expected == [sample for family in parsed for sample in family.samples]
    assert 2 == generate_openmetrics(registry).decode().count(TEXT_OF_EXEMPLAR)  # type: ignore[no-untyped-call]


@given(request_id=st.none() | st.text(max_size=64), trace=st.none() | st.just(TRACE))
def test_labels_are_never_longer_than_openmetrics_allows(
    request_id: str | None, trace: tuple[str, str] | None
) -> None:
    """The trace always has room; its span is left out if the request id has room only then."""
    labels = dict(exemplar_labels(request_id, trace))
    assert sum(len(name) + len(value) for name, value in labels.items()) <= MAX_CHARACTERS
    assert (trace is not None) == ("trace_id" in labels)
    if request_id is not None and request_id.isascii():
        assert request_id == labels["request_id"]
        assert (trace is not None and len(request_id) <= 55) == ("span_id" in labels)


def test_the_trace_of_the_context_is_found_if_it_is_sampled() -> None:
    """A trace that is not sampled is not found; without a trace nothing is."""
    assert current_trace_ids() is None
    with TracerProvider().get_tracer("test").start_as_current_span("request") as span:
        context = span.get_span_context()
        assert (f"{context.trace_id:032x}", f"{context.span_id:016x}") == current_trace_ids()
    with TracerProvider(sampler=ALWAYS_OFF).get_tracer("test").start_as_current_span("request"):
        assert current_trace_ids() is None


def test_a_blocking_segment_is_kept_with_its_trace(traced: TracedLoop) -> None:
    """Its exemplar has its duration and time, at its yield point; shorter segments have none."""
    tracer = TracerProvider().get_tracer("test")
    contexts: list[trace.SpanContext] = []

    async def slow() -> None:
        traced.clock.advance(0.25)
        await asyncio.sleep(0)

    async def quick() -> None:
        traced.clock.advance(0.0999)
        await asyncio.sleep(0)

    async def main() -> None:
        await quick()
        with tracer.start_as_current_span("request") as span:
            contexts.append(span.get_span_context())
            await quick()
            await slow()

    traced.run(main())
    (context,) = contexts
    ids = f"{context.trace_id:032x}", f"{context.span_id:016x}"
    unix_ns = 1_000_000_000 + 99_900_000 * 2 + 250_000_000
    assert {"slow": Exemplar(exemplar_labels(None, ids), 250_000_000, unix_ns)} == kept(traced)


def test_the_last_exemplar_of_a_place_is_kept(traced: TracedLoop) -> None:
    """Each block replaces the one before at the same place."""
    tracer = TracerProvider().get_tracer("test")

    async def slow(seconds: float) -> None:
        traced.clock.advance(seconds)
        await asyncio.sleep(0)

    async def main() -> None:
        with tracer.start_as_current_span("request"):
            for seconds in (0.5, 3, 0.2):
                await slow(seconds)

    traced.run(main())
    assert [200_000_000] == [exemplar.value_ns for exemplar in kept(traced).values()]


def test_without_a_trace_nothing_is_kept(traced: TracedLoop) -> None:
    """A sample without a request and a trace has no exemplar."""

    async def main() -> None:
        traced.clock.advance(1)
        await asyncio.sleep(0)

    traced.run(main())
    assert {} == kept(traced)


def test_an_error_of_the_tracer_is_counted_once_and_ends_the_search(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The task goes on, and the tracing of the program is not asked again."""
    asked: list[int] = []

    def broken() -> trace.Span:
        asked.append(1)
        raise RuntimeError("no tracing today")

    monkeypatch.setattr(trace, "get_current_span", broken)
    internal_errors = InternalErrors()
    exemplars = Exemplars(lambda: 0, internal_errors)
    assert [None, None] == [exemplars.of_segment(1), exemplars.of_segment(2)]
    assert ({"exemplars": 1}, [1]) == (internal_errors.counts(), asked)


def test_a_blocking_segment_of_a_request_is_kept_with_its_id(implementation: str) -> None:
    """The id is kept also in a child task of the request, and beside the trace."""

    async def child(traced: TracedLoop) -> None:
        traced.clock.advance(0.5)

    async def main(traced: TracedLoop) -> None:
        with (
            request("GET /", id="REQ-001"),
            TracerProvider().get_tracer("test").start_as_current_span("server"),
        ):
            await asyncio.create_task(child(traced))

    with traced_loop(implementation=implementation) as traced:
        traced.run(main(traced))
        (exemplar,) = kept(traced).values()
    assert ("request_id", "trace_id", "span_id") == tuple(name for name, _ in exemplar.labels)
    assert "REQ-001" == dict(exemplar.labels)["request_id"]


def walls(traced: TracedLoop) -> dict[tuple[str, str], tuple[str, int]]:
    """The exemplars of requests by type and status: id and wall ns."""
    return {
        (entry.request, status): (dict(exemplar.labels)["request_id"], exemplar.value_ns)
        for entry in traced.snapshot().requests
        for status, exemplar in entry.exemplars.items()
    }


async def take(seconds: float, kind: str = "GET /", **options: Any) -> None:
    """A request that waits."""
    with request(kind, **options):
        await asyncio.sleep(seconds)


@pytest.mark.parametrize(
    ("seconds", "options", "expected"),
    [
        (0.1, {}, False),
        (0.2, {}, True),
        (0.2, {"blocking_threshold": 0.3}, False),
        (0.2, {"slow_request": 0.3}, False),
        (0.4, {"slow_request": 0.3}, True),
        (0.2, {"objectives": {"GET /": 0.15}}, True),
        (0.2, {"objectives": {"GET /": 0.2}}, False),
    ],
)
def test_which_requests_are_slow_enough(
    implementation: str,
    seconds: float,
    options: dict[str, Any],
    expected: bool,  # noqa: FBT001 - a case
) -> None:
    """The limit is the objective, else the threshold for slow requests, else that for blocks."""
    with traced_loop(implementation=implementation, **options) as traced:
        traced.run(take(seconds, id="REQ-1"))
        assert expected == bool(walls(traced))


def test_the_last_slow_request_of_each_status_is_kept(implementation: str) -> None:
    """A request that is quick, or has no id, replaces no exemplar."""

    async def fail() -> None:
        with request("GET /", id="bad"):
            await asyncio.sleep(3)
            raise ZeroDivisionError

    async def main() -> None:
        for seconds, number in ((1, 1), (2, 2), (0, 3)):
            await take(seconds, id=number)
        await take(5)
        with pytest.raises(ZeroDivisionError):
            await fail()

    with traced_loop(implementation=implementation) as traced:
        traced.run(main())
        assert {
            ("GET /", "completed"): ("2", 2_000_000_000),
            ("GET /", "failed"): ("bad", 3_000_000_000),
        } == walls(traced)
        page_text = page(traced.snapshot(), OPENMETRICS)
    marked = [
        line.partition(" # ")[::2]
        for line in page_text.splitlines()
        if line.startswith("asyncio_request_wall") and " # " in line
    ]
    assert [
        (
            'asyncio_request_wall_seconds_bucket{request="GET /",status="completed",le="5.0"} 4',
            '{request_id="2"} 2.0 4.000000000',
        ),
        (
            'asyncio_request_wall_seconds_bucket{request="GET /",status="failed",le="5.0"} 1',
            '{request_id="bad"} 3.0 12.000000000',
        ),
    ] == marked


def test_types_without_room_share_an_exemplar(implementation: str) -> None:
    """They share all other numbers too."""

    async def main() -> None:
        for number in range(5):
            await take(1, f"GET /{number}", id=number)

    with traced_loop(implementation=implementation, max_requests=2) as traced:
        traced.run(main())
        assert {"GET /0": "0", "GET /1": "1", "(other)": "4"} == {
            kind: ident for (kind, _), (ident, _) in walls(traced).items()
        }


@pytest.fixture
def page_of_memory() -> Page:
    """A page with room for two of everything."""
    return Page(from_seconds([0.1], [0.1], 2, 2, 2), 100_000_000)


def exemplar(number: int, request_id: str = "REQ") -> Exemplar:
    """The exemplar with that number."""
    return Exemplar(
        (("request_id", request_id), ("trace_id", TRACE[0]), ("span_id", TRACE[1])),
        number,
        1_763_856_000_000_000_000 + number,
    )


def written(page: Page) -> dict[Key, Exemplar]:
    """The exemplars that a page has."""
    table = ExemplarTable(page)
    return dict(decoded(table._text(entry)) for entry in table._entries.values())


def test_a_new_exemplar_replaces_the_oldest_in_a_full_table(page_of_memory: Page) -> None:
    """A page has room for 64; one that is taken again counts as new."""
    table = ExemplarTable(page_of_memory)
    for number in range(MAX_EXEMPLARS):
        table.put(SEGMENT, number, exemplar(number))
    table.put(SEGMENT, 0, exemplar(100))
    table.put(WALL, 1, exemplar(101))
    kept = written(page_of_memory)
    assert MAX_EXEMPLARS == len(kept)
    assert (exemplar(100), exemplar(101)) == (kept[SEGMENT, 0], kept[WALL, 1])
    assert (SEGMENT, 1) not in kept


def test_a_page_that_is_continued_goes_on_with_its_exemplars(page_of_memory: Page) -> None:
    """They keep the order in which they were taken, wherever they stand."""
    table = ExemplarTable(page_of_memory)
    for number in range(10, MAX_EXEMPLARS + 10):
        table.put(SEGMENT, number, exemplar(number))
    table.put(SEGMENT, 10, exemplar(1000))
    ExemplarTable(page_of_memory).put(SEGMENT, 1, exemplar(1001))
    assert {(SEGMENT, 11)} == {
        (SEGMENT, number) for number in range(10, MAX_EXEMPLARS + 10)
    } - written(page_of_memory).keys()


@pytest.mark.parametrize(
    ("request_id", "fits"),
    [
        ("x" * 64, True),
        ("größe " * 10, True),
        ("a b\n - -", True),
        ("", True),
        ("\U0001f600" * 64, False),
    ],
)
def test_any_id_that_fits_comes_back(page_of_memory: Page, request_id: str, *, fits: bool) -> None:
    """An id that would have to be cut is left out."""
    ExemplarTable(page_of_memory).put(WALL + 2, 1, exemplar(1, request_id))
    assert ({(WALL + 2, 1): exemplar(1, request_id)} if fits else {}) == written(page_of_memory)


def test_an_id_that_is_only_a_dash_has_no_exemplar(page_of_memory: Page) -> None:
    """Any client can send that in a header. The page can be read as before."""
    ExemplarTable(page_of_memory).put(WALL, 1, Exemplar((("request_id", "-"),), 1, 1))
    assert {} == written(page_of_memory)
    read(page_of_memory.copy(), 0, 0)


@pytest.mark.parametrize(
    "text",
    ["1", "0 1 2 3 - -", "0 1 2 3 - - -", "x 1 2 3 - - -", "0 -1 2 3 - - -", "0 1 2 ² - - -"],
)
def test_a_page_with_an_invalid_exemplar_is_refused(page_of_memory: Page, text: str) -> None:
    """The reader trusts nothing that is in a page."""
    entry = page_of_memory.layout.exemplars
    start = (entry + len(ENTRY)) * WORD
    page_of_memory.memory[start : start + len(text.encode())] = text.encode()
    page_of_memory.words[entry + ENTRY["length"]] = len(text.encode())
    with pytest.raises(PageError, match="not an exemplar"):
        read(page_of_memory.copy(), 0, 0)


def test_exemplars_stand_in_the_page(implementation: str) -> None:
    """Another process that reads the bytes has them, as has one that continues the page."""

    async def main(traced: TracedLoop) -> None:
        with request("GET /", id="REQ-1"):
            traced.clock.advance(0.5)
            await asyncio.sleep(0)

    with traced_loop(implementation=implementation) as traced:
        traced.run(main(traced))
        (slot,) = traced.instrumentation.slots()
        view = read(bytes(slot.page.memory), 0, 0)
    found = [point.exemplar for point in view.yield_points if point.exemplar] + [
        *view.requests[0].exemplars.values()
    ]
    assert [(("request_id", "REQ-1"),)] * 2 == [mark.labels for mark in found]


def test_of_two_pages_the_newer_exemplar_is_shown() -> None:
    """Loops, or processes, can have records of the same name."""
    views = [
        PageView(
            loop(),
            (),
            (replace(SLOW, exemplar=exemplar(number)),),
            {},
            {},
            0,
            {},
            (request_type(exemplar(number)),),
            (),
            {},
            (),
            (),
            (),
        )
        for number in (2, 3, 1)
    ]
    (point,), (entry,) = merged_yield_points(views), merged_requests(views)
    assert (exemplar(3), exemplar(3)) == (point.exemplar, entry.exemplars["failed"])


def request_type(failed: Exemplar) -> RequestType:
    """A type of requests, one of which was slow and failed."""
    return replace(samples.request(), exemplars={"failed": failed})
