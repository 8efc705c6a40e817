"""Statistics of repeated measurements: medians, quartiles, and ratios of paired measurements."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Quartiles:
    """The median and the quartiles of some measurements."""

    low: float
    median: float
    high: float

    def format(self, digits: int) -> str:
        """Return ``median (low-high)``."""
        return f"{self.median:.{digits}f} ({self.low:.{digits}f}-{self.high:.{digits}f})"


def quartiles(values: Sequence[float]) -> Quartiles:
    """Return the quartiles of at least one value."""
    if len(values) == 1:
        return Quartiles(values[0], values[0], values[0])
    low, median, high = statistics.quantiles(values, n=4, method="inclusive")
    return Quartiles(low, median, high)


def ratios(values: Sequence[float], references: Sequence[float]) -> Quartiles:
    """Return the quartiles of the ratios between values and the references measured beside them.

    Pairs are compared because whatever slows down the machine for a while slows down both.
    """
    return quartiles(
        [value / reference for value, reference in zip(values, references, strict=True)]
    )


def percentile(values: Sequence[float], percent: float) -> float:
    """Return the smallest value that is at least as large as ``percent`` per cent of them."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * percent / 100))]
