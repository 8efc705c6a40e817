"""Quantiles that a real Prometheus computes from our histograms, native and classic."""

from __future__ import annotations

import json
import random
import re
import statistics
import sys
import threading
from bisect import bisect_left
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import cache, partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from math import ceil, exp
from pathlib import Path

import pytest
from support import prometheus_server
from support.samples import FACTS, coroutine, loop, yield_point

from aiometrics.base.clock import SECOND_NS
from aiometrics.base.options import SEGMENT_BUCKETS, WAIT_BUCKETS
from aiometrics.exporter.scrape import ScrapeHandler
from aiometrics.pages.buckets import Buckets, buckets
from aiometrics.pages.layout import STATUSES
from aiometrics.pages.snapshot import Histogram, Snapshot

QUANTILES = (0.5, 0.95, 0.99)
SHAPES, DURATIONS = 300, 2_000
#: Seconds: the medians of segments and of waits are between these, evenly by their logarithm.
MEDIANS = {"segment": (-5, -1), "wait": (-4, 0)}
FEATURE = "native-histograms"


def durations_ns(draw: random.Random, kind: str) -> list[int]:
    """Return durations that are spread like a log-normal distribution, in order."""
    median, sigma = 10 ** draw.uniform(*MEDIANS[kind]), draw.uniform(0.2, 1.5)
    return [round(median * exp(sigma * z) * SECOND_NS) for z in _normal()]


@cache
def _normal() -> list[float]:
    normal = statistics.NormalDist()
    return [normal.inv_cdf((number + 0.5) / DURATIONS) for number in range(DURATIONS)]


def counted(durations: list[int], found: Buckets) -> Histogram:
    """Count durations as a recorder does."""
    words = [sum(durations)] + [0] * (len(found.pieces_ns) + 1)
    for duration in durations:
        words[1 + bisect_left(found.pieces_ns, duration)] += 1
    return found.histogram(words, 1)


@cache
def service() -> tuple[Snapshot, dict[tuple[str, str, float], float]]:
    """Return a snapshot of many shapes, and the true quantiles in seconds by metric and place."""
    draw = random.Random(14)  # noqa: S311 - the same shapes each time
    kinds = {
        kind: buckets(tuple(round(bound * SECOND_NS) for bound in bounds), native=True)
        for kind, bounds in (("segment", SEGMENT_BUCKETS), ("wait", WAIT_BUCKETS))
    }
    points, truth = [], {}
    segments = waits = Histogram((), (0,), 0)
    for number in range(SHAPES):
        place, shapes = f"shop/{number}.py:1 f", {}
        for kind in kinds:
            shapes[kind] = durations_ns(draw, kind)
            for quantile in QUANTILES:
                value_ns = shapes[kind][ceil(quantile * DURATIONS) - 1]
                truth[f"asyncio_{kind}_seconds", place, quantile] = value_ns / SECOND_NS
        segments, waits = (counted(shapes[kind], found) for kind, found in kinds.items())
        points.append(yield_point(place, segments=segments, waits=waits))
    lives = dict.fromkeys(STATUSES, waits)
    return Snapshot(
        0,
        yield_points=tuple(points),
        loops=(replace(loop(start_delay=waits), iterations=segments),),
        coroutines=(coroutine(wall=lives, active=lives),),
    ), truth


@contextmanager
def served(snapshot: Snapshot) -> Iterator[str]:
    """Serve a snapshot as an exporter does, and give the address."""
    scrapes = ScrapeHandler(lambda _: (snapshot, FACTS), None, lambda _: None)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            response = scrapes.answer(self.headers["Accept"])
            self.send_response(response.status)
            self.send_header("Content-Type", response.content_type)
            self.end_headers()
            self.wfile.write(response.body)

        def log_message(self, *_: object) -> None:
            """Write no log."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def _complete(series: list[object]) -> bool:
    return len(series) == SHAPES


def errors(prometheus: prometheus_server.Prometheus, suffix: str) -> dict[str, list[float]]:
    """Return the relative errors of all quantiles that Prometheus computes, by metric."""
    _, truth = service()
    found: dict[str, list[float]] = {}
    for metric in ("asyncio_segment_seconds", "asyncio_wait_seconds"):
        for quantile in QUANTILES:
            query = f"histogram_quantile({quantile}, {metric}{suffix})"
            answer = prometheus.until(_complete, partial(prometheus.ask, query))
            assert SHAPES == len(answer), query
            found.setdefault(metric, []).extend(
                abs(value / truth[metric, labels["yield_point"], quantile] - 1)
                for labels, value in answer
            )
    return found


def heatmaps(root: Path) -> Iterator[str]:
    """Yield the queries of the dashboards' heatmaps of histograms, for all that is scraped."""
    for path in (root / "grafana/dashboards").glob("*.json"):
        for panel in json.loads(path.read_text(encoding="utf-8"))["panels"]:
            for shown in (panel, *panel.get("panels", ())):
                if shown["type"] == "heatmap" and "_bucket{" in shown["targets"][0]["expr"]:
                    query = shown["targets"][0]["expr"].replace("$__rate_interval", "30s")
                    yield re.sub(r"\$\w+", ".*", query)


def summary(found: list[float]) -> tuple[float, float]:
    """Return the median and the 90th percentile."""
    median, ninetieth = statistics.median(found), statistics.quantiles(found, n=10)[-1]
    sys.stdout.write(f"relative error of {len(found)} quantiles: {median:.2%}, {ninetieth:.2%}\n")
    return median, ninetieth


@pytest.mark.once
@pytest.mark.parametrize("directories", [None, "/opt/debian-forky/bin"], ids=["PATH", "forky"])
def test_native_quantiles_are_true_within_three_percent(
    directories: str | None,
    binary: Callable[..., str],
    root: Path,
    tmp_path: Path,
) -> None:
    """Half of them are within one percent; of classic ones, half are off by more than a fifth."""
    program = binary("prometheus", directories)
    version = prometheus_server.version(program)
    both = {"always_scrape_classic_histograms": True} if version >= (3,) else {}
    with (
        served(service()[0]) as address,
        prometheus_server.run_prometheus(
            program,
            root,
            tmp_path,
            {"shop": address},
            FEATURE,
            seconds=120,
            every_ms=3_000,
            scrape=both,
        ) as prometheus,
    ):
        for metric, found in errors(prometheus, "").items():
            median, ninetieth = summary(found)
            assert median < 0.01, metric
            # Prometheus 2 interpolates between the bounds linearly, and 3 exponentially.
            assert ninetieth < (0.03 if version >= (3,) else 0.04), metric
        # Rules record the same series, whichever kind of histogram there is.
        recorded = partial(prometheus.ask, "job_yield_point:asyncio_segment_seconds_sum:rate5m")
        assert SHAPES == len(prometheus.until(_complete, recorded))
        # Heatmaps are drawn from native histograms, which are no values in the answers.
        queries = list(heatmaps(root))
        assert 5 == len(queries)
        for query in queries:
            (series,) = prometheus.get("query", query=query)["result"]
            assert "histogram" in series, query
        if both:
            for metric, found in errors(prometheus, "_bucket").items():
                median, ninetieth = summary(found)
                assert median > 0.2, metric
