"""The application's families as protobuf."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from itertools import groupby

from prometheus_client import Metric as PrometheusMetric
from prometheus_client.samples import Exemplar as PrometheusExemplar
from prometheus_client.samples import Sample, Timestamp

from aiometrics.base.clock import SECOND_NS
from aiometrics.exposition.protobuf_messages import (
    HISTOGRAM_FIELD,
    SUMMARY_FIELD,
    Type,
    label_pairs,
    message_of_family,
    single_value,
    timestamp,
)
from aiometrics.exposition.wire_format import double, field, integer

#: Labels without ``le`` or ``quantile``.
_Key = tuple[tuple[str, str], ...]
#: The samples that are parts of one value, and the label that tells the parts apart.
_PARTS = {
    "histogram": (frozenset({"_bucket", "_count", "_sum"}), "le"),
    "summary": (frozenset({"", "_count", "_sum"}), "quantile"),
}
#: What a legacy name cannot have; the text formats write underscores for it, too.
_NOT_IN_METRIC_NAME = re.compile(r"[^a-zA-Z0-9_:]|^[0-9]")
_NOT_IN_LABEL_NAME = re.compile(r"[^a-zA-Z0-9_]|^[0-9]")


def application_families(family: PrometheusMetric) -> bytes:
    """Return the messages of a family, of which Prometheus makes the same series as of the text.

    Samples that are no part of a histogram or a summary have a family of their own, by name.
    """
    return b"".join(_families(family))


def _families(family: PrometheusMetric) -> Iterator[bytes]:
    loose = family.samples
    if family.type in _PARTS:
        suffixes, part = _PARTS[family.type]
        own = {f"{family.name}{suffix}" for suffix in suffixes}
        try:
            composed = _composed([s for s in family.samples if s.name in own], family, part)
        except (ValueError, OverflowError, KeyError):  # counts that no histogram can have
            composed = b""
        yield composed
        loose = [s for s in family.samples if not composed or s.name not in own]
    for name, samples in groupby(sorted(loose, key=_name), key=_name):
        kind = _kind(family, name)
        metrics = (_metric(s, s.labels.items(), _single(kind, s)) for s in samples)
        yield message_of_family(_escaped(name), family.documentation, kind, metrics)


def _name(sample: Sample) -> str:
    return sample.name


def _escaped(name: str) -> str:
    return _NOT_IN_METRIC_NAME.sub("_", name)


def _kind(family: PrometheusMetric, name: str) -> Type:
    if family.type == "counter" and name == f"{family.name}_total":
        return Type.COUNTER
    return Type.UNTYPED if family.type == "unknown" else Type.GAUGE


def _single(kind: Type, sample: Sample) -> bytes:
    return single_value(kind, sample.value, _exemplar(sample.exemplar))


def _composed(samples: Iterable[Sample], family: PrometheusMetric, part: str) -> bytes:
    """Return the histograms or summaries that samples are parts of.

    Raises ``ValueError``, ``OverflowError`` or ``KeyError`` if a part is missing or invalid.
    """
    grouped: dict[_Key, list[Sample]] = {}
    for sample in samples:
        key = tuple(label for label in sample.labels.items() if label[0] != part)
        grouped.setdefault(key, []).append(sample)
    kind, value = (Type.HISTOGRAM, _histogram) if part == "le" else (Type.SUMMARY, _summary)
    metrics = (_metric(s[0], labels, value(family.name, s)) for labels, s in grouped.items())
    return message_of_family(_escaped(family.name), family.documentation, kind, metrics)


def _histogram(name: str, samples: list[Sample]) -> bytes:
    single = {sample.name: sample.value for sample in samples}
    buckets = [sample for sample in samples if sample.name == f"{name}_bucket"]
    return field(
        HISTOGRAM_FIELD,
        b"".join(
            (
                integer(1, _whole(single.get(f"{name}_count", single.get(f"{name}_bucket", 0)))),
                double(2, single.get(f"{name}_sum", 0.0)),
                *map(_bucket, buckets),
            )
        ),
    )


def _bucket(sample: Sample) -> bytes:
    exemplar = _exemplar(sample.exemplar)
    return field(
        3,
        integer(1, _whole(sample.value))
        + double(2, float(sample.labels["le"]))
        + (field(3, exemplar) if exemplar else b""),
    )


def _summary(name: str, samples: list[Sample]) -> bytes:
    single = {sample.name: sample.value for sample in samples}
    quantiles = (sample for sample in samples if sample.name == name)
    return field(
        SUMMARY_FIELD,
        b"".join(
            (
                integer(1, _whole(single[f"{name}_count"])),
                double(2, single[f"{name}_sum"]),
                *(
                    field(3, double(1, float(s.labels["quantile"])) + double(2, s.value))
                    for s in quantiles
                ),
            )
        ),
    )


def _whole(count: float) -> int:
    """Return a count as an integer. Raises ``ValueError`` or ``OverflowError`` if it is none."""
    if count < 0 or count != int(count):
        raise ValueError(f"{count} is not a number of samples")
    return int(count)


def _metric(sample: Sample, labels: Iterable[tuple[str, str]], value: bytes) -> bytes:
    names = ((_NOT_IN_LABEL_NAME.sub("_", name), text) for name, text in labels)
    at = b"" if sample.timestamp is None else integer(6, int(float(sample.timestamp) * 1000))
    return field(4, label_pairs(names) + value + at)


def _exemplar(exemplar: PrometheusExemplar | None) -> bytes:
    """Return the content of an exemplar, or nothing if there is none."""
    if exemplar is None:
        return b""
    at = exemplar.timestamp
    if at is None:
        written = b""
    elif isinstance(at, Timestamp):
        written = field(3, timestamp(at.sec, at.nsec))
    else:
        written = field(3, timestamp(*divmod(round(at * SECOND_NS), SECOND_NS)))
    return label_pairs(exemplar.labels.items()) + double(2, exemplar.value) + written
