"""The version, in the one place from which the package metadata, the façade and ``aiometrics_build_info`` take it."""

from __future__ import annotations

__version__ = "0.1.0"
