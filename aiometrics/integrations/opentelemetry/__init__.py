"""OpenTelemetry: our metrics as its instruments, and requests as its spans.

Needs the extra ``aiometrics-exporter[otel]`` and an SDK that the program sets up. Nothing is active
until it is called.
"""

from __future__ import annotations

from aiometrics.integrations.opentelemetry.metrics import observe_metrics
from aiometrics.integrations.opentelemetry.spans import trace_requests

__all__ = ["observe_metrics", "trace_requests"]
