"""A real Prometheus that stores exemplars returns the id and the trace of a slow request."""

from __future__ import annotations

import asyncio
import time
import urllib.parse
from collections.abc import Callable
from functools import partial
from pathlib import Path

from opentelemetry.sdk.trace import TracerProvider
from support import prometheus_server

import aiometrics
from aiometrics import request

KIND = "GET /orders/{id}"


async def handler(number: int) -> tuple[str, str]:
    """A request that blocks the loop for longer than it may; the ids of its trace and span."""
    tracer = TracerProvider(shutdown_on_exit=False).get_tracer("application")
    with tracer.start_as_current_span("server") as span, request(KIND, id=f"REQ-{number}"):
        time.sleep(0.002)  # noqa: ASYNC251 - that is the point
        await asyncio.sleep(0)
        context = span.get_span_context()
        return f"{context.trace_id:032x}", f"{context.span_id:016x}"


def test_prometheus_returns_the_exemplars(
    binary: Callable[[str], str], root: Path, tmp_path: Path
) -> None:
    """Exemplars of wall times, segments and blocking seconds lead to the request and its trace."""
    program = binary("prometheus")
    with aiometrics.start_exporter(
        0, "127.0.0.1", registry=None, blocking_threshold=0.001, objectives={KIND: 0.001}
    ) as exporter:
        trace_id, span_id = asyncio.run(handler(1))
        target = {"service": urllib.parse.urlsplit(exporter.url).netloc}
        with prometheus_server.run_prometheus(
            program, root, tmp_path, target, "exemplar-storage", seconds=300
        ) as prometheus:
            now = time.time()

            def exemplars(query: str) -> list[dict[str, str]]:
                found = prometheus.get(
                    "query_exemplars", query=query, start=str(now - 600), end=str(now + 600)
                )
                return [exemplar["labels"] for series in found for exemplar in series["exemplars"]]

            expected = {"request_id": "REQ-1", "trace_id": trace_id, "span_id": span_id}
            for query in (
                f"asyncio_request_wall_seconds_bucket{{request='{KIND}',status='completed'}}",
                "asyncio_segment_seconds_bucket{yield_point=~'.* handler'}",
                "asyncio_blocking_seconds_total{yield_point=~'.* handler'}",
            ):
                assert [expected] == prometheus.until(bool, partial(exemplars, query)), query
