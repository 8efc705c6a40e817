"""Repeated measurements: medians and quartiles, and ratios between what was measured side by side."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Quartiles:
    """The median of some measurements and the quarters around it."""

    low: float
    median: float
    high: float

    def format(self, digits: int) -> str:
        """``median (low-high)``."""
        return f"{self.median:.{digits}f} ({self.low:.{digits}f}-{self.high:.{digits}f})"


def quartiles(values: Sequence[float]) -> Quartiles:
    """Of at least one value."""
    if len(values) == 1:
        return Quartiles(values[0], values[0], values[0])
    low, median, high = statistics.quantiles(values, n=4, method="inclusive")
    return Quartiles(low, median, high)


def ratios(values: Sequence[float], references: Sequence[float]) -> Quartiles:
    """Of values to the references that were measured beside them, one by one: what slows the machine for a while slows both."""
    return quartiles(
        [value / reference for value, reference in zip(values, references, strict=True)]
    )


def percentile(values: Sequence[float], percent: float) -> float:
    """The smallest value that is at least as large as ``percent`` of them."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * percent / 100))]
