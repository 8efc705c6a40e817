"""Families of a snapshot: which rows they have, and how the collector gives them to a registry."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Gauge, generate_latest
from support.samples import FACTS, coroutine, histogram, loop, shop, yield_point

from aiometrics.exposition.collector import SnapshotCollector
from aiometrics.exposition.constant_labels import constant_labels
from aiometrics.exposition.families import Distribution, Value, distribution, families, seconds
from aiometrics.exposition.metrics import METRICS
from aiometrics.pages.layout import STATUSES
from aiometrics.pages.snapshot import CALLBACK, Snapshot

SEGMENT_ROWS = {
    "asyncio_segment_seconds",
    "asyncio_blocking_seconds_total",
    "asyncio_inflicted_wait_seconds_total",
    "asyncio_segment_max_seconds",
    "asyncio_segment_square_seconds_total",
}
WAIT_ROWS = {
    "asyncio_wait_seconds",
    "asyncio_suspended_tasks",
    "asyncio_oldest_suspension_timestamp_seconds",
    "asyncio_wait_max_seconds",
    "asyncio_wait_tasks_total",
}


def rows(snapshot: Snapshot) -> dict[str, dict[tuple[str, ...], Value]]:
    """Return the rows of every metric by its name."""
    return {metric.name: dict(found) for metric, found in families(snapshot, FACTS)}


def collector(snapshot: Snapshot) -> SnapshotCollector:
    """Return a collector that always shows ``snapshot``."""
    return SnapshotCollector(lambda: (snapshot, FACTS))


def test_every_metric_has_exactly_one_family() -> None:
    """No family is missing, doubled or unknown, even in an empty snapshot."""
    assert sorted(metric.name for metric in METRICS) == sorted(
        metric.name for metric, _ in families(Snapshot(0), FACTS)
    )


def test_every_row_has_the_labels_and_the_kind_of_value_of_its_metric() -> None:
    """There are as many label values as labels, and distributions for histograms only."""
    facts = FACTS._replace(labels=constant_labels({"service": "shop"}, on_series=False))
    shown = [(metric, list(found)) for metric, found in families(shop(), facts)]
    assert all(found for _, found in shown)
    assert [] == [
        (metric.name, labels)
        for metric, found in shown
        for labels, value in found
        if len(labels) != len(metric.labels)
        or (metric.kind == "histogram") != isinstance(value, Distribution)
    ]


@pytest.mark.parametrize(
    ("place", "expected"),
    [
        ("shop/db.py:42 fetch", SEGMENT_ROWS | WAIT_ROWS),
        ("(other)", SEGMENT_ROWS | WAIT_ROWS),
        ("(return)", SEGMENT_ROWS),
        ("(raise)", SEGMENT_ROWS),
        ("(eager child)", WAIT_ROWS),
        ("(running)", {"asyncio_blocking_seconds_total"}),
    ],
)
def test_which_rows_a_yield_point_has(place: str, expected: set[str]) -> None:
    """A task does not wait where it ends, and no segment ends where an eager child begins.

    Of a segment in progress only the blocking seconds are known.
    """
    point = yield_point(place)
    assert expected == {
        name
        for name, found in rows(Snapshot(0, yield_points=(point,))).items()
        if point.labels in found
    }


@pytest.mark.parametrize(
    ("place", "expected"),
    [
        ("asyncio/streams.py:9 data_received", SEGMENT_ROWS),
        ("(eager child)", WAIT_ROWS),
        ("(running)", {"asyncio_blocking_seconds_total"}),
    ],
)
def test_which_rows_a_callback_has(place: str, expected: set[str]) -> None:
    """It ends without waiting, except for an eager child that it starts."""
    point = yield_point(place, coroutine=CALLBACK)
    assert expected == {
        name
        for name, found in rows(Snapshot(0, yield_points=(point,))).items()
        if point.labels in found
    }


def test_numbers_of_a_yield_point() -> None:
    """Each number has its own metric, in seconds."""
    point = yield_point(
        segments=histogram(1, 2, 0, 4, sum_ns=1_500_000_000),
        waits=histogram(0, 1, sum_ns=2_000_000),
        blocking_ns=3_000_000_000,
        inflicted_wait_ns=4_500_000_000,
        suspended=5,
        oldest_suspension_ns=1_763_856_000_250_000_000,
        segment_max_ns=1_250_000_000,
        wait_max_ns=2_000_000,
        segment_squares_ns2=6_250_000_000_000_000_000,
        wait_tasks=2,
    )
    found = rows(Snapshot(0, yield_points=(point,)))
    assert {
        "asyncio_segment_seconds": Distribution((0.001, 0.1, 1.0), (1, 3, 3, 7), 1.5),
        "asyncio_wait_seconds": Distribution((0.001, 0.1, 1.0), (0, 1, 1, 1), 0.002),
        "asyncio_blocking_seconds_total": 3.0,
        "asyncio_inflicted_wait_seconds_total": 4.5,
        "asyncio_suspended_tasks": 5,
        "asyncio_oldest_suspension_timestamp_seconds": 1_763_856_000.25,
        "asyncio_segment_max_seconds": 1.25,
        "asyncio_wait_max_seconds": 0.002,
        "asyncio_wait_tasks_total": 2,
        "asyncio_segment_square_seconds_total": 6.25,
    } == {name: found[name][point.labels] for name in SEGMENT_ROWS | WAIT_ROWS}


def test_numbers_of_a_coroutine() -> None:
    """Histograms have rows for every status from the start."""
    entry = coroutine(
        "c",
        created=3,
        live=1,
        destroyed_pending=2,
        wall={"failed": histogram(1)},
        active={"cancelled": histogram(0, 2)},
    )
    found = rows(Snapshot(0, coroutines=(entry,)))
    names = (
        "asyncio_tasks_created_total",
        "asyncio_tasks",
        "asyncio_tasks_destroyed_pending_total",
    )
    assert [{("c",): 3}, {("c",): 1}, {("c",): 2}] == [found[name] for name in names]
    assert {("c", status): distribution(entry.wall[status]) for status in STATUSES} == found[
        "asyncio_task_wall_seconds"
    ]
    assert {("c", status): distribution(entry.active[status]) for status in STATUSES} == found[
        "asyncio_task_active_seconds"
    ]


def test_numbers_of_a_loop() -> None:
    """Start delays, blocking seconds and the heartbeat."""
    start_delay = histogram(3, sum_ns=6)
    found = rows(
        Snapshot(
            0,
            loops=(
                loop(
                    "Main",
                    start_delay=start_delay,
                    blocking_ns=1_500_000_000,
                    heartbeat_ns=2_000_000_000,
                ),
            ),
        )
    )
    assert {("Main",): distribution(start_delay)} == found["asyncio_loop_start_delay_seconds"]
    assert {("Main",): 1.5} == found["asyncio_loop_blocking_seconds_total"]
    assert {("Main",): 2.0} == found["asyncio_loop_heartbeat_timestamp_seconds"]


def test_numbers_of_the_exporter_itself() -> None:
    """Version and recorder, the previous scrape, errors and overflows."""
    found = rows(
        Snapshot(0, overflow={"loop": 2}, errors={"http": 1}, untraced_tasks=7, sample_ratio=0.5)
    )
    (build,) = found["aiometrics_build_info"]
    assert ("1.2.3", "python", "descriptors") == build[:3]
    assert {(): 0.0025} == found["aiometrics_scrape_duration_seconds"]
    assert {("loop",): 2} == found["aiometrics_overflow_total"]
    assert {("http",): 1} == found["aiometrics_errors_total"]
    assert {(): 7} == found["aiometrics_untraced_tasks"]
    assert {(): 0.5} == found["aiometrics_sample_ratio"]


@pytest.mark.parametrize("snapshot", [Snapshot(0), shop()], ids=["empty", "shop"])
def test_series_counts_every_sample_of_the_scrape(snapshot: Snapshot) -> None:
    """It counts each bucket, count and sum, and itself."""
    samples = [sample for family in collector(snapshot).collect() for sample in family.samples]
    assert [len(samples)] == [
        sample.value for sample in samples if sample.name == "aiometrics_series"
    ]


@given(ns=st.integers(min_value=0, max_value=2**63))
def test_seconds_are_the_nearest_float(ns: int) -> None:
    """Unix times in ns do not fit into a float, but they are rounded only once."""
    assert float(f"{ns}e-9") == seconds(ns)


def test_registering_does_not_collect() -> None:
    """The registry learns the names from ``describe()``."""
    CollectorRegistry().register(
        SnapshotCollector(lambda: pytest.fail("collected at registration"))
    )


def test_a_clash_of_names_is_found_at_registration() -> None:
    """A registry rejects a metric of the application that has one of our names."""
    registry = CollectorRegistry()
    registry.register(collector(Snapshot(0)))
    with pytest.raises(ValueError, match="asyncio_tasks"):
        Gauge("asyncio_tasks", "All tasks.", registry=registry)


def test_the_collector_describes_what_it_collects() -> None:
    """Names, types, help and units are the same, in any order."""
    described = {
        (family.name, family.type, family.documentation, family.unit)
        for family in collector(Snapshot(0)).describe()
    }
    assert described == {
        (family.name, family.type, family.documentation, family.unit)
        for family in collector(shop()).collect()
    }


def test_each_collection_asks_the_source_again() -> None:
    """Numbers are those of the scrape, not of the registration."""
    lives = iter([1, 2])
    fresh = SnapshotCollector(
        lambda: (Snapshot(0, coroutines=(coroutine("c", live=next(lives)),)), FACTS)
    )
    registry = CollectorRegistry()
    registry.register(fresh)
    assert [1, 2] == [
        registry.get_sample_value("asyncio_tasks", {"coroutine": "c"}) for _ in range(2)
    ]


def test_prometheus_client_can_write_what_the_collector_returns() -> None:
    """It can write awkward names too."""
    registry = CollectorRegistry()
    registry.register(collector(Snapshot(0, coroutines=(coroutine("\udc80 größe\n"),))))
    assert (
        'asyncio_tasks{coroutine="\\\\udc80 größe\\n"} 0.0\n' in generate_latest(registry).decode()
    )
