"""Writes the exposition as text 0.0.4 or OpenMetrics 1.0, in short slices."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache
from typing import NamedTuple

from aiometrics.base.clock import SECOND_NS
from aiometrics.base.yielding import Pause, no_pause
from aiometrics.exposition.collection import Registry
from aiometrics.exposition.collector import ApplicationMetrics, FormatName
from aiometrics.exposition.constant_labels import ConstantLabels
from aiometrics.exposition.families import (
    Distribution,
    ExporterInfo,
    Row,
    bound_text,
    families,
    seconds,
    split_exemplar,
)
from aiometrics.exposition.metrics import Metric
from aiometrics.exposition.record_families import (
    RECORD_LABELS,
    RecordFamily,
    exemplar_buckets,
    record_families,
)
from aiometrics.pages.layout import Layout
from aiometrics.pages.records import Core, Records
from aiometrics.pages.snapshot import Exemplar, Snapshot, encodable

#: Characters of a slice, which takes about 0.1 ms to write.
_SLICE_CHARACTERS = 32_768
#: Stands for the labels in the template of a row; no number and no name of ours contains it.
_LABELS = "\0"

#: The text of labels, by their values.
_Texts = dict[tuple[str, ...], str]
#: These texts, by the names of the labels.
_Cache = dict[tuple[str, ...], _Texts]


class TextFormat(NamedTuple):
    """A text format: its name, its family header, its end mark, and whether it has exemplars."""

    name: FormatName
    header: Callable[[Metric], str]
    end: bytes
    exemplars: bool


@lru_cache(maxsize=256)
def _text_header(metric: Metric) -> str:
    return f"# HELP {metric.name} {_escape(metric.help)}\n# TYPE {metric.name} {metric.kind}\n"


@lru_cache(maxsize=256)
def _openmetrics_header(metric: Metric) -> str:
    unit = f"# UNIT {metric.family} {metric.unit}\n" if metric.unit else ""
    return (
        f"# HELP {metric.family} {_escape_quoted(metric.help)}\n"
        f"# TYPE {metric.family} {metric.kind}\n{unit}"
    )


TEXT = TextFormat("text", _text_header, b"", exemplars=False)
OPENMETRICS = TextFormat("openmetrics", _openmetrics_header, b"# EOF\n", exemplars=True)
#: The names of the application may be any text.
OPENMETRICS_UTF_8 = TextFormat("openmetrics-utf-8", _openmetrics_header, b"# EOF\n", exemplars=True)


class Renderer:
    """Writes our families, then those of the application's ``registry`` if there is one.

    Several threads may use one renderer at the same time. Errors of the application's collectors go
    to ``on_error``, which must not raise; what could be collected is written. ``pause`` is called
    between two slices.
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
        self._cache: _Cache = {}

    def close(self) -> None:
        """Let the thread end that asks the application's collectors."""
        if self._application is not None:
            self._application.close()

    def slices(
        self,
        snapshot: Snapshot,
        info: ExporterInfo,
        form: TextFormat,
        records: Records | None = None,
    ) -> Iterator[bytes]:
        """Yield the text in UTF-8, in slices that take about 0.1 ms to write.

        A family of the application is one slice, however long it is. What is in ``records``, if
        these are filled, is written without the GIL.
        """
        for part in self._parts(snapshot, info, form, records):
            yield part
            self._pause()
        yield form.end

    def _parts(
        self, snapshot: Snapshot, info: ExporterInfo, form: TextFormat, records: Records | None
    ) -> Iterator[bytes]:
        written = None
        if records is not None and records.filled is not None:
            text, written = _text_of_records(records, *records.filled, form, info.labels)
            yield text
        yield from _joined(self._ours(snapshot, info, form, written))
        if self._application is not None:
            yield from self._application.families(form.name)

    def _ours(
        self, snapshot: Snapshot, info: ExporterInfo, form: TextFormat, written: int | None
    ) -> Iterator[str]:
        used: _Cache = {}
        for metric, rows in families(snapshot, info, written):
            self._pause()
            yield form.header(metric)
            yield from _lines(
                metric,
                rows,
                form,
                self._cache.get(metric.labels, {}),
                used.setdefault(metric.labels, {}),
            )
        # Only the labels of this scrape are kept for the next one. A scrape never changes the cache
        # that others read, so threads need no lock.
        self._cache = used


def _joined(texts: Iterable[str]) -> Iterator[bytes]:
    """Yield ``texts`` in UTF-8, joined into slices of at least ``_SLICE_CHARACTERS``."""
    parts: list[str] = []
    size = 0
    for text in texts:
        parts.append(text)
        size += len(text)
        if size >= _SLICE_CHARACTERS:
            yield "".join(parts).encode()
            parts.clear()
            size = 0
    yield "".join(parts).encode()


def _lines(
    metric: Metric, rows: Iterable[Row], form: TextFormat, known: _Texts, used: _Texts
) -> Iterator[str]:
    single = _template(metric, ())
    for values, shown in rows:
        value, exemplar = split_exemplar(shown)
        labels = used.get(values)
        if labels is None:
            labels = used[values] = known.get(values) or _label_text(metric.labels, values)
        if isinstance(value, Distribution):
            count = value.cumulative[-1]
            lines = _template(metric, value.bounds_seconds) % (
                *value.cumulative,
                count,
                value.sum_seconds,
            )
        else:
            lines = single % value
        lines = lines.replace(_LABELS, labels)
        yield (
            lines
            if exemplar is None or not form.exemplars
            else _with_exemplar(lines, value, exemplar)
        )


def _with_exemplar(lines: str, value: float | Distribution, exemplar: Exemplar) -> str:
    """Return the lines of a row with the exemplar after its bucket, or after the only line."""
    value_seconds = seconds(exemplar.value_ns)
    line_number = value.bucket(value_seconds) if isinstance(value, Distribution) else 0
    split_lines = lines.split("\n")
    split_lines[line_number] += _exemplar_text(exemplar)
    return "\n".join(split_lines)


def _exemplar_text(exemplar: Exemplar) -> str:
    whole, ns = divmod(exemplar.unix_ns, SECOND_NS)
    labels = _label_text(*zip(*exemplar.labels, strict=True))
    return f" # {{{labels}}} {seconds(exemplar.value_ns)!r} {whole}.{ns:09}"


def _text_of_records(
    records: Records, core: Core, layout: Layout, form: TextFormat, labels: ConstantLabels
) -> tuple[bytes, int]:
    """Return the families of records as text, and how many samples they have."""
    exemplars = exemplar_buckets(records, layout) if form.exemplars else ()
    return core.text(
        _described(layout, form, labels),
        tuple(map(_described_labels, RECORD_LABELS)),
        tuple((bucket, _exemplar_text(exemplar).encode()) for bucket, exemplar in exemplars),
    )


@lru_cache(maxsize=8)
def _described(layout: Layout, form: TextFormat, labels: ConstantLabels) -> tuple[object, ...]:
    """Return the families of records as the C core reads them."""
    return tuple(
        (
            form.header(family.metric).encode(),
            family.table,
            family.group,
            family.number,
            0,
            family.exemplars,
            tuple(
                (word, b"", _described_lines(family, layout, (*more, *labels.of_series)))
                for word, more in family.rows
            ),
        )
        for family in record_families(layout)
    )


def _described_lines(
    family: RecordFamily, layout: Layout, labels: tuple[tuple[str, str], ...]
) -> bytes:
    """Return the lines of a row without their numbers; the first NUL of each is for its labels.

    As one object, because reading thousands of them takes long where no cache has them.
    """
    more = "".join("," + _label_text((name,), (value,)) for name, value in labels)
    lines = _template(family.metric, family.bounds_seconds(layout)).splitlines()
    return "".join(
        line.rpartition("%")[0].replace(_LABELS, _LABELS + more) + "\n" for line in lines
    ).encode()


def _described_labels(names: tuple[str, ...]) -> tuple[bytes, ...]:
    """Return what precedes the value of each label."""
    first, *others = (f'{name}="' for name in names)
    return (first.encode(), *(f'",{name}'.encode() for name in others))


@lru_cache(maxsize=256)
def _template(metric: Metric, bounds_seconds: tuple[float, ...]) -> str:
    """Return the lines of a row, with ``_LABELS`` and placeholders for the numbers."""
    braces = f"{{{_LABELS}}}" if metric.labels else ""
    if metric.kind != "histogram":
        return f"{metric.name}{braces} %r\n"
    comma = "," if metric.labels else ""
    buckets = (
        f'{metric.name}_bucket{{{_LABELS}{comma}le="{bound_text(bound)}"}} %d\n'
        for bound in (*bounds_seconds, math.inf)
    )
    return f"{''.join(buckets)}{metric.name}_count{braces} %d\n{metric.name}_sum{braces} %r\n"


def _label_text(names: tuple[str, ...], values: tuple[str, ...]) -> str:
    return ",".join(
        f'{name}="{_escape_quoted(encodable(value))}"'
        for name, value in zip(names, values, strict=True)
    )


def _escape(text: str) -> str:
    return text.replace("\\", r"\\").replace("\n", r"\n")


def _escape_quoted(text: str) -> str:
    return _escape(text).replace('"', r"\"")
