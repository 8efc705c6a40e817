"""Both ways between us and ``prometheus_client``: our samples in its registries, and a registry's families on our page."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Literal, Protocol

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client import Metric as PrometheusMetric
from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics
from prometheus_client.registry import Collector as PrometheusCollector
from prometheus_client.samples import Exemplar as PrometheusExemplar
from prometheus_client.samples import Timestamp

from aiometrics.base.clock import SECOND_NS
from aiometrics.exposition.families import (
    Distribution,
    Row,
    Source,
    bound_text,
    families,
    seconds,
    split_exemplar,
)
from aiometrics.exposition.metrics import METRICS, Metric
from aiometrics.pages.snapshot import Exemplar, encodable

FormatName = Literal["text", "openmetrics"]

_OUR_NAMES = frozenset(name for metric in METRICS for name in (metric.family, metric.name))
_muted: ContextVar[bool] = ContextVar("aiometrics_collector_muted", default=False)


class Registry(Protocol):
    """What families are read from: a ``CollectorRegistry``, or a part of one."""

    def collect(self) -> Iterable[PrometheusMetric]:
        """Every family with its samples."""


class SnapshotCollector(PrometheusCollector):
    """A collector of every metric of aiometrics, for ``registry.register(SnapshotCollector(source))``.

    ``source`` gives the snapshot to show and what the exporter says of itself. It is called once per scrape, not at registration;
    what it raises reaches whoever collects.
    """

    def __init__(self, source: Source) -> None:
        self._source = source

    def describe(self) -> Iterator[PrometheusMetric]:
        """Every family without samples: enough for a registry to find clashes of names."""
        return map(_family, METRICS)

    def collect(self) -> Iterator[PrometheusMetric]:
        """Every family with its samples; nothing when an :class:`ApplicationMetrics` asks, whose page has them already."""
        if _muted.get():
            return
        for metric, rows in families(*self._source()):
            yield _filled(metric, rows)


class MultiprocessMetrics:
    """The metrics that all processes of the application left in the directory ``PROMETHEUS_MULTIPROC_DIR``."""

    def collect(self) -> Iterable[PrometheusMetric]:
        """Every family with its samples. Raises what ``prometheus_client`` raises, as ``ValueError`` if the directory is not there."""
        from prometheus_client.multiprocess import MultiProcessCollector  # noqa: PLC0415 - few need it

        registry = CollectorRegistry()
        MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
        return registry.collect()


class ApplicationMetrics:
    """The metrics of the application's own ``registry``, as ``prometheus_client`` writes them.

    What goes wrong in its collectors goes to ``on_error``, which must not raise, and costs the page no more than what they failed to give.
    """

    def __init__(self, registry: Registry, *, on_error: Callable[[Exception], None]) -> None:
        self._registry = registry
        self._on_error = on_error

    def families(self, form: FormatName) -> Iterator[bytes]:
        """The lines of one family after the other, in UTF-8 and without an end of page. Families with one of our names are left out."""
        for family in self._collected():
            try:
                yield _lines(family, form)
            except Exception as error:  # noqa: BLE001 - what the application's collectors made can break in any way
                self._on_error(error)

    def collect(self) -> Iterator[PrometheusMetric]:
        """Every family that can be written. Those with one of our names are left out."""
        for family in self._collected():
            try:
                _lines(family, "text")
            except Exception as error:  # noqa: BLE001 - as above
                self._on_error(error)
            else:
                yield family

    def _collected(self) -> list[PrometheusMetric]:
        found: list[PrometheusMetric] = []
        try:
            with _mute():
                found.extend(self._registry.collect())
        except Exception as error:  # noqa: BLE001 - they can raise anything
            self._on_error(error)
        return found


@dataclass(frozen=True, slots=True)
class _Single:
    """A registry of one family."""

    family: PrometheusMetric

    def collect(self) -> Iterable[PrometheusMetric]:
        return [self.family]


@contextmanager
def _mute() -> Iterator[None]:
    token = _muted.set(True)
    try:
        yield
    finally:
        _muted.reset(token)


def _lines(family: PrometheusMetric, form: FormatName) -> bytes:
    if family.name in _OUR_NAMES:
        raise ValueError(
            f"the application's registry has a metric {family.name!r}, as aiometrics does: rename it to see it on this page"
        )
    if form == "text":
        return generate_latest(_Single(family))
    page: bytes = generate_openmetrics(_Single(family))  # type: ignore[no-untyped-call]
    return page.removesuffix(b"# EOF\n")


def _family(metric: Metric) -> PrometheusMetric:
    return PrometheusMetric(metric.family, metric.help, metric.kind, metric.unit)


def _filled(metric: Metric, rows: Iterable[Row]) -> PrometheusMetric:
    family = _family(metric)
    for values, shown in rows:
        value, found = split_exemplar(shown)
        labels = dict(zip(metric.labels, map(encodable, values), strict=True))
        exemplar = None if found is None else _exemplar(found)
        if not isinstance(value, Distribution):
            family.add_sample(metric.name, labels, value, exemplar=exemplar)
            continue
        marked = None if exemplar is None else value.bucket(exemplar.value)
        for number, (bound, count) in enumerate(
            zip((*value.bounds_seconds, math.inf), value.cumulative, strict=True)
        ):
            bucket = {**labels, "le": bound_text(bound)}
            family.add_sample(
                f"{metric.name}_bucket",
                bucket,
                count,
                exemplar=exemplar if number == marked else None,
            )
        family.add_sample(f"{metric.name}_count", labels, value.cumulative[-1])
        family.add_sample(f"{metric.name}_sum", labels, value.sum_seconds)
    return family


def _exemplar(exemplar: Exemplar) -> PrometheusExemplar:
    labels = {name: encodable(value) for name, value in exemplar.labels}
    return PrometheusExemplar(
        labels, seconds(exemplar.value_ns), Timestamp(*divmod(exemplar.unix_ns, SECOND_NS))
    )
