"""Builders of snapshot values for tests, which only name what they are about."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from aiometrics.exposition.families import ExporterInfo
from aiometrics.pages.layout import SCOPE_ERRORS, STATUSES, Layout
from aiometrics.pages.page import Page
from aiometrics.pages.snapshot import (
    Coroutine,
    Exemplar,
    Held,
    Histogram,
    Loop,
    RequestType,
    RequestWait,
    Snapshot,
    YieldPoint,
)

BOUNDS_NS = (1_000_000, 100_000_000, 1_000_000_000)
FACTS = ExporterInfo(
    version="1.2.3", implementation="python", frames="descriptors", scrape_ns=2_500_000
)


LAYOUT = Layout(
    (1_000, 1_000_000), (2_000, 3_000, 4_000), max_coroutines=3, max_yield_points=4, max_requests=2
)


def page(layout: Layout = LAYOUT, *, blocking_threshold_ns: int = 100, weight: int = 1) -> Page:
    """An empty page that a loop was opened on."""
    made = Page(layout, blocking_threshold_ns=blocking_threshold_ns, weight=weight)
    made.open("MainThread")
    return made


def histogram(*counts: int, sum_ns: int = 0, bounds_ns: tuple[int, ...] = BOUNDS_NS) -> Histogram:
    """A histogram with the given counts, from the first bucket on; those not given are 0."""
    return Histogram(bounds_ns, counts + (0,) * (len(bounds_ns) + 1 - len(counts)), sum_ns)


def yield_point(
    place: str = "shop/db.py:42 fetch",
    *,
    coroutine: str = "shop.orders.handle",
    awaits: str = "asyncio.sleep",
    segments: Histogram | None = None,
    waits: Histogram | None = None,
    blocking_ns: int = 0,
    inflicted_wait_ns: int = 0,
    suspended: int = 0,
    oldest_suspension_ns: int = 0,
    exemplar: Exemplar | None = None,
    segment_max_ns: int = 0,
    wait_max_ns: int = 0,
    segment_squares_ns2: int = 0,
    wait_tasks: int = 0,
) -> YieldPoint:
    """A yield point where nothing has happened yet, except for what is given."""
    segments, waits = segments or histogram(), waits or histogram()
    return YieldPoint(
        coroutine,
        place,
        awaits,
        segments,
        waits,
        blocking_ns,
        inflicted_wait_ns,
        suspended,
        oldest_suspension_ns,
        exemplar,
        segment_max_ns,
        wait_max_ns,
        segment_squares_ns2,
        wait_tasks,
    )


def coroutine(
    name: str = "shop.orders.handle",
    *,
    created: int = 0,
    live: int = 0,
    destroyed_pending: int = 0,
    wall: Mapping[str, Histogram] | None = None,
    active: Mapping[str, Histogram] | None = None,
) -> Coroutine:
    """A coroutine without finished tasks, except for the statuses given."""
    none = dict.fromkeys(STATUSES, histogram())
    return Coroutine(
        name, created, live, destroyed_pending, none | dict(wall or {}), none | dict(active or {})
    )


def request(
    name: str = "GET /orders/{id}",
    *,
    wall: Mapping[str, Histogram] | None = None,
    active: Histogram | None = None,
    background_ns: int = 0,
    in_progress: int = 0,
    objective_ns: int | None = None,
    violations: int = 0,
) -> RequestType:
    """A type of requests without any request yet, except for what is given."""
    walls = dict.fromkeys(STATUSES, histogram()) | dict(wall or {})
    return RequestType(
        name, walls, active or histogram(), background_ns, in_progress, objective_ns, violations
    )


def loop(
    name: str = "MainThread",
    *,
    start_delay: Histogram | None = None,
    blocking_ns: int = 0,
    heartbeat_ns: int = 0,
    active_ns: int = 0,
    idle_ns: int | None = 0,
) -> Loop:
    """An idle loop; with ``idle_ns=None`` its selector cannot be timed."""
    timed = None if idle_ns is None else 0
    return Loop(
        name,
        start_delay or histogram(),
        blocking_ns,
        heartbeat_ns,
        None,
        histogram(),
        active_ns,
        idle_ns,
        timed,
        timed,
    )


def shop() -> Snapshot:
    """A small service with samples in every family, with pseudo yield points and awkward names."""
    busy = histogram(5, 2, 0, 1, sum_ns=1_234_567_891)
    return Snapshot(
        taken_ns=1_763_856_000_123_456_789,
        loops=(
            replace(
                loop(
                    start_delay=histogram(9, 1, sum_ns=12_000_000),
                    blocking_ns=1_100_000_000,
                    heartbeat_ns=1_763_856_000_123_456_789,
                ),
                ready_handles=1,
                scheduled_timers=2,
                thread_cpu_ns=3_000_000_001,
                thread_runqueue_ns=4_000_001,
                gc_pauses_ns=(1_000, 0, 2_000_003),
                unhandled_exceptions=5,
                executor_threads=6,
                executor_queue_items=7,
                block_samples={'shop/"quoted"\\größe.py:7 f > re.match': 8},
            ),
        ),
        held=(Held("shop.orders.handle", "shop/report.py:9 build > json.loads", 12, 125_000_000),),
        coroutines=(
            coroutine(
                created=9,
                live=1,
                destroyed_pending=1,
                wall={"completed": busy},
                active={"failed": histogram(1, sum_ns=7)},
            ),
            coroutine('shop."quoted"\\path\nline {brace}, größe'),
        ),
        yield_points=(
            yield_point(
                segments=busy,
                waits=histogram(0, 3, sum_ns=90_000_000),
                blocking_ns=1_100_000_000,
                inflicted_wait_ns=3_300_000_000,
                suspended=2,
                oldest_suspension_ns=1_763_855_999_000_000_001,
                segment_max_ns=1_000_000_001,
                wait_max_ns=40_000_000,
                segment_squares_ns2=1_000_000_002_000_000_001,
                wait_tasks=3,
            ),
            yield_point("(return)", awaits="", segments=busy),
            yield_point("(raise)", awaits="", segments=histogram(1, sum_ns=10)),
            yield_point("(eager child)", awaits="", waits=histogram(1, sum_ns=11)),
            yield_point("(running)", awaits="", blocking_ns=400_000_000),
            yield_point(
                'shop/"quoted"\\größe.py:1 f\nx',
                coroutine='shop."quoted"\\path\nline {brace}, größe',
                awaits="# EOF",
            ),
        ),
        requests=(
            request(
                wall={"completed": busy},
                active=busy,
                background_ns=1,
                in_progress=2,
                objective_ns=250_000_000,
                violations=3,
            ),
            request('POST "größe"\\\n'),
        ),
        request_waits=(
            RequestWait("GET /orders/{id}", "asyncio.sleep", 90_000_001),
            RequestWait("GET /orders/{id}", "# EOF", 0),
        ),
        scope_errors={**dict.fromkeys(SCOPE_ERRORS, 0), "abandoned": 1, "outside_loop": 2},
        overflow={
            "coroutine": 0,
            "yield_point": 3,
            "request": 0,
            "request_wait": 0,
            "string": 0,
            "loop": 0,
        },
        errors={"recorder": 1},
        records={
            ("slow_request", "written"): 6,
            ("slow_request", "dropped"): 1,
            ("trace", "written"): 0,
            ("trace", "dropped"): 0,
        },
        untraced_tasks=4,
        sample_ratio=0.25,
        skipped_pages={"damaged": 1, "foreign": 0},
    )
