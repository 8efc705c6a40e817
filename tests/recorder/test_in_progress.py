"""What a reader sees while a segment lasts: who runs, for how long, and blocking seconds that only ever grow."""

from __future__ import annotations

import asyncio
import sys
from typing import Any

import pytest

from aiometrics.instrumentation.loop_stats import LoopStats
from aiometrics.pages.page import Page
from aiometrics.pages.snapshot import CALLBACK, RUNNING, Running, Snapshot
from aiometrics.testing import TracedLoop, traced_loop

EAGER = pytest.mark.skipif(sys.version_info < (3, 12), reason="eager tasks came with Python 3.12")
MS = 1_000_000


def blocking(seen: Snapshot) -> dict[str, int]:
    """Blocking ms by coroutine and yield point, short names only, and those of the loop under ``loop``."""
    found = {
        f"{point.coroutine.rpartition('.')[2]} {point.yield_point if point.yield_point.startswith('(') else 'await'}": point.blocking_ns
        for point in seen.yield_points
        if point.blocking_ns
    }
    return {name: ns // MS for name, ns in {**found, "loop": seen.loops[0].blocking_ns}.items()}


class Looks:
    """Lets time pass in ms and remembers what each look showed."""

    def __init__(self, traced: TracedLoop) -> None:
        self.traced = traced
        self.seen: list[dict[str, int]] = []

    def work(self, ms: int) -> None:
        """Hold the loop."""
        self.traced.clock.advance_ns(ms * MS)

    def look(self) -> Snapshot:
        """What a scrape shows now."""
        seen = self.traced.snapshot()
        self.seen.append(blocking(seen))
        return seen


@pytest.fixture
def looks(implementation: str) -> Any:
    """A traced loop that is looked at."""
    with traced_loop(implementation=implementation) as traced:
        yield Looks(traced)


def test_the_segment_in_progress_shows(looks: Looks) -> None:
    """The coroutine that holds the loop and how long by now; the loop was last alive when it began."""

    async def holds() -> Snapshot:
        await asyncio.sleep(1)
        looks.work(70)
        return looks.look()

    seen = looks.traced.run(holds())
    assert Running(f"{__name__}.{holds.__qualname__}", 70 * MS) == seen.loops[0].running
    assert seen.taken_ns - 70 * MS == seen.loops[0].heartbeat_ns
    after = looks.traced.snapshot()
    assert (None, 0) == (
        after.loops[0].running,
        after.loops[0].heartbeat_ns,
    )  # the loop does not run any more


def test_blocking_seconds_grow_while_a_segment_lasts_and_are_not_counted_twice(
    looks: Looks,
) -> None:
    """What looks counted under (running) stays there; only the rest counts where the segment ends."""

    async def holds() -> None:
        looks.work(60)
        looks.look()  # not blocking yet
        looks.work(40)
        looks.look()
        looks.work(100)
        looks.look()
        looks.work(50)
        await asyncio.sleep(0)
        looks.look()

    looks.traced.run(holds())
    looks.look()
    done = {"holds (running)": 200, "holds await": 50, "loop": 250}
    assert [
        {"loop": 0},
        {"holds (running)": 100, "loop": 100},
        {"holds (running)": 200, "loop": 200},
        done,
        done,
    ] == looks.seen
    assert RUNNING == looks.traced.snapshot().yield_points[-1].awaits


def test_without_a_look_everything_counts_where_the_segment_ends(looks: Looks) -> None:
    """(running) appears only if somebody looked meanwhile; blocking begins at the threshold itself."""

    async def holds() -> None:
        looks.work(100)
        await asyncio.sleep(0)
        looks.work(99)

    looks.traced.run(holds())
    looks.look()
    assert [{"holds await": 100, "loop": 100}] == looks.seen


def test_a_look_at_the_very_end_leaves_nothing_for_the_yield_point(looks: Looks) -> None:
    """All was counted under (running)."""

    async def holds() -> None:
        looks.work(150)
        looks.look()

    looks.traced.run(holds())
    looks.look()
    assert [{"holds (running)": 150, "loop": 150}] * 2 == looks.seen


async def eager(coro: Any) -> None:
    """Run a task's first segment inside the one in progress."""
    task: asyncio.Task[None] = asyncio.Task(coro, loop=asyncio.get_running_loop(), eager_start=True)  # type: ignore[call-arg, unused-ignore]
    await task


@EAGER
def test_an_eager_child_stops_the_clock_of_its_parent(looks: Looks) -> None:
    """Its time is its own, before, during and after, however often somebody looks."""

    async def child() -> None:
        looks.work(110)
        looks.look()
        looks.work(40)

    async def parent() -> None:
        looks.work(120)
        looks.look()
        await eager(child())
        looks.look()
        looks.work(30)
        looks.look()

    looks.traced.run(parent())
    looks.look()
    inside = {"parent (running)": 120, "child (running)": 110, "loop": 230}
    after = {**inside, "child (return)": 40, "loop": 270}
    last = {**after, "parent (running)": 150, "loop": 300}
    assert [{"parent (running)": 120, "loop": 120}, inside, after, last, last] == looks.seen
    (pause,) = (
        point
        for point in looks.traced.snapshot().yield_points
        if point.yield_point == "(eager child)"
    )
    assert (1, 150 * MS, 0) == (pause.waits.count, pause.waits.sum_ns, pause.segments.count)


@EAGER
def test_a_look_at_an_eager_child_does_not_charge_its_parent(looks: Looks) -> None:
    """A parent under the threshold is not blocking because its child was, and no counter falls afterwards."""

    async def child() -> None:
        looks.work(200)
        looks.look()

    async def parent() -> None:
        looks.work(50)
        await eager(child())
        looks.look()
        looks.work(10)
        looks.look()

    looks.traced.run(parent())
    looks.look()
    assert [{"child (running)": 200, "loop": 200}] * 4 == looks.seen


@EAGER
def test_nested_eager_children_each_have_their_own_time(looks: Looks) -> None:
    """Three tasks deep, exclusive times and pauses add up."""

    async def leaf() -> None:
        looks.work(100)

    async def middle() -> None:
        looks.work(10)
        await eager(leaf())
        looks.work(10)

    async def top() -> None:
        looks.work(1)
        await eager(middle())
        looks.work(1)

    looks.traced.run(top())
    seen = looks.traced.snapshot()
    active = {
        entry.coroutine.rpartition(".")[2]: entry.active["completed"].sum_ns // MS
        for entry in seen.coroutines
    }
    assert {"top": 2, "middle": 20, "leaf": 100} == active
    pauses = {
        point.coroutine.rpartition(".")[2]: point.waits.sum_ns // MS
        for point in seen.yield_points
        if point.yield_point == "(eager child)"
    }
    assert {"top": 120, "middle": 100} == pauses


@EAGER
@pytest.mark.parametrize("when", ["while a place is named", "when a block is told"])
def test_an_eager_child_of_a_finalizer_has_its_own_time_too(
    looks: Looks, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    """Wherever the recorder runs Python, garbage may be collected, and a finalizer start a task: lives still tile, nothing is negative."""
    started: list[asyncio.Task[None]] = []
    add = Page.add_yield_point

    async def child() -> None:
        looks.work(5)

    def finalize() -> None:
        """What a finalizer might do, but not within its own task."""
        with monkeypatch.context() as quiet:
            quiet.setattr(Page, "add_yield_point", add)
            quiet.setattr(LoopStats, "seen_here", lambda _: None)
            started.append(asyncio.Task(child(), loop=asyncio.get_running_loop(), eager_start=True))  # type: ignore[call-arg, unused-ignore]

    def naming(*args: Any) -> int:
        finalize()
        return add(*args)

    def telling(_: LoopStats) -> None:
        if sys._getframe(1).f_code.co_name == "blocked":
            finalize()

    async def works() -> None:
        looks.work(150)

    async def parent() -> None:
        await asyncio.sleep(0)
        await eager(works())
        looks.work(120)
        asyncio.get_running_loop().call_soon(looks.work, 110)
        await asyncio.sleep(0)

    with monkeypatch.context() as hooked:
        if when == "while a place is named":
            hooked.setattr(Page, "add_yield_point", naming)
        else:
            hooked.setattr(LoopStats, "seen_here", telling)
        looks.traced.run(parent())
    looks.traced.run(asyncio.wait(started))
    seen = looks.traced.snapshot()
    active = {
        entry.coroutine.rpartition(".")[2]: entry.active["completed"].sum_ns // MS
        for entry in seen.coroutines
    }
    assert {"works": 150, "parent": 120, "child": 5 * len(started)} == {
        name: active[name] for name in ("works", "parent", "child")
    }
    assert len(started) >= 3
    (loop,) = seen.loops
    assert 380 * MS == loop.blocking_ns
    assert loop.active_ns == sum(point.segments.sum_ns for point in seen.yield_points)
    wall_ns = sum(
        histogram.sum_ns for entry in seen.coroutines for histogram in entry.wall.values()
    )
    parts_ns = sum(
        point.segments.sum_ns + point.waits.sum_ns
        for point in seen.yield_points
        if point.coroutine != CALLBACK
    )
    assert wall_ns == loop.start_delay.sum_ns + parts_ns


def test_harm_is_what_ready_handles_waited(looks: Looks) -> None:
    """Inflicted wait is the blocking segment times the handles that were ready behind it."""

    async def holds() -> None:
        for _ in range(3):
            asyncio.get_running_loop().call_soon(int)
        looks.work(200)
        await asyncio.sleep(0)

    looks.traced.run(holds())
    assert [3 * 200 * MS] == [
        point.inflicted_wait_ns
        for point in looks.traced.snapshot().yield_points
        if point.inflicted_wait_ns
    ]


def test_the_oldest_suspension_is_that_of_the_longest_waiting_task(looks: Looks) -> None:
    """Tasks that suspend at one point form a queue; whichever leaves, the gauge shows the oldest that is left."""
    oldest: list[tuple[int, int]] = []

    async def waits(event: asyncio.Event) -> None:
        await event.wait()

    def note() -> None:
        (point,) = (
            point
            for point in looks.traced.snapshot().yield_points
            if point.coroutine.endswith("waits") and point.awaits != "(return)"
        )
        oldest.append((point.suspended, point.oldest_suspension_ns // MS))

    async def main() -> None:
        events = [asyncio.Event() for _ in range(3)]
        tasks = []
        for event in events:
            tasks.append(asyncio.create_task(waits(event)))
            await asyncio.sleep(1)
        note()
        for which in (1, 0, 2):
            events[which].set()
            await tasks[which]
            note()

    looks.traced.run(main())
    start = 1000
    assert [(3, start), (2, start), (1, start + 2000), (0, 0)] == oldest
