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
from aiometrics.pages.snapshot import Snapshot, YieldPoint

S = 1_000_000_000
NOW = 1_000 * S
HANDLE = "shop.orders.handle"


def waiting(
    age_ns: int = 30 * S,
    *,
    waits: int = 100,
    tasks: int = 100,
    longest_ns: int = S,
    awaits: str = "Future",
) -> YieldPoint:
    """Return a yield point where waits of one second ended, and a task has waited for longer."""
    return yield_point(
        coroutine=HANDLE,
        awaits=awaits,
        waits=histogram(waits, sum_ns=waits * S),
        wait_max_ns=longest_ns,
        wait_tasks=tasks,
        suspended=1,
        oldest_suspension_ns=NOW - age_ns,
    )


def judged(point: YieldPoint, ended: int = 100, sample_ratio: float = 1.0) -> str:
    """Return what the judge says, if so many tasks have ended."""
    half = histogram(ended // 2)
    tasks = coroutine(HANDLE, wall={"completed": half, "failed": histogram(ended - ended // 2)})
    snapshot = Snapshot(NOW, coroutines=(tasks,), sample_ratio=sample_ratio)
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
        pytest.param(waiting(), 99, "unusual", id="few tasks have ended"),
        pytest.param(waiting(tasks=99), 1000, "unusual", id="few tasks have waited there"),
        pytest.param(
            waiting(tasks=0, awaits="asyncio.Lock.acquire"), 0, "stuck", id="others hold it"
        ),
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


def test_tasks_count_that_were_traced() -> None:
    """Of one in a hundred, a single task would else count as a hundred."""
    assert "unusual" == judged(waiting(tasks=9_900), 50_000, sample_ratio=0.01)
    assert "stuck" == judged(waiting(tasks=10_000), 50_000, sample_ratio=0.01)


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
    assert f" aiometrics_sample_ratio >= {stuck.ENDED_TASKS} and on " in flat
    assert flat.endswith(f") >= {stuck.ENDED_TASKS} ) )")
