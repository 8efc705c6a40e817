"""The messages of client_model's ``metrics.proto`` that all families are made of."""

from __future__ import annotations

from collections.abc import Iterable
from enum import IntEnum

from aiometrics.exposition.wire_format import double, field, integer, string, varint
from aiometrics.pages.snapshot import encodable


class Type(IntEnum):
    """Types of families. A metric has its value in a field of the same name."""

    COUNTER = 0
    GAUGE = 1
    SUMMARY = 2
    UNTYPED = 3
    HISTOGRAM = 4


#: Fields of ``Metric``.
SUMMARY_FIELD, HISTOGRAM_FIELD = 4, 7
VALUE_FIELD = {
    Type.GAUGE: 2,
    Type.COUNTER: 3,
    Type.SUMMARY: SUMMARY_FIELD,
    Type.UNTYPED: 5,
    Type.HISTOGRAM: HISTOGRAM_FIELD,
}


def message_of_family(name: str, help_text: str, kind: Type, metrics: Iterable[bytes]) -> bytes:
    """Return a family after its length. One without metrics is left out, as in client_golang."""
    content = b"".join(metrics)
    if not content:
        return b""
    head = head_of_family(name, help_text, kind)
    return varint(len(head) + len(content)) + head + content


def head_of_family(name: str, help_text: str, kind: Type) -> bytes:
    """Return what precedes the metrics of a family."""
    return string(1, name) + string(2, help_text) + integer(3, kind)


def single_value(kind: Type, value: float, exemplar: bytes = b"") -> bytes:
    """Return the value of a metric that has only one; only counters have exemplars."""
    found = field(2, exemplar) if exemplar and kind == Type.COUNTER else b""
    return field(VALUE_FIELD[kind], double(1, value) + found)


def timestamp(whole_seconds: int, ns: int) -> bytes:
    """Return the content of a ``google.protobuf.Timestamp``."""
    return integer(1, whole_seconds) + integer(2, ns)


def label_pairs(labels: Iterable[tuple[str, str]]) -> bytes:
    """Return the labels of a metric or of an exemplar."""
    return b"".join(
        field(1, string(1, name) + string(2, encodable(value))) for name, value in labels
    )
