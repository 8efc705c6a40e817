"""The bridge to ``prometheus_client``, in both directions.

:class:`SnapshotCollector` shows our metrics in its registries; :class:`ApplicationMetrics` and
:class:`MultiprocessMetrics` read its metrics for our exposition.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import partial
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
_reading_application: ContextVar[bool] = ContextVar("aiometrics_reading_application", default=False)


class Registry(Protocol):
    """A ``CollectorRegistry``, or anything else that gives metric families."""

    def collect(self) -> Iterable[PrometheusMetric]:
        """Return every family with its samples."""


class SnapshotCollector(PrometheusCollector):
    """A ``prometheus_client`` collector of every metric of aiometrics.

    ``source`` returns the snapshot to show and information about the exporter. It is called once
    per scrape, not at registration, and its exceptions reach the caller of :meth:`collect`.
    """

    def __init__(self, source: Source) -> None:
        self._source = source

    def describe(self) -> Iterator[PrometheusMetric]:
        """Return every family without samples, from which a registry finds clashes of names."""
        return map(_empty_family, METRICS)

    def collect(self) -> Iterator[PrometheusMetric]:
        """Return every family with its samples.

        There are none while :class:`ApplicationMetrics` collects, since our exposition has them.
        """
        if _reading_application.get():
            return
        for metric, rows in families(*self._source()):
            yield _family_with_samples(metric, rows)


class MultiprocessMetrics:
    """The metrics of all processes of the application, from ``PROMETHEUS_MULTIPROC_DIR``."""

    def collect(self) -> Iterable[PrometheusMetric]:
        """Return every family with its samples.

        Raises what ``prometheus_client`` raises, such as ``ValueError`` if there is no directory.
        """
        from prometheus_client.multiprocess import MultiProcessCollector  # noqa: PLC0415 - few applications need it

        registry = CollectorRegistry()
        MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
        return registry.collect()


class ApplicationMetrics:
    """The metrics of the application's own ``registry``, as ``prometheus_client`` writes them.

    Errors of its collectors go to ``on_error``, which must not raise. They cost only the families
    that could not be collected or written.
    """

    def __init__(self, registry: Registry, *, on_error: Callable[[Exception], None]) -> None:
        self._registry = registry
        self._on_error = on_error

    def families(self, form: FormatName) -> Iterator[bytes]:
        """Yield the lines of one family after the other, in UTF-8 and without an end mark.

        Families with one of our names are reported and left out.
        """
        return self.written(partial(_lines, form=form))

    def written(self, write: Callable[[PrometheusMetric], bytes]) -> Iterator[bytes]:
        """Yield what ``write`` makes of one family after the other.

        Families with one of our names, and those that cannot be written, are reported and left out.
        """
        for family in self._collected():
            try:
                _check_name(family)
                yield write(family)
            except Exception as error:  # noqa: BLE001 - the application made the family, which can break in any way
                self._on_error(error)

    def collect(self) -> Iterator[PrometheusMetric]:
        """Yield every family that can be written; those with one of our names are left out."""
        for family in self._collected():
            try:
                _check_name(family)
                _lines(family, "text")
            except Exception as error:  # noqa: BLE001 - as above
                self._on_error(error)
            else:
                yield family

    def _collected(self) -> list[PrometheusMetric]:
        found: list[PrometheusMetric] = []
        try:
            with _without_ours():
                found.extend(self._registry.collect())
        except Exception as error:  # noqa: BLE001 - collectors of the application can raise anything
            self._on_error(error)
        return found


@dataclass(frozen=True, slots=True)
class _OneFamily:
    """A registry of one family."""

    family: PrometheusMetric

    def collect(self) -> Iterable[PrometheusMetric]:
        return [self.family]


@contextmanager
def _without_ours() -> Iterator[None]:
    token = _reading_application.set(True)
    try:
        yield
    finally:
        _reading_application.reset(token)


def _check_name(family: PrometheusMetric) -> None:
    if family.name in _OUR_NAMES:
        raise ValueError(
            f"the application's registry has a metric {family.name!r}, which aiometrics has too: "
            f"rename the application's to export it"
        )


def _lines(family: PrometheusMetric, form: FormatName) -> bytes:
    if form == "text":
        return generate_latest(_OneFamily(family))
    text: bytes = generate_openmetrics(_OneFamily(family))  # type: ignore[no-untyped-call]
    return text.removesuffix(b"# EOF\n")


def _empty_family(metric: Metric) -> PrometheusMetric:
    return PrometheusMetric(metric.family, metric.help, metric.kind, metric.unit)


def _family_with_samples(metric: Metric, rows: Iterable[Row]) -> PrometheusMetric:
    family = _empty_family(metric)
    for values, shown in rows:
        value, found = split_exemplar(shown)
        labels = dict(zip(metric.labels, map(encodable, values), strict=True))
        exemplar = None if found is None else _exemplar(found)
        if not isinstance(value, Distribution):
            family.add_sample(metric.name, labels, value, exemplar=exemplar)
            continue
        exemplar_bucket = None if exemplar is None else value.bucket(exemplar.value)
        for number, (bound, count) in enumerate(
            zip((*value.bounds_seconds, math.inf), value.cumulative, strict=True)
        ):
            bucket = {**labels, "le": bound_text(bound)}
            family.add_sample(
                f"{metric.name}_bucket",
                bucket,
                count,
                exemplar=exemplar if number == exemplar_bucket else None,
            )
        family.add_sample(f"{metric.name}_count", labels, value.cumulative[-1])
        family.add_sample(f"{metric.name}_sum", labels, value.sum_seconds)
    return family


def _exemplar(exemplar: Exemplar) -> PrometheusExemplar:
    labels = {name: encodable(value) for name, value in exemplar.labels}
    return PrometheusExemplar(
        labels, seconds(exemplar.value_ns), Timestamp(*divmod(exemplar.unix_ns, SECOND_NS))
    )
