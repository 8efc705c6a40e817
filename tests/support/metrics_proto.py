"""The messages of client_model's ``metrics.proto``, for the ``protobuf`` package."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from google.protobuf.internal.decoder import _DecodeVarint32  # type: ignore[attr-defined]  # not in its stubs
from prometheus_client.samples import Sample

from support.protobuf_messages import message_class

_PACKAGE = "io.prometheus.client"
_MESSAGES = {
    "LabelPair": {"name": (1, "string"), "value": (2, "string")},
    "Timestamp": {"seconds": (1, "int64"), "nanos": (2, "int32")},
    "Exemplar": {"label": (1, "*LabelPair"), "value": (2, "double"), "timestamp": (3, "Timestamp")},
    "Gauge": {"value": (1, "double")},
    "Counter": {"value": (1, "double"), "exemplar": (2, "Exemplar")},
    "Quantile": {"quantile": (1, "double"), "value": (2, "double")},
    "Summary": {
        "sample_count": (1, "uint64"),
        "sample_sum": (2, "double"),
        "quantile": (3, "*Quantile"),
    },
    "Untyped": {"value": (1, "double")},
    "Bucket": {
        "cumulative_count": (1, "uint64"),
        "upper_bound": (2, "double"),
        "exemplar": (3, "Exemplar"),
    },
    "BucketSpan": {"offset": (1, "sint32"), "length": (2, "uint32")},
    "Histogram": {
        "sample_count": (1, "uint64"),
        "sample_sum": (2, "double"),
        "bucket": (3, "*Bucket"),
        "schema": (5, "sint32"),
        "zero_threshold": (6, "double"),
        "zero_count": (7, "uint64"),
        "negative_span": (9, "*BucketSpan"),
        "negative_delta": (10, "*sint64"),
        "positive_span": (12, "*BucketSpan"),
        "positive_delta": (13, "*sint64"),
        "exemplars": (16, "*Exemplar"),
    },
    "Metric": {
        "label": (1, "*LabelPair"),
        "gauge": (2, "Gauge"),
        "counter": (3, "Counter"),
        "summary": (4, "Summary"),
        "untyped": (5, "Untyped"),
        "timestamp_ms": (6, "int64"),
        "histogram": (7, "Histogram"),
    },
    "MetricFamily": {
        "name": (1, "string"),
        "help": (2, "string"),
        "type": (3, "int32"),
        "metric": (4, "*Metric"),
        "unit": (5, "string"),
    },
}
TYPES = ("counter", "gauge", "summary", "untyped", "histogram")


MetricFamily = message_class(_PACKAGE, _MESSAGES, "MetricFamily")


def families(data: bytes) -> Iterator[Any]:
    """Yield the messages of delimited protobuf. Unknown fields are an error."""
    place = 0
    while place < len(data):
        length, place = _DecodeVarint32(data, place)
        family = MetricFamily.FromString(data[place : place + length])
        known = MetricFamily.FromString(data[place : place + length])
        known.DiscardUnknownFields()
        assert family == known
        place += length
        yield family
    assert place == len(data)


def samples(family: Any) -> Iterator[Sample]:
    """Yield the samples that Prometheus makes of a family with classic buckets."""
    kind = TYPES[family.type]
    for metric in family.metric:
        labels = {pair.name: pair.value for pair in metric.label}
        if kind == "histogram":
            yield from _histogram_samples(family.name, labels, metric.histogram)
        elif kind == "summary":
            for found in metric.summary.quantile:
                quantile = {**labels, "quantile": str(found.quantile)}
                yield Sample(family.name, quantile, found.value)
            yield Sample(f"{family.name}_count", labels, metric.summary.sample_count)
            yield Sample(f"{family.name}_sum", labels, metric.summary.sample_sum)
        else:
            yield Sample(family.name, labels, getattr(metric, kind).value)


def _histogram_samples(name: str, labels: dict[str, str], histogram: Any) -> Iterator[Sample]:
    for bucket in histogram.bucket:
        yield Sample(
            f"{name}_bucket", {**labels, "le": bucket.upper_bound}, bucket.cumulative_count
        )
    yield Sample(f"{name}_count", labels, histogram.sample_count)
    yield Sample(f"{name}_sum", labels, histogram.sample_sum)


def native_counts(histogram: Any) -> dict[int, int]:
    """Return the counts of the buckets of a native histogram by index."""
    counts: dict[int, int] = {}
    deltas = iter(histogram.positive_delta)
    index = count = 0
    for span in histogram.positive_span:
        index += span.offset
        for _ in range(span.length):
            count += next(deltas)
            counts[index] = count
            index += 1
    assert [] == list(deltas)
    return counts
