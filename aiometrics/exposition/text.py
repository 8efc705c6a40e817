"""Writes the exposition as text 0.0.4 or OpenMetrics 1.0, in short slices."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache

from aiometrics.base.clock import SECOND_NS
from aiometrics.base.yielding import Pause, no_pause
from aiometrics.exposition.collection import Registry
from aiometrics.exposition.collector import ApplicationMetrics, FormatName
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
from aiometrics.pages.snapshot import Exemplar, Snapshot, encodable

#: Characters of a slice, which takes about 0.1 ms to write.
_SLICE_CHARACTERS = 32_768
#: Stands for the labels in the template of a row; no number and no name of ours contains it.
_LABELS = "\0"

#: The text of labels, by their values.
_Texts = dict[tuple[str, ...], str]
#: These texts, by the names of the labels.
_Cache = dict[tuple[str, ...], _Texts]


@dataclass(frozen=True, slots=True)
class TextFormat:
    """A text format: its name, its family header, its end mark, and whether it has exemplars."""

    name: FormatName
    header: Callable[[Metric], str]
    end: bytes
    exemplars: bool


def _text_header(metric: Metric) -> str:
    return f"# HELP {metric.name} {_escape(metric.help)}\n# TYPE {metric.name} {metric.kind}\n"


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

    def slices(self, snapshot: Snapshot, info: ExporterInfo, form: TextFormat) -> Iterator[bytes]:
        """Yield the text in UTF-8, in slices that take about 0.1 ms to write.

        A family of the application is one slice, however long it is.
        """
        for part in self._parts(snapshot, info, form):
            yield part
            self._pause()
        yield form.end

    def _parts(self, snapshot: Snapshot, info: ExporterInfo, form: TextFormat) -> Iterator[bytes]:
        yield from _joined(self._ours(snapshot, info, form))
        if self._application is not None:
            yield from self._application.families(form.name)

    def _ours(self, snapshot: Snapshot, info: ExporterInfo, form: TextFormat) -> Iterator[str]:
        used: _Cache = {}
        for metric, rows in families(snapshot, info):
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
    whole, ns = divmod(exemplar.unix_ns, SECOND_NS)
    split_lines = lines.split("\n")
    labels = _label_text(*zip(*exemplar.labels, strict=True))
    split_lines[line_number] += f" # {{{labels}}} {value_seconds!r} {whole}.{ns:09}"
    return "\n".join(split_lines)


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
