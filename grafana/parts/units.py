"""Formatting of numbers as Grafana does it, in the units that the dashboards use."""

from __future__ import annotations

import math

TIMES = (
    (86400.0, " day"),
    (3600.0, " hour"),
    (60.0, " min"),
    (1.0, " s"),
    (1e-3, " ms"),
    (1e-6, " µs"),
    (0.0, " ns"),
)
COUNTS = ((1e9, " Bil"), (1e6, " Mil"), (1e3, " K"), (0.0, ""))


def written(value: float, unit: str) -> str:
    """Return ``value`` in ``unit`` with three significant digits, or a dash if it is not a number.

    Units are ``percentunit``, ``s`` and ``cps``; any other is a count.
    """
    if math.isnan(value):
        return "-"
    if unit == "percentunit":
        return f"{digits(100 * value)}%"
    if unit == "s":
        return scaled(value, TIMES, 1e-9) if value else "0 s"
    return scaled(value, COUNTS, 1) + (" c/s" if unit == "cps" else "")


def scaled(value: float, scales: tuple[tuple[float, str], ...], smallest: float) -> str:
    """Return ``value`` in the largest scale that it reaches, at least in units of ``smallest``."""
    limit, name = next((limit, name) for limit, name in scales if abs(value) >= limit)
    return digits(value / (limit or smallest)) + name


def digits(value: float) -> str:
    """Return ``value`` with three significant digits, without trailing zeros."""
    if value == 0 or abs(value) >= 100:
        return f"{value:.0f}"
    places = min(2 - math.floor(math.log10(abs(value))), 6)
    return f"{value:.{places}f}".rstrip("0").rstrip(".")
