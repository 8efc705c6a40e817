"""A simulated fleet of many instances with many yield points, written into a Prometheus.

It goes through the remote-write receiver and consists of the series that the dashboards read.
Buckets of segments and waits, which only the dashboard of a coroutine reads, are written for the
first ``DETAILED`` coroutines of each instance.
"""

from __future__ import annotations

import random
import struct
import urllib.request
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain

SCRAPE_SECONDS = 30
POINTS_PER_COROUTINE = 10
DETAILED = 1
REQUESTS = tuple(f"GET /shop/{number}/{{id}}" for number in range(20))
AWAITED = ("asyncpg.Connection.fetch", "asyncio.sleep", "redis.Client.get", "Future")
SEGMENT_BUCKETS = ("0.0001", "0.001", "0.01", "0.05", "0.1", "0.5", "1.0", "5.0", "+Inf")
WAIT_BUCKETS = ("0.001", "0.01", "0.05", "0.1", "0.5", "1.0", "5.0", "10.0", "60.0", "+Inf")
STATUSES = ("completed", "failed", "cancelled")
#: Number of different sequences of samples; each series gets one of them.
COURSES = 256
BATCH = 4000

Labels = dict[str, str]


@dataclass(frozen=True, slots=True)
class Course:
    """The samples of a counter or gauge, already encoded, since thousands of series share them."""

    encoded: bytes


def varint(number: int) -> bytes:
    """Encode ``number`` as a base-128 varint."""
    found = bytearray()
    while number > 127:
        found.append(number & 127 | 128)
        number >>= 7
    found.append(number)
    return bytes(found)


def field(number: int, content: bytes) -> bytes:
    """Encode a length-delimited protobuf field."""
    return varint(number << 3 | 2) + varint(len(content)) + content


def course(times_ms: Sequence[int], values: Iterable[float]) -> Course:
    """Encode samples as the field ``samples`` of a remote-write time series."""
    return Course(
        b"".join(
            field(2, b"\x09" + struct.pack("<d", value) + b"\x10" + varint(at))
            for at, value in zip(times_ms, values, strict=True)
        )
    )


def snappy(content: bytes) -> bytes:
    """Return ``content`` in Snappy's block format as literals: valid, but not compressed."""
    found = [varint(len(content))]
    for start in range(0, len(content), 65536):
        literal = content[start : start + 65536]
        found.append(b"\xf4" + struct.pack("<H", len(literal) - 1) + literal)
    return b"".join(found)


def series(labels: Mapping[str, str], samples: Course) -> bytes:
    """Encode one time series of a write request."""
    encoded = b"".join(
        field(1, field(1, name.encode()) + field(2, value.encode()))
        for name, value in sorted(labels.items())
    )
    return field(1, encoded + samples.encoded)


def write(url: str, all_series: Iterable[bytes]) -> int:
    """Send the series to the Prometheus at ``url`` and return how many there were.

    Its remote-write receiver must be enabled.
    """
    count, batch = 0, []
    for one in all_series:
        batch.append(one)
        if len(batch) == BATCH:
            _send(url, batch)
            count, batch = count + len(batch), []
    _send(url, batch)
    return count + len(batch)


def _send(url: str, batch: Sequence[bytes]) -> None:
    headers = {
        "Content-Encoding": "snappy",
        "Content-Type": "application/x-protobuf",
        "X-Prometheus-Remote-Write-Version": "0.1.0",
    }
    request = urllib.request.Request(f"{url}/api/v1/write", snappy(b"".join(batch)), headers)  # noqa: S310 - the user names the server
    with urllib.request.urlopen(request, timeout=120):  # noqa: S310
        pass


@dataclass(frozen=True, slots=True)
class Fleet:
    """A fleet of ``instances`` processes with one loop and ``points`` yield points each.

    It was scraped from ``start`` to ``end`` (Unix seconds).
    """

    instances: int
    points: int
    start: int
    end: int

    def all_series(self) -> Iterator[bytes]:
        """Yield all exported series, and what was recorded about loops before the last scrape."""
        times = [at * 1000 for at in range(self.start, self.end + 1, SCRAPE_SECONDS)]
        past = times[:-1]
        chance = random.Random(5)  # noqa: S311 - a load, not a secret
        counters = [
            course(times, counted(chance, len(times), chance.expovariate(20) * SCRAPE_SECONDS))
            for _ in range(COURSES)
        ]
        shares = [course(past, [chance.betavariate(2, 5) for _ in past]) for _ in range(COURSES)]
        alive = [course(times, [float(number)] * len(times)) for number in range(20)]
        since = [
            course(times, [float(self.end - age)] * len(times)) for age in range(1000, 1400, 20)
        ]
        now = course(times, [at / 1000 for at in times])
        for number in range(self.instances):
            base = {
                "job": f"shop-{number % 4}",
                "instance": f"10.0.{number // 250}.{number % 250}:9400",
            }
            yield series(base | {"__name__": "up"}, alive[1])
            yield series(
                base | {"__name__": "aiometrics_build_info", "implementation": "c", "version": "1"},
                alive[1],
            )
            yield series(
                base
                | {"__name__": "asyncio_loop_heartbeat_timestamp_seconds", "loop": "MainThread"},
                now,
            )
            for name in GAUGES:
                yield series(
                    base
                    | {"__name__": name}
                    | ({"loop": "MainThread"} if name.startswith("asyncio_loop") else {}),
                    chance.choice(alive),
                )
            for labels in loop_counters():
                yield series(base | labels, chance.choice(counters))
            for name in RECORDED:
                yield series(base | {"__name__": name, "loop": "MainThread"}, chance.choice(shares))
            for labels in chain(counters_of(self.points), request_counters()):
                yield series(base | labels, chance.choice(counters))
            for labels in chain(gauges_of(self.points), request_gauges()):
                kind = since if "oldest" in labels["__name__"] else alive
                yield series(base | labels, chance.choice(kind))


def counted(chance: random.Random, length: int, mean_step: float) -> Iterator[float]:
    """Yield the values of a counter that rises by about ``mean_step`` at each scrape."""
    value = 0.0
    for _ in range(length):
        value += mean_step * chance.uniform(0.5, 1.5)
        yield value


GAUGES = (
    "aiometrics_errors_total",
    "aiometrics_overflow_total",
    "aiometrics_sample_ratio",
    "aiometrics_scrape_duration_seconds",
    "aiometrics_series",
    "aiometrics_untraced_tasks",
    "asyncio_loop_ready_handles",
    "asyncio_loop_scheduled_timers",
)
#: Series that the rules record about loops; their history is simulated with the rest.
RECORDED = tuple(
    f"job_instance_loop:asyncio_loop_{name}"
    for name in (
        "active_seconds:rate5m",
        "blocking_seconds:rate5m",
        "thread_runqueue_seconds:rate5m",
        "start_delay_seconds:p99_rate5m",
        "iteration_seconds:p99_rate5m",
    )
)


def loop_counters() -> Iterator[Labels]:
    """Yield the labels of the counters and histograms of one loop."""
    loop = {"loop": "MainThread"}
    for state in ("active", "idle"):
        yield {"__name__": "asyncio_loop_time_seconds_total", "state": state} | loop
    for name in (
        "blocking_seconds",
        "thread_cpu_seconds",
        "thread_runqueue_seconds",
        "events",
        "events_waiting",
    ):
        yield {"__name__": f"asyncio_loop_{name}_total"} | loop
    for generation in "012":
        yield {"__name__": "asyncio_loop_gc_pause_seconds_total", "generation": generation} | loop
    yield {"__name__": "asyncio_unhandled_exceptions_total"} | loop
    for number in range(20):
        yield {
            "__name__": "asyncio_block_samples_total",
            "blocked_at": f"shop/blocking.py:{number} hash_password",
        } | loop
    yield from histogram("asyncio_loop_iteration_seconds", loop, SEGMENT_BUCKETS)
    yield from histogram("asyncio_loop_start_delay_seconds", loop, WAIT_BUCKETS)


def histogram(name: str, labels: Labels, bounds: Sequence[str]) -> Iterator[Labels]:
    """Yield the labels of one histogram's series; without ``bounds`` only its sum and count."""
    yield {"__name__": f"{name}_sum"} | labels
    yield {"__name__": f"{name}_count"} | labels
    for bound in bounds:
        yield {"__name__": f"{name}_bucket", "le": bound} | labels


def point_labels(number: int) -> Labels:
    """Return the labels of the yield point ``number``."""
    coroutine, point = divmod(number, POINTS_PER_COROUTINE)
    return {
        "coroutine": f"shop.handlers.Handler{coroutine}.handle_request",
        "yield_point": f"shop/handlers_{coroutine}.py:{10 + point * 7} Handler{coroutine}.step",
        "awaits": AWAITED[number % len(AWAITED)],
    }


def counters_of(points: int) -> Iterator[Labels]:
    """Yield the labels of the counters and histograms of yield points and their coroutines."""
    for number in range(points):
        labels = point_labels(number)
        detailed = number < DETAILED * POINTS_PER_COROUTINE
        yield from histogram("asyncio_segment_seconds", labels, SEGMENT_BUCKETS if detailed else ())
        yield from histogram("asyncio_wait_seconds", labels, WAIT_BUCKETS if detailed else ())
        yield {"__name__": "asyncio_blocking_seconds_total"} | labels
        yield {"__name__": "asyncio_inflicted_wait_seconds_total"} | labels
        yield {
            "__name__": "asyncio_active_sampled_seconds_total",
            "coroutine": labels["coroutine"],
            "held_at": labels["yield_point"],
        }
        if number % POINTS_PER_COROUTINE == 0:
            yield from task_counters({"coroutine": labels["coroutine"]}, detailed=detailed)


def task_counters(labels: Labels, *, detailed: bool) -> Iterator[Labels]:
    """Yield the labels of the counters and histograms of one coroutine's tasks."""
    yield {"__name__": "asyncio_tasks_created_total"} | labels
    yield {"__name__": "asyncio_tasks_destroyed_pending_total"} | labels
    for status in STATUSES:
        ended = labels | {"status": status}
        yield from histogram(
            "asyncio_task_wall_seconds",
            ended,
            WAIT_BUCKETS if detailed or status == "completed" else (),
        )
        yield from histogram("asyncio_task_active_seconds", ended, WAIT_BUCKETS if detailed else ())


def gauges_of(points: int) -> Iterator[Labels]:
    """Yield the labels of the gauges of suspended and live tasks."""
    for number in range(points):
        labels = point_labels(number)
        yield {"__name__": "asyncio_suspended_tasks"} | labels
        yield {"__name__": "asyncio_oldest_suspension_timestamp_seconds"} | labels
        if number % POINTS_PER_COROUTINE == 0:
            yield {"__name__": "asyncio_tasks", "coroutine": labels["coroutine"]}


def request_counters() -> Iterator[Labels]:
    """Yield the labels of the counters and histograms of the types of requests."""
    for labels in ({"request": request} for request in REQUESTS):
        for status in STATUSES:
            yield from histogram(
                "asyncio_request_wall_seconds", labels | {"status": status}, WAIT_BUCKETS
            )
        yield from histogram("asyncio_request_active_seconds", labels, ())
        yield {"__name__": "asyncio_request_background_seconds_total"} | labels
        yield {"__name__": "asyncio_request_objective_violations_total"} | labels
        for awaited in AWAITED:
            yield {"__name__": "asyncio_request_wait_seconds_total", "awaits": awaited} | labels


def request_gauges() -> Iterator[Labels]:
    """Yield the labels of the gauges of requests in progress and objectives."""
    for request in REQUESTS:
        yield {"__name__": "asyncio_requests_in_progress", "request": request}
        yield {"__name__": "asyncio_request_objective_seconds", "request": request}
