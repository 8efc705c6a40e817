"""Our metrics as observable instruments of OpenTelemetry, for programs that push them."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from opentelemetry.metrics import CallbackOptions, MeterProvider, Observation, get_meter

from aiometrics.base.version import __version__
from aiometrics.exporter.session import collected
from aiometrics.exposition.families import (
    Distribution,
    Row,
    Source,
    bound_text,
    families,
    split_exemplar,
)
from aiometrics.exposition.metrics import METRICS, Metric
from aiometrics.pages.snapshot import encodable

_SCOPE = "aiometrics"
#: The units of UCUM.
_UNITS = {"": "", "seconds": "s", "square_seconds": "s2"}


def _buckets(histogram: Distribution) -> Iterator[tuple[float, dict[str, str]]]:
    for bound, count in zip(
        (*histogram.bounds_seconds, math.inf), histogram.cumulative, strict=True
    ):
        yield count, {"le": bound_text(bound)}


#: Returns what an instrument shows of one row: values, each with labels beyond those of the row.
_Part = Callable[[Any], Iterable[tuple[float, dict[str, str]]]]
_SINGLE: dict[str, _Part] = {"": lambda value: [(value, {})]}
_HISTOGRAM: dict[str, _Part] = {
    "_count": lambda histogram: [(histogram.cumulative[-1], {})],
    "_sum": lambda histogram: [(histogram.sum_seconds, {})],
}
_HISTOGRAM_WITH_BUCKETS = _HISTOGRAM | {"_bucket": _buckets}


def observe_metrics(
    meter_provider: MeterProvider | None = None,
    *,
    buckets: bool = False,
    source: Source = collected,
) -> None:
    """Give every metric to OpenTelemetry as an observable counter or gauge.

    Labels become attributes. Names are those of the OpenMetrics families, as
    ``asyncio_blocking_seconds``. OpenTelemetry has no observable histogram: each of ours becomes
    two counters, ``_count`` and ``_sum``, and with ``buckets`` a third, ``_bucket``, with the
    attribute ``le``. All instruments of one collection show one snapshot. The default of
    ``meter_provider`` is the program's global one.

    With a shared directory the snapshot is of all processes: call this in only one of them, or the
    sum of what they push is a multiple.
    """
    meter = get_meter(_SCOPE, __version__, meter_provider)
    rounds = _Rounds(source)
    histogram = _HISTOGRAM_WITH_BUCKETS if buckets else _HISTOGRAM
    for metric in METRICS:
        create = (
            meter.create_observable_gauge
            if metric.kind == "gauge"
            else meter.create_observable_counter
        )
        for suffix, part in (histogram if metric.kind == "histogram" else _SINGLE).items():
            name = f"{metric.family}{suffix}"
            create(
                name, [_callback(rounds, name, metric, part)], _unit(metric, suffix), metric.help
            )


def _unit(metric: Metric, suffix: str) -> str:
    return _UNITS[metric.unit] if suffix in ("", "_sum") else ""


def _callback(
    rounds: _Rounds, name: str, metric: Metric, part: _Part
) -> Callable[[CallbackOptions], Iterator[Observation]]:
    def observe(_: CallbackOptions) -> Iterator[Observation]:
        for values, shown in rounds.rows(name, metric):
            labels = dict(zip(metric.labels, map(encodable, values), strict=True))
            for value, more in part(split_exemplar(shown)[0]):
                yield Observation(value, labels | more)

    return observe


class _Rounds:
    """The rows of one snapshot for all instruments.

    A new round begins when an instrument asks for the second time.
    """

    def __init__(self, source: Source) -> None:
        self._source = source
        self._rows: dict[str, list[Row]] = {}
        self._asked: set[str] = set()
        self._lock = threading.Lock()

    def rows(self, instrument: str, metric: Metric) -> list[Row]:
        """Return the rows of ``metric`` for one instrument. From any thread."""
        with self._lock:
            if not self._rows or instrument in self._asked:
                self._rows = {each.name: list(rows) for each, rows in families(*self._source())}
                self._asked.clear()
            self._asked.add(instrument)
            return self._rows[metric.name]
