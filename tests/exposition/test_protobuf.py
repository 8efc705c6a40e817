"""The exposition as protobuf, read by the ``protobuf`` package and compared with the text."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import (
    CollectorRegistry,
    Counter,
    Enum,
    Gauge,
    Histogram,
    Info,
    Metric,
    Summary,
    generate_latest,
)
from prometheus_client.parser import text_string_to_metric_families as parse_text
from prometheus_client.samples import Exemplar as PrometheusExemplar
from prometheus_client.samples import Sample, Timestamp
from support import metrics_proto
from support.samples import FACTS, histogram, loop, shop, yield_point

from aiometrics.exposition.metrics import METRICS, SERVICE_INFO
from aiometrics.exposition.protobuf import ProtobufRenderer
from aiometrics.exposition.text import TEXT, Renderer
from aiometrics.pages.buckets import LAST_INDEX, ZERO_INDEX
from aiometrics.pages.snapshot import Exemplar, Snapshot

Key = tuple[str, tuple[tuple[str, str], ...]]


def unexpected(error: Exception) -> None:
    """Fail on an error of the application that the test does not expect."""
    raise AssertionError(error)


def families(
    snapshot: Snapshot,
    registry: CollectorRegistry | None = None,
    on_error: Callable[[Exception], None] = unexpected,
) -> dict[str, Any]:
    """Return the messages of one scrape by name; no name comes twice."""
    writer = ProtobufRenderer(registry, on_error=on_error, pause=lambda: None)
    found = list(metrics_proto.families(b"".join(writer.slices(snapshot, FACTS))))
    names = [family.name for family in found]
    assert len(names) == len(set(names))
    return {family.name: family for family in found}


def keyed(samples: Iterable[Sample]) -> dict[Key, float]:
    """Return values by name and labels; no sample comes twice."""
    listed = list(samples)
    found = {
        (
            s.name,
            tuple(sorted((k, str(float(v)) if k == "le" else v) for k, v in s.labels.items())),
        ): s.value
        for s in listed
    }
    assert len(listed) == len(found)
    return found


def of_protobuf(found: Iterable[Any]) -> dict[Key, float]:
    """Return the samples of messages."""
    return keyed(sample for family in found for sample in metrics_proto.samples(family))


def of_text(text: str) -> dict[Key, float]:
    """Return the samples of a text."""
    return keyed(sample for family in parse_text(text) for sample in family.samples)


def test_protobuf_has_all_that_the_text_has() -> None:
    """Samples are equal, and so are names, help and types of the families that have any."""
    found = families(shop())
    text = b"".join(Renderer(on_error=unexpected).slices(shop(), FACTS, TEXT)).decode()
    assert of_text(text) == of_protobuf(found.values())
    assert SERVICE_INFO.name not in found  # a family without a row is left out
    for metric in (metric for metric in METRICS if metric is not SERVICE_INFO):
        family = found[metric.name]
        assert (metric.help, metric.kind) == (family.help, metrics_proto.TYPES[family.type])


def only(snapshot: Snapshot, name: str) -> Any:
    """Return the histogram of the only metric of a family."""
    (metric,) = families(snapshot)[name].metric
    return metric.histogram


@given(
    st.dictionaries(
        st.integers(ZERO_INDEX, LAST_INDEX), st.integers(1, 2**53), min_size=0, max_size=12
    )
)
def test_native_buckets_are_those_of_the_snapshot(counts: dict[int, int]) -> None:
    """Spans and deltas lead back to the counts, and the zero bucket ends where it must."""
    delays = replace(histogram(sum(counts.values()), sum_ns=1), native=counts)
    found = only(Snapshot(0, loops=(loop(start_delay=delays),)), "asyncio_loop_start_delay_seconds")
    assert (2, 2.0**-20, counts.get(ZERO_INDEX, 0)) == (
        found.schema,
        found.zero_threshold,
        found.zero_count,
    )
    counted = {index: count for index, count in counts.items() if index != ZERO_INDEX}
    assert counted == metrics_proto.native_counts(found)
    assert sum(counts.values()) == found.sample_count
    assert all(span.offset > 0 for span in found.positive_span[1:])


def test_histogram_without_native_buckets_is_classic() -> None:
    """Prometheus recognizes a native histogram by its fields."""
    found = only(Snapshot(0, loops=(loop(),)), "asyncio_loop_start_delay_seconds")
    assert not found.HasField("schema")
    assert not found.HasField("zero_threshold")
    assert 4 == len(found.bucket)


def test_exemplars_are_in_classic_and_in_native_buckets() -> None:
    """An exemplar is in its bucket, in the list of native exemplars, and at a counter."""
    exemplar = Exemplar(
        (("request_id", "a"), ("trace_id", "ü")), 90_000_000, 1_763_856_000_000_000_001
    )
    segments = replace(histogram(0, 1, sum_ns=90_000_000), native={-13: 1})
    point = yield_point(segments=segments, exemplar=exemplar)
    found = families(Snapshot(0, yield_points=(point,)))
    (metric,) = found["asyncio_segment_seconds"].metric
    (blocking,) = found["asyncio_blocking_seconds_total"].metric
    (native,) = metric.histogram.exemplars
    assert [False, True, False, False] == [b.HasField("exemplar") for b in metric.histogram.bucket]
    for one in (metric.histogram.bucket[1].exemplar, native, blocking.counter.exemplar):
        assert [("request_id", "a"), ("trace_id", "ü")] == [(p.name, p.value) for p in one.label]
        assert (0.09, 1_763_856_000, 1) == (one.value, one.timestamp.seconds, one.timestamp.nanos)


def application() -> CollectorRegistry:
    """Return a registry with a metric of every kind, and some that no client would make."""
    registry = CollectorRegistry()
    Counter("orders", 'Orders, "all".\n', ["shop"], registry=registry).labels("größe\n").inc(2)
    Gauge("open_orders", "Open.", registry=registry).set(math.inf)
    Summary("weight", "Weight.", registry=registry).observe(2.5)
    waits = Histogram("queue_seconds", "Queue.", ["q"], buckets=[0.5, 1], registry=registry)
    waits.labels("a").observe(0.7, {"trace_id": "t"})
    waits.labels("b").observe(7)
    Info("build", "Build.", registry=registry).info({"version": "1"})
    Enum("state", "State.", states=["on", "off"], registry=registry)
    odd = [
        Metric("unknown_thing", "", "unknown"),
        Metric("halves", "Counts that are none.", "histogram"),
        Metric("quantiles", "Q.", "summary"),
        Metric("at", "With a time.", "gauge"),
        Metric("größe.größer", "A name in UTF-8.", "gauge"),
    ]
    odd[0].add_sample("unknown_thing", {}, -1.5)
    odd[1].add_sample("halves_bucket", {"le": "1.0"}, 0.5)
    odd[1].add_sample("halves_bucket", {"le": "+Inf"}, 1.5)
    odd[2].add_sample("quantiles", {"quantile": "0.5"}, 4.0)
    odd[2].add_sample("quantiles_count", {}, 3.0)
    odd[2].add_sample("quantiles_sum", {}, 12.0)
    odd[3].add_sample("at", {}, 1.0, timestamp=Timestamp(12, 500_000_000))
    odd[4].add_sample("größe.größer", {"el.ß": "x"}, 1.0)
    registry.register(type("Odd", (), {"collect": lambda _: odd})())
    return registry


def test_metrics_of_the_application_are_those_of_the_text() -> None:
    """Whatever the format is, Prometheus makes the same series of them."""
    registry = application()
    found = families(Snapshot(0), registry)
    ours = {metric.name for metric in METRICS}
    own = [family for name, family in found.items() if name not in ours]
    assert of_text(generate_latest(registry).decode()) == of_protobuf(own)
    kinds = {family.name: metrics_proto.TYPES[family.type] for family in own}
    assert {
        "orders_total": "counter",
        "queue_seconds": "histogram",
        "weight": "summary",
        "quantiles": "summary",
        "unknown_thing": "untyped",
        "build_info": "gauge",
    }.items() <= kinds.items()
    assert 12_500 == found["at"].metric[0].timestamp_ms
    (exemplar,) = (
        bucket.exemplar
        for metric in found["queue_seconds"].metric
        for bucket in metric.histogram.bucket
        if bucket.HasField("exemplar")
    )
    assert [("trace_id", "t", 0.7)] == [(p.name, p.value, exemplar.value) for p in exemplar.label]


@pytest.mark.parametrize("at", [None, 12.5, Timestamp(12, 500_000_000)])
def test_exemplar_of_the_application_has_any_kind_of_time(at: Any) -> None:
    """``prometheus_client`` allows three."""
    family = Metric("hits", "Hits.", "counter")
    family.add_sample("hits_total", {}, 1.0, exemplar=PrometheusExemplar({"a": "b"}, 1.0, at))
    registry = CollectorRegistry()
    registry.register(type("Hits", (), {"collect": lambda _: [family]})())
    found = families(Snapshot(0), registry)["hits_total"].metric[0].counter.exemplar
    expected = (0, 0) if at is None else (12, 500_000_000)
    assert expected == (found.timestamp.seconds, found.timestamp.nanos)


def test_a_family_that_cannot_be_written_costs_only_itself() -> None:
    """So does one with a name of ours; both are reported."""
    broken, clash, good = (
        Metric(name, "", "gauge") for name in ("broken", "asyncio_tasks", "good")
    )
    broken.add_sample("broken", {}, "no number")  # type: ignore[arg-type]  # that is the point
    for family in (clash, good):
        family.add_sample(family.name, {}, 1.0)
    registry = CollectorRegistry()
    registry.register(type("All", (), {"collect": lambda _: [broken, clash, good]})())
    errors: list[Exception] = []
    found = families(Snapshot(0), registry, errors.append)
    assert "good" in found
    assert "broken" not in found
    assert 2 == len(errors)
