"""Labels of the user's own, such as the name of the service: the same for a whole process."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from typing import Any, NamedTuple

from aiometrics.exposition.metrics import METRICS, SERVICE_INFO, Metric

_OURS = {label for metric in METRICS for label in metric.labels} | {"le", "quantile"}


class ConstantLabels(NamedTuple):
    """Names and values of labels, in the order in which they are written after those of a row.

    They are those of ``aiometrics_service_info``, and ``on_series`` those of all series.
    """

    names: tuple[str, ...] = ()
    values: tuple[str, ...] = ()
    on_series: bool = False

    def info(self) -> Iterator[tuple[tuple[str, ...], int]]:
        """Yield the row of the information, if there is any."""
        if self.names:
            yield (() if self.on_series else self.values), 1

    @property
    def of_series(self) -> tuple[tuple[str, str], ...]:
        """Names and values of the labels that all series have."""
        return tuple(zip(self.names, self.values, strict=True)) if self.on_series else ()

    def metric(self, metric: Metric) -> Metric:
        """Return ``metric`` with the labels that its series have."""
        if not self.names or not (self.on_series or metric is SERVICE_INFO):
            return metric
        return _with_labels(metric, self.names)

    def rows(self, rows: Iterable[tuple[tuple[str, ...], Any]]) -> Iterable[Any]:
        """Return rows with the values that all series have."""
        if not self.names or not self.on_series:
            return rows
        return ((values + self.values, shown) for values, shown in rows)


NO_LABELS = ConstantLabels()


def constant_labels(labels: Mapping[str, str], *, on_series: bool) -> ConstantLabels:
    """Return labels of valid names. Raises ``ValueError`` for one that is a label of ours."""
    for name, value in labels.items():
        if name in _OURS:
            raise ValueError(
                f"labels has {name!r}: {value!r}, but aiometrics has a label {name!r}: "
                f"choose another name, such as 'service_{name}'"
            )
    return ConstantLabels(tuple(labels), tuple(labels.values()), on_series)


@lru_cache(maxsize=256)
def _with_labels(metric: Metric, names: tuple[str, ...]) -> Metric:
    return metric._replace(labels=(*metric.labels, *names))
