"""OpenTelemetry: our metrics as its instruments.

Needs the extra ``aiometrics-exporter[otel]`` and an SDK that the program sets up. Nothing of it is on unless it is called.
"""

from __future__ import annotations

from aiometrics.integrations.opentelemetry.metrics import observe_metrics

__all__ = ["observe_metrics"]
