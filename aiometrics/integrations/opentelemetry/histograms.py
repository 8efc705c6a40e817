"""Our histograms as exponential histograms of OpenTelemetry, which has no observable ones."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any

from opentelemetry.sdk.metrics.export import (
    AggregationTemporality,
    Buckets,
    ExponentialHistogram,
    ExponentialHistogramDataPoint,
    Metric,
    MetricExporter,
    MetricExportResult,
    MetricsData,
    ScopeMetrics,
)
from opentelemetry.sdk.util.instrumentation import InstrumentationScope

from aiometrics.base.internal_errors import InternalErrors
from aiometrics.base.version import __version__
from aiometrics.exporter.session import collected
from aiometrics.exposition.families import Distribution, Row, Source, families, split_exemplar
from aiometrics.pages.buckets import SCHEMA, ZERO_INDEX
from aiometrics.pages.snapshot import encodable

_PROBE = "opentelemetry"
_SCOPE = InstrumentationScope("aiometrics", __version__)
_EMPTY = Buckets(0, [])


class HistogramExporter(MetricExporter):
    """Exports by another exporter, and adds our histograms to what that is given.

    Give it to a ``PeriodicExportingMetricReader`` in place of ``exporter``. The names are those of
    the families, as ``asyncio_segment_seconds``; labels become attributes. Nothing is added without
    ``native_histograms``, nor to a collection that has nothing else, which has no resource.
    """

    def __init__(self, exporter: MetricExporter, *, source: Source = collected) -> None:
        super().__init__(
            exporter._preferred_temporality,  # noqa: SLF001 - its readers ask for it by this name
            exporter._preferred_aggregation,  # noqa: SLF001 - as above
        )
        self._exporter = exporter
        self._source = source
        self._started_ns = time.time_ns()
        self._internal_errors = InternalErrors()

    def export(
        self, metrics_data: MetricsData, timeout_millis: float = 10_000, **kwargs: Any
    ) -> MetricExportResult:
        """Export what was collected, and our histograms. An error of ours costs only the latter."""
        try:
            metrics_data = self._with_ours(metrics_data)
        except Exception as error:  # noqa: BLE001 - never the application's problem
            self._internal_errors.report(_PROBE, error, "histograms are not exported")
        return self._exporter.export(metrics_data, timeout_millis, **kwargs)

    def force_flush(self, timeout_millis: float = 10_000) -> bool:
        """Export what the other exporter holds back."""
        return self._exporter.force_flush(timeout_millis)

    def shutdown(self, timeout_millis: float = 30_000, **kwargs: Any) -> None:
        """Shut the other exporter down."""
        self._exporter.shutdown(timeout_millis, **kwargs)

    def _with_ours(self, data: MetricsData) -> MetricsData:
        if not data.resource_metrics:
            return data
        first, *others = data.resource_metrics
        ours = ScopeMetrics(_SCOPE, list(self._metrics()), "")
        return MetricsData([replace(first, scope_metrics=[*first.scope_metrics, ours]), *others])

    def _metrics(self) -> Iterator[Metric]:
        now_ns = time.time_ns()
        for metric, rows in families(*self._source()):
            points = list(self._points(metric.labels, rows, now_ns))
            if points:
                shown = ExponentialHistogram(points, AggregationTemporality.CUMULATIVE)
                yield Metric(metric.family, metric.help, "s", shown)

    def _points(
        self, names: tuple[str, ...], rows: Iterable[Row], now_ns: int
    ) -> Iterator[ExponentialHistogramDataPoint]:
        for values, shown in rows:
            value, _ = split_exemplar(shown)
            if isinstance(value, Distribution) and value.native is not None:
                labels = dict(zip(names, map(encodable, values), strict=True))
                yield self._point(labels, value, value.native, now_ns)

    def _point(
        self, labels: dict[str, str], value: Distribution, native: Mapping[int, int], now_ns: int
    ) -> ExponentialHistogramDataPoint:
        return ExponentialHistogramDataPoint(
            labels,
            self._started_ns,
            now_ns,
            value.cumulative[-1],
            value.sum_seconds,
            SCHEMA,
            native.get(ZERO_INDEX, 0),
            _positive(native),
            _EMPTY,
            0,
            # No more is known than the bounds of the outermost buckets.
            _bound(min(native, default=ZERO_INDEX) - 1),
            _bound(max(native, default=ZERO_INDEX - 1)),
        )


def _bound(index: int) -> float:
    """Return the bound between bucket ``index`` and the next, in seconds; 0 below the first one."""
    return 2.0 ** (index / 2**SCHEMA) if index >= ZERO_INDEX else 0.0


def _positive(native: Mapping[int, int]) -> Buckets:
    """Return the buckets over the zero bucket. OpenTelemetry numbers them by their lower bound."""
    indexes = native.keys() - {ZERO_INDEX}
    if not indexes:
        return _EMPTY
    first, last = min(indexes), max(indexes)
    return Buckets(first - 1, [native.get(index, 0) for index in range(first, last + 1)])
