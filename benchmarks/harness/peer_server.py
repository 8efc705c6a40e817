"""The server of prometheus_client, to compare ours with."""

from __future__ import annotations

from importlib import import_module
from typing import Any


def prometheus_client_port(facade: Any) -> int:
    """Serve the metrics of aiometrics from it, and return its port."""
    prometheus_client = import_module("prometheus_client")
    registry = prometheus_client.CollectorRegistry()
    registry.register(facade.Collector())
    server, _ = prometheus_client.start_http_server(0, addr="127.0.0.1", registry=registry)
    return int(server.server_port)
