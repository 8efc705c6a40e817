"""The screen of ``aiometrics top``, driven by keys."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass, replace

import pytest
from support.samples import shop
from textual.widgets import DataTable, Static, TabbedContent

from aiometrics.base.clock import SECOND_NS
from aiometrics.pages.snapshot import Snapshot
from aiometrics.top.screen import Top
from aiometrics.top.sources import Reading, SourceError

pytestmark = pytest.mark.asyncio

GUARD_SECONDS = 300


@dataclass
class Scripted:
    """Gives one answer after the other; an error is raised."""

    answers: Iterator[Snapshot | SourceError]
    name: str = "somewhere"

    def read(self) -> Reading:
        answer = next(self.answers)
        if isinstance(answer, SourceError):
            raise answer
        return Reading(answer)


def text(app: Top, name: str) -> str:
    """Return what a line shows."""
    return str(app.query_one(f"#{name}", Static).render())


def cells(app: Top, name: str) -> list[list[str]]:
    """Return the rows of a table."""
    table = app.query_one(f"#table-{name}", DataTable)
    return [[str(cell) for cell in table.get_row_at(row)] for row in range(table.row_count)]


def later(snapshot: Snapshot, seconds: int) -> Snapshot:
    """Return the same numbers at a later time."""
    return replace(snapshot, taken_ns=snapshot.taken_ns + seconds * SECOND_NS)


def alive(snapshot: Snapshot) -> Snapshot:
    """Return a snapshot whose processes live."""
    loops = tuple(replace(loop, process_id=7) for loop in snapshot.loops)
    return replace(snapshot, loops=loops)


async def test_keys_choose_what_is_shown() -> None:
    """Tables by number, the span by ``s``, and ``p`` keeps the numbers."""
    one = alive(shop())
    app = Top(Scripted(iter([one, later(one, 2), later(one, 4)])), 20, 3600)
    async with app.run_test(size=(140, 40)) as pilot:
        await app.workers.wait_for_complete()
        assert "HOTSPOTS since the start  somewhere" in text(app, "status")
        burns = cells(app, "burns")
        assert burns
        await pilot.press("3")
        assert "waits" == app.query_one("#tabs", TabbedContent).active
        app.look()
        await app.workers.wait_for_complete()
        assert "in the last 2.0 s" in text(app, "status")
        assert [] == cells(app, "burns")
        await pilot.press("s")
        assert "since the start" in text(app, "status")
        assert burns == cells(app, "burns")
        await pilot.press("p")
        app.look()
        await app.workers.wait_for_complete()
        assert "PAUSED" in text(app, "status")
        await pilot.press("q")


async def test_the_last_numbers_stay_when_there_are_no_new_ones() -> None:
    """With the reason."""
    error = SourceError("somewhere does not answer")
    app = Top(Scripted(iter([alive(shop()), error, later(alive(shop()), 2)])), 20, 3600)
    async with app.run_test(size=(140, 40)):
        await app.workers.wait_for_complete()
        burns = cells(app, "burns")
        app.look()
        await app.workers.wait_for_complete()
        assert text(app, "problem").startswith("somewhere does not answer. These numbers are ")
        assert burns == cells(app, "burns")
        app.look()
        await app.workers.wait_for_complete()
        assert "" == text(app, "problem")


@dataclass
class Slow:
    """Answers when it is let go, and counts who asks."""

    let_go: threading.Event
    asked: list[None]
    name: str = "slow"

    def read(self) -> Reading:
        self.asked.append(None)
        assert self.let_go.wait(GUARD_SECONDS)
        return Reading(alive(shop()))


async def test_a_slow_source_is_asked_once_at_a_time() -> None:
    """However often the screen would look, and the answer is shown."""
    source = Slow(threading.Event(), [])
    app = Top(source, 20, 3600)
    async with app.run_test(size=(140, 40)):
        for _ in range(3):
            app.look()
        source.let_go.set()
        await app.workers.wait_for_complete()
        assert cells(app, "burns")
        assert [None] == source.asked
        app.look()
        await app.workers.wait_for_complete()
        assert [None, None] == source.asked


async def test_the_screen_ends_while_a_source_does_not_answer() -> None:
    """What it answers later is shown nowhere."""
    source = Slow(threading.Event(), [])
    app = Top(source, 20, 3600)
    async with app.run_test(size=(140, 40)) as pilot:
        await pilot.press("q")
    source.let_go.set()
    assert 0 == app.return_code


async def test_the_dead_have_their_last_numbers() -> None:
    """Since the start, because nothing happens any more."""
    loops = tuple(replace(loop, process_id=0) for loop in shop().loops)
    dead = replace(shop(), loops=loops)
    app = Top(Scripted(iter([dead, later(dead, 2)])), 20, 3600)
    async with app.run_test(size=(140, 40)):
        await app.workers.wait_for_complete()
        app.look()
        await app.workers.wait_for_complete()
        assert "All its processes are gone" in text(app, "problem")
        assert "since the start" in text(app, "status")
        assert cells(app, "burns")
