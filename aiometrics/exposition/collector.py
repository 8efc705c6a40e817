"""The bridge to ``prometheus_client``, in both directions.

:class:`SnapshotCollector` shows our metrics in its registries; :class:`ApplicationMetrics` and
:class:`MultiprocessMetrics` read its metrics for our exposition.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any, Literal, NamedTuple

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client import Metric as PrometheusMetric
from prometheus_client.metrics_core import METRIC_TYPES
from prometheus_client.openmetrics import exposition as openmetrics
from prometheus_client.registry import Collector as PrometheusCollector
from prometheus_client.samples import Exemplar as PrometheusExemplar
from prometheus_client.samples import Timestamp

from aiometrics.base.clock import SECOND_NS
from aiometrics.base.internal_errors import KnownLimit
from aiometrics.exposition.collection import Collection, Registry, reading_application
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

FormatName = Literal["text", "openmetrics", "openmetrics-utf-8"]

_SUFFIXES = ("", "_bucket", "_count", "_sum", "_total", "_created", "_info", "_gsum", "_gcount")
_OUR_NAMES = frozenset(
    f"{name}{suffix}"
    for metric in METRICS
    for name in (metric.family, metric.name)
    for suffix in (_SUFFIXES if metric.kind == "histogram" else ("",))
)
_LEGACY_NAME = re.compile(r"[a-zA-Z_:][a-zA-Z0-9_:]*")
#: The schemes by which ``prometheus_client`` escapes names; it had none before 0.22.
_UNDERSCORES = getattr(openmetrics, "UNDERSCORES", None)
_UTF_8 = getattr(openmetrics, "ALLOWUTF8", None)


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
        if reading_application():
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
        self._collection = Collection(registry, on_error)
        self._on_error = on_error

    def close(self) -> None:
        """Let the thread end that asks the collectors."""
        self._collection.close()

    def families(self, form: FormatName) -> Iterator[bytes]:
        """Yield the lines of one family after the other, in UTF-8 and without an end mark.

        A family with a name of ours, or of a family before it, would make the whole text invalid:
        it is reported and left out.
        """
        return self.written(partial(_lines, form=form), form)

    def collect(self) -> Iterator[PrometheusMetric]:
        """Yield every family that :meth:`families` writes."""
        return (family for family, _ in self._written(partial(_lines, form="text"), "text"))

    def written(
        self, write: Callable[[PrometheusMetric], bytes], form: FormatName = "text"
    ) -> Iterator[bytes]:
        """Yield what ``write`` makes of one family after the other.

        Families whose names are taken when they are written as in ``form``, and those that cannot
        be written, are reported and left out.
        """
        return (lines for _, lines in self._written(write, form))

    def _written(
        self, write: Callable[[PrometheusMetric], bytes], form: FormatName
    ) -> Iterator[tuple[PrometheusMetric, bytes]]:
        taken: set[str] = set()
        for family in self._collection.collect():
            try:
                _check_samples(family)
                names, lines = _names(family, form), write(family)
                _check_names(names, taken)
            except Exception as error:  # noqa: BLE001 - the application made the family, which can break in any way
                self._on_error(error)
                continue
            except BaseException as error:  # noqa: BLE001 - as above: a value may raise SystemExit
                self._on_error(RuntimeError(f"writing the family raised {error!r}"))
                continue
            taken |= names
            yield family, lines


class _OneFamily(NamedTuple):
    """A registry of one family."""

    family: PrometheusMetric

    def collect(self) -> Iterable[PrometheusMetric]:
        return [self.family]


def _escaped(name: str, form: FormatName) -> str:
    """Return a name as it is written."""
    if _UTF_8 is None or form == "openmetrics-utf-8" or _LEGACY_NAME.fullmatch(name):
        return name
    escape: Any = openmetrics.escape_metric_name
    return str(escape(name, _UNDERSCORES))


def _names(family: PrometheusMetric, form: FormatName) -> set[str]:
    """Return the names that the lines of a family begin with, and that of the family."""
    written = {family.name, *(sample.name for sample in family.samples)}
    return {_escaped(name, form) for name in written}


def _check_samples(family: PrometheusMetric) -> None:
    """Raise ``ValueError`` or ``TypeError`` for what could be written but not be read."""
    if family.type not in METRIC_TYPES:
        raise ValueError(f"the metric {family.name!r} has the unknown type {family.type!r}")
    for sample in family.samples:
        float(sample.value)
        if any("\n" in name for name in (sample.name, *sample.labels)):
            raise ValueError(f"a name must be one line, but this one is not: {sample!r}")


def _check_names(names: set[str], taken: set[str]) -> None:
    """Raise ``KnownLimit`` if one of ``names`` has another family already."""
    for name in sorted(names & _OUR_NAMES):
        raise KnownLimit(
            f"the application's registry has a metric {name!r}, which aiometrics has too: "
            "rename the application's to export it"
        )
    for name in sorted(names & taken):
        raise KnownLimit(
            f"the application's registry has two metrics that are written as {name!r}: "
            "rename one to export both"
        )


def _lines(family: PrometheusMetric, form: FormatName) -> bytes:
    written = [family.name, *(sample.name for sample in family.samples)]
    labels = {label for sample in family.samples for label in sample.labels}
    # Legacy names need no escaping, but prometheus_client would replace a colon in some lines.
    as_it_is = form == "openmetrics-utf-8" or all(map(_LEGACY_NAME.fullmatch, {*written, *labels}))
    escaping: dict[str, Any] = {"escaping": _UTF_8} if as_it_is and _UTF_8 is not None else {}
    if form == "text":
        return generate_latest(_OneFamily(family), **escaping)
    text: bytes = openmetrics.generate_latest(_OneFamily(family), **escaping)  # type: ignore[no-untyped-call]
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
