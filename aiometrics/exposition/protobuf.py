"""Writes the exposition as protobuf, the only format that carries native histograms.

The messages are those of ``io.prometheus.client`` (client_model's ``metrics.proto``), each preceded
by its length. A histogram has its classic buckets, too, so that Prometheus can take either.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache

from aiometrics.base.clock import SECOND_NS
from aiometrics.base.yielding import Pause, no_pause
from aiometrics.exposition.collection import Registry
from aiometrics.exposition.collector import ApplicationMetrics
from aiometrics.exposition.constant_labels import ConstantLabels
from aiometrics.exposition.families import (
    Distribution,
    ExporterInfo,
    Value,
    families,
    seconds,
    split_exemplar,
)
from aiometrics.exposition.metrics import Kind
from aiometrics.exposition.protobuf_application import application_families
from aiometrics.exposition.protobuf_messages import (
    HISTOGRAM_FIELD,
    VALUE_FIELD,
    Type,
    head_of_family,
    label_pairs,
    message_of_family,
    single_value,
    timestamp,
)
from aiometrics.exposition.record_families import (
    RECORD_LABELS,
    exemplar_buckets,
    record_families,
    segment_bounds_seconds,
    wait_bounds_seconds,
)
from aiometrics.exposition.wire_format import double, field, integer, signed, string, zigzag
from aiometrics.pages.buckets import SCHEMA, ZERO_INDEX
from aiometrics.pages.layout import Layout
from aiometrics.pages.records import Core, Records
from aiometrics.pages.snapshot import Exemplar, Snapshot

#: Bytes of a slice, which takes about 0.1 ms to write.
_SLICE_BYTES = 8_192


_TYPES: Mapping[Kind, Type] = {
    "counter": Type.COUNTER,
    "gauge": Type.GAUGE,
    "histogram": Type.HISTOGRAM,
}


class ProtobufRenderer:
    """Writes our families, then those of the application's ``registry`` if there is one.

    Arguments are those of :class:`aiometrics.exposition.text.Renderer`.
    """

    def __init__(
        self,
        registry: Registry | None = None,
        *,
        on_error: Callable[[Exception], None],
        pause: Pause = no_pause,
    ) -> None:
        self._application = (
            None if registry is None else ApplicationMetrics(registry, on_error=on_error)
        )
        self._pause = pause

    def close(self) -> None:
        """Let the thread end that asks the application's collectors."""
        if self._application is not None:
            self._application.close()

    def slices(
        self, snapshot: Snapshot, info: ExporterInfo, records: Records | None = None
    ) -> Iterator[bytes]:
        """Yield the messages of all families, one or more at a time, in slices.

        What is in ``records``, if these are filled, is written without the GIL.
        """
        written = None
        if records is not None and records.filled is not None:
            messages, written = _messages_of_records(records, *records.filled, info.labels)
            yield messages
        labels = _Labels()
        for metric, rows in families(snapshot, info, written):
            kind = _TYPES[metric.kind]
            metrics: list[bytes] = []
            size = 0
            for values, shown in rows:
                metrics.append(field(4, labels.of(metric.labels, values) + _value(kind, shown)))
                size += len(metrics[-1])
                if size >= _SLICE_BYTES:
                    size = 0
                    self._pause()
            yield message_of_family(metric.name, metric.help, kind, metrics)
            self._pause()
        if self._application is not None:
            for messages in self._application.written(application_families):
                yield messages
                self._pause()


def _messages_of_records(
    records: Records, core: Core, layout: Layout, labels: ConstantLabels
) -> tuple[bytes, int]:
    """Return the families of records, and how many samples they have."""
    bounds = segment_bounds_seconds(layout), wait_bounds_seconds(layout)
    return core.protobuf(
        _described(layout, labels),
        tuple(tuple(string(1, name) for name in names) for names in RECORD_LABELS),
        tuple(
            (bucket, _exemplar(exemplar)) for bucket, exemplar in exemplar_buckets(records, layout)
        ),
        *(b"".join(_bucket_ends(some)) for some in bounds),
        _ZERO_BUCKET,
    )


@lru_cache(maxsize=8)
def _described(layout: Layout, labels: ConstantLabels) -> tuple[object, ...]:
    """Return the families of records as the C core reads them."""
    return tuple(
        (
            head_of_family(family.metric.name, family.metric.help, _TYPES[family.metric.kind]),
            family.table,
            family.group,
            family.number,
            VALUE_FIELD[_TYPES[family.metric.kind]],
            family.exemplars,
            tuple(
                (word, label_pairs((*more, *labels.of_series)), b"") for word, more in family.rows
            ),
        )
        for family in record_families(layout)
    )


class _Labels:
    """The bytes of labels: the labels of a yield point, for instance, are in many families."""

    def __init__(self) -> None:
        self._known: dict[tuple[tuple[str, ...], tuple[str, ...]], bytes] = {}

    def of(self, names: tuple[str, ...], values: tuple[str, ...]) -> bytes:
        key = names, values
        known = self._known.get(key)
        if known is None:
            known = self._known[key] = label_pairs(zip(names, values, strict=True))
        return known


def _value(kind: Type, shown: Value) -> bytes:
    value, found = split_exemplar(shown)
    exemplar = b"" if found is None else _exemplar(found)
    if isinstance(value, Distribution):
        number = -1 if found is None else value.bucket(seconds(found.value_ns))
        return field(HISTOGRAM_FIELD, _histogram(value, number, exemplar))
    return single_value(kind, value, exemplar)


def _histogram(value: Distribution, exemplar_bucket: int, exemplar: bytes) -> bytes:
    ends = _bucket_ends(value.bounds_seconds)
    parts = [integer(1, value.cumulative[-1]), double(2, value.sum_seconds)]
    for number, (count, end) in enumerate(zip(value.cumulative, ends, strict=True)):
        found = field(3, exemplar) if number == exemplar_bucket else b""
        parts.append(field(3, integer(1, count) + end + found))
    if value.native is not None:
        parts.append(_native(value.native))
        parts.append(field(16, exemplar) if exemplar else b"")
    return b"".join(parts)


@lru_cache(maxsize=64)
def _bucket_ends(bounds_seconds: tuple[float, ...]) -> tuple[bytes, ...]:
    return tuple(double(2, bound) for bound in (*bounds_seconds, math.inf))


def _native(counts: Mapping[int, int]) -> bytes:
    """Return the native buckets: spans of consecutive ones, and the steps between their counts."""
    indexes = sorted(counts.keys() - {ZERO_INDEX})
    spans: list[list[int]] = []
    deltas: list[bytes] = []
    next_index = before = 0
    for index in indexes:
        if index != next_index or not spans:
            spans.append([index - next_index, 0])
        spans[-1][1] += 1
        next_index = index + 1
        deltas.append(zigzag(counts[index] - before))
        before = counts[index]
    return b"".join(
        (
            _ZERO_BUCKET,
            integer(7, counts.get(ZERO_INDEX, 0)),
            *(field(12, signed(1, offset) + integer(2, length)) for offset, length in spans),
            field(13, b"".join(deltas)) if deltas else b"",
        )
    )


def _exemplar(exemplar: Exemplar) -> bytes:
    return (
        label_pairs(exemplar.labels)
        + double(2, seconds(exemplar.value_ns))
        + field(3, timestamp(*divmod(exemplar.unix_ns, SECOND_NS)))
    )


_ZERO_BUCKET = signed(5, SCHEMA) + double(6, 2.0 ** (ZERO_INDEX / 2**SCHEMA))
