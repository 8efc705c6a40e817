"""Our histograms beside the program's metrics, as its exporter gets them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import (
    AggregationTemporality,
    ExponentialHistogram,
    ExponentialHistogramDataPoint,
    Metric,
    MetricExporter,
    MetricExportResult,
    MetricsData,
    PeriodicExportingMetricReader,
)
from support.samples import FACTS, histogram, loop

from aiometrics.exposition.families import ExporterInfo
from aiometrics.integrations.opentelemetry.histograms import HistogramExporter
from aiometrics.pages.buckets import ZERO_INDEX
from aiometrics.pages.snapshot import Snapshot


class Kept(MetricExporter):
    """An exporter that keeps what it is given."""

    def __init__(self) -> None:
        super().__init__(preferred_temporality={}, preferred_aggregation={})
        self.calls: list[str] = []
        self.metrics: dict[str, Metric] = {}

    def export(
        self,
        metrics_data: MetricsData,
        timeout_millis: float = 10_000,  # noqa: ARG002 - the name that is called
        **_: Any,
    ) -> MetricExportResult:
        """Keep the metrics by name."""
        self.metrics = {
            metric.name: metric
            for resource in metrics_data.resource_metrics
            for scope in resource.scope_metrics
            for metric in scope.metrics
        }
        return MetricExportResult.SUCCESS

    def force_flush(self, timeout_millis: float = 10_000) -> bool:
        """Keep the call."""
        self.calls.append(f"force_flush({timeout_millis})")
        return True

    def shutdown(self, timeout_millis: float = 30_000, **_: Any) -> None:
        """Keep the call."""
        self.calls.append(f"shutdown({timeout_millis})")


def exported(source: Callable[[], tuple[Snapshot, ExporterInfo]]) -> dict[str, Metric]:
    """Return what is exported of a program that counts one thing itself."""
    kept = Kept()
    reader = PeriodicExportingMetricReader(
        HistogramExporter(kept, source=source), export_interval_millis=float("inf")
    )
    provider = MeterProvider(metric_readers=[reader], shutdown_on_exit=False)
    provider.get_meter("application").create_counter("orders").add(1)
    reader.collect()
    provider.shutdown()
    assert "shutdown" in kept.calls[-1]
    return kept.metrics


def point(native: dict[int, int] | None, *counts: int) -> ExponentialHistogramDataPoint | None:
    """Return the exported start delays of a loop with these counts."""
    delays = replace(histogram(*counts, sum_ns=1_500_000_000), native=native)
    metrics = exported(lambda: (Snapshot(0, loops=(loop(start_delay=delays),)), FACTS))
    assert "orders" in metrics
    metric = metrics.get("asyncio_loop_start_delay_seconds")
    if metric is None:
        return None
    assert isinstance(metric.data, ExponentialHistogram)
    assert AggregationTemporality.CUMULATIVE == metric.data.aggregation_temporality
    (found,) = metric.data.data_points
    assert isinstance(found, ExponentialHistogramDataPoint)
    assert {"loop": "MainThread"} == found.attributes
    return found


def test_buckets_are_those_of_opentelemetry() -> None:
    """Scale 2 is schema 2, but bucket i begins at 2**(i/4) s instead of ending there."""
    found = point({ZERO_INDEX: 4, -4: 2, -2: 1}, 7)
    assert found is not None
    assert (7, 1.5, 2, 4) == (found.count, found.sum, found.scale, found.zero_count)
    assert (-5, [2, 0, 1]) == (found.positive.offset, found.positive.bucket_counts)
    assert [] == found.negative.bucket_counts
    assert (0.0, 2**-0.5) == (found.min, found.max)
    assert found.start_time_unix_nano <= found.time_unix_nano


def test_a_histogram_may_be_empty() -> None:
    """Then it has no buckets."""
    found = point({})
    assert found is not None
    assert (0, 0, [], 0.0) == (
        found.count,
        found.zero_count,
        found.positive.bucket_counts,
        found.max,
    )


def test_nothing_is_added_without_native_histograms() -> None:
    """The program's own metrics are exported all the same."""
    assert point(None, 3) is None


def test_an_error_of_ours_costs_only_ours(caplog: pytest.LogCaptureFixture) -> None:
    """It is logged."""

    def source() -> tuple[Snapshot, ExporterInfo]:
        raise RuntimeError("broken")

    assert {"orders"} == exported(source).keys()
    assert "aiometrics: " in caplog.text


def test_other_calls_and_preferences_are_passed_on() -> None:
    """The reader asks the exporter in front."""
    kept = Kept()
    front = HistogramExporter(kept)
    assert front.force_flush(5)
    assert ["force_flush(5)"] == kept.calls
    assert kept._preferred_temporality is front._preferred_temporality
