"""The JSON of one moment: documented to the last field, and the numbers of the snapshot."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from support.samples import FACTS, coroutine, histogram, request, shop, yield_point

from aiometrics.exposition.live import LiveView
from aiometrics.pages.snapshot import Chain, RequestWait, Running, SegmentPath, Snapshot

S = 1_000_000_000
PAGE = Path(__file__).resolve().parents[2] / "docs/live.md"


def document(
    snapshot: Snapshot,
    view: LiveView | None = None,
    pause: Callable[[], None] = lambda: None,
) -> Any:
    """Return what a client decodes."""
    return json.loads(b"".join((view or LiveView()).slices(snapshot, FACTS, pause)))


def documented(heading: str) -> set[str]:
    """Return the fields of the table under ``heading`` in the documentation."""
    text = PAGE.read_text(encoding="utf-8").partition(f"{heading}\n")[2].partition("\n##")[0]
    return {
        name
        for line in re.findall(r"^\| (`.*?) \|", text, flags=re.MULTILINE)
        for name in re.findall(r"`(\w+)`", line)
    }


def everything() -> Snapshot:
    """Return a snapshot with a row in each table."""
    return Snapshot(
        5 * S,
        loops=shop().loops,
        coroutines=shop().coroutines,
        yield_points=shop().yield_points,
        held=shop().held,
        requests=(request(),),
        request_waits=(RequestWait("GET /", "asyncio.sleep", S),),
        chains=(Chain("shop.main", ("shop.py:3 main",), "shop.py:3 main", "Future", 2, S, 9),),
        segment_paths=(SegmentPath("shop.main", "(start)", "shop.py:3 main", 4, S),),
    )


def test_every_field_is_documented() -> None:
    """The tables of the page have the fields of the answer, neither more nor less."""
    answer = document(everything())
    assert documented("## Live numbers as JSON") == set(answer)
    tables = {name: rows for name, rows in answer.items() if isinstance(rows, list)}
    assert 8 == len(tables)
    for name, rows in tables.items():
        assert rows
        assert documented(f"### Fields of `{name}`") == set(rows[0]), name


def test_numbers_are_those_of_the_snapshot_in_seconds() -> None:
    """Sums, counts and ages of a row, and names that no text can carry as they are."""
    point = yield_point(
        "shop/\udcff.py:1 f",
        suspended=2,
        oldest_suspension_ns=3 * S,
        segments=shop().yield_points[0].segments,
        segment_max_ns=S // 4,
    )
    (row,) = document(Snapshot(5 * S, yield_points=(point,)))["yield_points"]
    assert r"shop/\udcff.py:1 f" == row["yield_point"]
    assert {"count": 8, "sum_seconds": 1.234567891} == row["segments"]
    assert (0.25, 2, 2.0) == (
        row["segment_max_seconds"],
        row["suspended"],
        row["oldest_suspension_seconds"],
    )


def test_a_segment_that_began_after_the_snapshot_has_not_lasted_yet() -> None:
    """No age is negative."""
    (loop,) = shop().loops[:1]
    later = replace(loop, running=Running("shop.main", -5, blocks=False))
    (row,) = document(Snapshot(5 * S, loops=(later,)))["loops"]
    assert {"coroutine": "shop.main", "elapsed_seconds": 0.0, "blocks": False} == row["running"]


def test_waits_for_work_are_told_apart() -> None:
    """They are those for a queue, and those in files of a library."""
    points = (
        yield_point("shop.py:1 f", awaits="asyncio.Queue.get"),
        yield_point("aiohttp/web.py:1 f"),
        yield_point("shop.py:2 f"),
    )
    view = LiveView(lambda place: place.startswith("aiohttp/"))
    rows = document(Snapshot(S, yield_points=points), view)["yield_points"]
    assert [True, True, False] == [row["waits_for_work"] for row in rows]


def test_stuck_tasks_are_told_apart() -> None:
    """A program that reads the numbers need not judge itself."""
    point = yield_point(
        awaits="Future",
        waits=histogram(100, sum_ns=S),
        suspended=1,
        oldest_suspension_ns=S,
        wait_max_ns=S,
        wait_tasks=100,
    )
    ended = coroutine(point.coroutine, wall={"completed": histogram(100)})
    for coroutines, stuck in (((ended,), True), ((), False)):
        seen = Snapshot(9 * S, yield_points=(point,), coroutines=coroutines)
        (row,) = document(seen)["yield_points"]
        assert (True, stuck) == (row["unusual"], row["stuck"])


def test_many_rows_are_written_in_slices() -> None:
    """Every row arrives once, in order, and others may run after every few."""
    pauses: list[None] = []
    points = tuple(yield_point(f"shop.py:{number} f") for number in range(1000))
    answer = document(Snapshot(S, yield_points=points), pause=lambda: pauses.append(None))
    assert [point.yield_point for point in points] == [
        row["yield_point"] for row in answer["yield_points"]
    ]
    assert len(pauses) > 1000 / 20
