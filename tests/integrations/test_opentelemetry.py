"""Our metrics in OpenTelemetry's own SDK, in memory."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import Gauge, InMemoryMetricReader, Sum
from support.samples import FACTS, coroutine, histogram, loop, shop, yield_point

import aiometrics
from aiometrics.exposition.families import ExporterInfo, Source
from aiometrics.exposition.metrics import METRICS, SERVICE_INFO
from aiometrics.integrations.opentelemetry import observe_metrics
from aiometrics.pages.snapshot import Exemplar, Snapshot

Points = dict[tuple[tuple[str, Any], ...], float]


class Pushed:
    """Our metrics as a program pushes them: by instrument, points by attributes."""

    def __init__(self, **options: Any) -> None:
        self._reader = InMemoryMetricReader()
        observe_metrics(
            MeterProvider(metric_readers=[self._reader], shutdown_on_exit=False), **options
        )

    def collect(self) -> dict[str, Points]:
        """Collect once."""
        return {name: points for name, (_, points) in self.instruments().items()}

    def instruments(self) -> dict[str, tuple[Sum | Gauge, Points]]:
        """Collect once, with the type of data of each instrument."""
        data = self._reader.get_metrics_data()
        assert data is not None
        metrics = [
            metric
            for resource in data.resource_metrics
            for scope in resource.scope_metrics
            for metric in scope.metrics
        ]
        found: dict[str, tuple[Sum | Gauge, Points]] = {}
        for metric in metrics:
            assert isinstance(metric.data, Sum | Gauge)
            points = {
                tuple(dict(point.attributes or {}).items()): point.value
                for point in metric.data.data_points
            }
            found[metric.name] = metric.data, points
        return found


def fixed(snapshot: Snapshot) -> Source:
    """Return a source of always the same numbers."""
    return lambda: (snapshot, FACTS)


def test_every_metric_has_its_instruments() -> None:
    """Counters and gauges have one, histograms a count and a sum, by the name of the family.

    A family without a row has none: there are no labels of the user's own here.
    """
    expected = {
        f"{metric.family}{suffix}"
        for metric in METRICS
        if metric is not SERVICE_INFO
        for suffix in (("_count", "_sum") if metric.kind == "histogram" else ("",))
    }
    assert expected == Pushed(source=fixed(shop())).collect().keys()


def test_counters_are_monotonic_sums_and_gauges_are_gauges() -> None:
    """A backend may compute rates of counters, including those of histograms."""
    found = Pushed(source=fixed(shop())).instruments()
    kinds = {
        name: "gauge" if isinstance(data, Gauge) else ("sum", data.is_monotonic)
        for name, (data, _) in found.items()
    }
    gauges = {metric.family for metric in METRICS if metric.kind == "gauge"}
    assert {name: "gauge" if name in gauges else ("sum", True) for name in found} == kinds


def test_values_carry_their_labels_as_attributes() -> None:
    """Labels are in their usual order, values in seconds."""
    point = yield_point(segments=histogram(2, 1, sum_ns=1_500_000_000), blocking_ns=250_000_000)
    found = Pushed(source=fixed(Snapshot(0, yield_points=(point,)))).collect()
    place = tuple(zip(("coroutine", "yield_point", "awaits"), point.labels, strict=True))
    assert {place: 3} == found["asyncio_segment_seconds_count"]
    assert {place: 1.5} == found["asyncio_segment_seconds_sum"]
    assert {place: 0.25} == found["asyncio_blocking_seconds"]


def test_buckets_are_optional() -> None:
    """They are cumulative, with the same attribute as in Prometheus."""
    delays = histogram(2, 1, 0, 4, sum_ns=1)
    found = Pushed(
        source=fixed(Snapshot(0, loops=(loop(start_delay=delays),))), buckets=True
    ).collect()
    bounds = [("0.001", 2), ("0.1", 3), ("1.0", 3), ("+Inf", 7)]
    assert {(("loop", "MainThread"), ("le", bound)): count for bound, count in bounds} == found[
        "asyncio_loop_start_delay_seconds_bucket"
    ]


def test_one_collection_shows_one_snapshot() -> None:
    """All instruments together ask once; the next collection asks again."""
    taken: list[int] = []

    def source() -> tuple[Snapshot, ExporterInfo]:
        taken.append(len(taken) + 1)
        return Snapshot(0, coroutines=(coroutine("c", live=taken[-1], created=taken[-1]),)), FACTS

    pushed = Pushed(source=source)
    for number in (1, 2, 3):
        found = pushed.collect()
        assert ([number], [number]) == (
            [*found["asyncio_tasks"].values()],
            [*found["asyncio_tasks_created"].values()],
        )
    assert [1, 2, 3] == taken


def test_exemplars_are_left_out() -> None:
    """Observable instruments have no exemplars; the value is the same."""
    plain = shop()
    (first, *rest) = plain.yield_points
    marked = replace(
        plain,
        yield_points=(replace(first, exemplar=Exemplar((("request_id", "REQ-1"),), 1, 2)), *rest),
    )
    assert Pushed(source=fixed(plain)).collect() == Pushed(source=fixed(marked)).collect()


def test_what_the_program_traces_is_pushed() -> None:
    """There is nothing at first, then what the exporter serves: it may be started later."""
    pushed = Pushed()
    assert "asyncio_tasks_created" not in pushed.collect()

    async def main() -> None:
        """Run one task."""

    with aiometrics.start_exporter(port=0, addr="127.0.0.1", registry=None):
        asyncio.run(main())
        found = pushed.collect()["asyncio_tasks_created"]
    assert 1 == found[("coroutine", f"{__name__}.{main.__qualname__}"),]
