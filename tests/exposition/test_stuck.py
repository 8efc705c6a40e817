"""The same tasks are stuck for the alert, the live page and ``top``."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from support.samples import coroutine, histogram, yield_point

from aiometrics.exposition import stuck
from aiometrics.exposition.stuck import Judge
from aiometrics.pages.snapshot import OTHER, SegmentPath, Snapshot, YieldPoint

S = 1_000_000_000
NOW = 1_000 * S
HANDLE = "shop.orders.handle"


def waiting(
    age_ns: int = 30 * S, *, waits: int = 100, longest_ns: int = S, awaits: str = "Future"
) -> YieldPoint:
    """Return a yield point where waits of one second ended, and a task has waited for longer."""
    return yield_point(
        coroutine=HANDLE,
        awaits=awaits,
        waits=histogram(waits, sum_ns=waits * S),
        wait_max_ns=longest_ns,
        suspended=1,
        oldest_suspension_ns=NOW - age_ns,
    )


def judged(point: YieldPoint, ended: int = 100, paths: tuple[SegmentPath, ...] = ()) -> str:
    """Return what the judge says, if so many tasks have ended."""
    half = histogram(ended // 2)
    tasks = coroutine(HANDLE, wall={"completed": half, "failed": histogram(ended - ended // 2)})
    snapshot = Snapshot(NOW, coroutines=(tasks,), segment_paths=paths)
    judge = Judge(snapshot, lambda place: place.startswith("aiohttp/"))
    assert judge.is_unusual(point) or not judge.is_stuck(point)
    return "stuck" if judge.is_stuck(point) else "unusual" if judge.is_unusual(point) else "usual"


@pytest.mark.parametrize(
    ("point", "ended", "verdict"),
    [
        pytest.param(waiting(), 100, "stuck", id="all"),
        pytest.param(waiting(20 * S + 1), 100, "stuck", id="over 20 times the mean"),
        pytest.param(waiting(20 * S), 100, "usual", id="20 times the mean"),
        pytest.param(waiting(longest_ns=15 * S - 1), 100, "stuck", id="over twice the longest"),
        pytest.param(waiting(longest_ns=15 * S), 100, "usual", id="twice the longest"),
        pytest.param(waiting(waits=99), 100, "unusual", id="few waits"),
        pytest.param(waiting(), 99, "unusual", id="few tasks"),
        pytest.param(waiting(awaits="asyncio.Lock.acquire"), 0, "stuck", id="held by others"),
        pytest.param(waiting(waits=0), 100, "usual", id="no wait"),
        pytest.param(waiting(awaits="asyncio.Queue.get"), 100, "usual", id="for work"),
        pytest.param(waiting(awaits="asyncio.sleep"), 100, "usual", id="a timer ends it"),
        pytest.param(waiting(awaits="Future (patient)"), 100, "usual", id="patient"),
        pytest.param(replace(waiting(), oldest_suspension_ns=0), 100, "usual", id="nobody"),
        pytest.param(
            replace(waiting(), yield_point="aiohttp/web.py:1 f"), 100, "usual", id="in a library"
        ),
    ],
)
def test_a_wait_is_compared_with_its_kin(point: YieldPoint, ended: int, verdict: str) -> None:
    """Each condition is needed, and its limit is that of the alert."""
    assert verdict == judged(point, ended)


def path(began_at: str, ended_at: str, segments: int, coroutine: str = HANDLE) -> SegmentPath:
    """Return a path of so many segments, whose time does not matter."""
    return SegmentPath(coroutine, began_at, ended_at, segments, 0)


def chat(tasks: int) -> tuple[SegmentPath, ...]:
    """Return the paths of a server's handlers: so many chats that are over, one that is quiet.

    Each answered a few messages; a thousand other requests share their coroutine.
    """
    here = waiting().yield_point
    return (
        path("(start)", "shop/web.py:5 page", 1000),
        path("shop/web.py:5 page", "(return)", 1000),
        path("(start)", "shop/chat.py:3 greet", tasks + 1),
        path("shop/chat.py:3 greet", here, tasks + 1),
        path(here, "shop/chat.py:9 answer", 150),
        path("shop/chat.py:9 answer", here, 150),
        path(here, here, 7),
        path(here, "(return)", tasks - tasks // 2),
        path("shop/chat.py:9 answer", "(raise)", tasks // 2),
    )


@pytest.mark.parametrize(
    ("paths", "verdict"),
    [
        pytest.param(chat(0), "unusual", id="its own messages"),
        pytest.param(chat(99), "unusual", id="few have been there"),
        pytest.param(chat(100), "stuck", id="a hundred have been there"),
        pytest.param((*chat(0), path(OTHER, OTHER, 1, OTHER)), "stuck", id="not all are known"),
        pytest.param((path("(start)", "x", 1, "shop.y"),), "stuck", id="none of it is known"),
    ],
)
def test_tasks_count_that_have_been_there(paths: tuple[SegmentPath, ...], verdict: str) -> None:
    """A connection that went quiet is not compared with requests that never were there."""
    assert verdict == judged(waiting(), 1000 + 100, paths)


def test_nothing_is_stuck_in_its_first_seconds() -> None:
    """However short waits usually are."""
    short = replace(waiting(5 * S - 1), waits=histogram(100, sum_ns=100), wait_max_ns=1)
    assert "usual" == judged(short)
    assert "stuck" == judged(replace(short, oldest_suspension_ns=NOW - 5 * S))


def test_limits_are_those_of_the_alert(root: Path) -> None:
    """The rule has the same numbers."""
    rules = yaml.safe_load((root / "rules/aiometrics.alerts.yml").read_text(encoding="utf-8"))
    (alert,) = (
        rule["expr"]
        for group in rules["groups"]
        for rule in group["rules"]
        if rule["alert"] == "AsyncioAwaitStuck"
    )
    flat = " ".join(alert.split())
    assert f"> {stuck.TIMES_MEAN} * ( asyncio_wait_seconds_sum / " in flat
    assert f"> {stuck.TIMES_LONGEST} * asyncio_wait_max_seconds" in flat
    assert re.search(
        rf"\(asyncio_wait_seconds_count or [^)]*\)\) >= {stuck.ENDED_WAITS} unless", flat
    )
    assert flat.endswith(f") >= {stuck.ENDED_TASKS} )")
