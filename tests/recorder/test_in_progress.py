"""Snapshots taken while a segment is in progress."""

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
    """Return blocking ms by short names of coroutine and yield point, and those of the loop."""
    found: dict[str, int] = {}
    for point in seen.yield_points:
        if point.blocking_ns:
            coroutine = point.coroutine.rpartition(".")[2]
            place = point.yield_point if point.yield_point.startswith("(") else "await"
            found[f"{coroutine} {place}"] = point.blocking_ns
    return {name: ns // MS for name, ns in {**found, "loop": seen.loops[0].blocking_ns}.items()}


class Observer:
    """Lets time pass, and remembers the blocking ms of each snapshot."""

    def __init__(self, traced: TracedLoop) -> None:
        self.traced = traced
        self.seen: list[dict[str, int]] = []

    def work(self, ms: int) -> None:
        """Hold the loop for some time."""
        self.traced.clock.advance_ns(ms * MS)

    def observe(self) -> Snapshot:
        """Take a snapshot and remember its blocking ms."""
        seen = self.traced.snapshot()
        self.seen.append(blocking(seen))
        return seen


@pytest.fixture
def observer(implementation: str) -> Any:
    """A traced loop with an observer."""
    with traced_loop(implementation=implementation) as traced:
        yield Observer(traced)


def test_the_segment_in_progress_is_shown(observer: Observer) -> None:
    """A snapshot shows its coroutine and its length; the heartbeat is from when it began."""

    async def holds() -> Snapshot:
        await asyncio.sleep(1)
        observer.work(70)
        return observer.observe()

    seen = observer.traced.run(holds())
    assert Running(f"{__name__}.{holds.__qualname__}", 70 * MS) == seen.loops[0].running
    assert seen.taken_ns - 70 * MS == seen.loops[0].heartbeat_ns
    after = observer.traced.snapshot()
    assert (None, 0) == (
        after.loops[0].running,
        after.loops[0].heartbeat_ns,
    )  # the loop has stopped


def test_blocking_seconds_grow_while_a_segment_lasts_and_are_not_counted_twice(
    observer: Observer,
) -> None:
    """What snapshots counted under (running) stays there; only the rest counts at the end."""

    async def holds() -> None:
        observer.work(60)
        observer.observe()  # not blocking yet
        observer.work(40)
        observer.observe()
        observer.work(100)
        observer.observe()
        observer.work(50)
        await asyncio.sleep(0)
        observer.observe()

    observer.traced.run(holds())
    observer.observe()
    done = {"holds (running)": 200, "holds await": 50, "loop": 250}
    assert [
        {"loop": 0},
        {"holds (running)": 100, "loop": 100},
        {"holds (running)": 200, "loop": 200},
        done,
        done,
    ] == observer.seen
    assert RUNNING == observer.traced.snapshot().yield_points[-1].awaits


def test_without_a_snapshot_everything_counts_where_the_segment_ends(observer: Observer) -> None:
    """(running) appears only if a snapshot was taken; a segment blocks at the threshold itself."""

    async def holds() -> None:
        observer.work(100)
        await asyncio.sleep(0)
        observer.work(99)

    observer.traced.run(holds())
    observer.observe()
    assert [{"holds await": 100, "loop": 100}] == observer.seen


def test_a_snapshot_at_the_end_leaves_nothing_for_the_yield_point(observer: Observer) -> None:
    """All of the segment was counted under (running)."""

    async def holds() -> None:
        observer.work(150)
        observer.observe()

    observer.traced.run(holds())
    observer.observe()
    assert [{"holds (running)": 150, "loop": 150}] * 2 == observer.seen


async def eager(coro: Any) -> None:
    """Start a task eagerly, inside the segment in progress, and await it."""
    task: asyncio.Task[None] = asyncio.Task(coro, loop=asyncio.get_running_loop(), eager_start=True)  # type: ignore[call-arg, unused-ignore]
    await task


@EAGER
def test_an_eager_child_pauses_the_segment_of_its_parent(observer: Observer) -> None:
    """Its time is its own, however often snapshots are taken before, during and after."""

    async def child() -> None:
        observer.work(110)
        observer.observe()
        observer.work(40)

    async def parent() -> None:
        observer.work(120)
        observer.observe()
        await eager(child())
        observer.observe()
        observer.work(30)
        observer.observe()

    observer.traced.run(parent())
    observer.observe()
    inside = {"parent (running)": 120, "child (running)": 110, "loop": 230}
    after = {**inside, "child (return)": 40, "loop": 270}
    last = {**after, "parent (running)": 150, "loop": 300}
    assert [{"parent (running)": 120, "loop": 120}, inside, after, last, last] == observer.seen
    (pause,) = (
        point
        for point in observer.traced.snapshot().yield_points
        if point.yield_point == "(eager child)"
    )
    assert (1, 150 * MS, 0) == (pause.waits.count, pause.waits.sum_ns, pause.segments.count)


@EAGER
def test_a_snapshot_during_an_eager_child_does_not_charge_its_parent(observer: Observer) -> None:
    """A parent under the threshold does not block because its child does; no counter falls."""

    async def child() -> None:
        observer.work(200)
        observer.observe()

    async def parent() -> None:
        observer.work(50)
        await eager(child())
        observer.observe()
        observer.work(10)
        observer.observe()

    observer.traced.run(parent())
    observer.observe()
    assert [{"child (running)": 200, "loop": 200}] * 4 == observer.seen


@EAGER
def test_nested_eager_children_each_have_their_own_time(observer: Observer) -> None:
    """Exclusive times and pauses add up, three tasks deep."""

    async def leaf() -> None:
        observer.work(100)

    async def middle() -> None:
        observer.work(10)
        await eager(leaf())
        observer.work(10)

    async def top() -> None:
        observer.work(1)
        await eager(middle())
        observer.work(1)

    observer.traced.run(top())
    seen = observer.traced.snapshot()
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
@pytest.mark.parametrize("when", ["while a place is named", "when a block is reported"])
def test_an_eager_child_of_a_finalizer_has_its_own_time_too(
    observer: Observer, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    """A finalizer may start a task wherever the recorder runs Python code; times still add up."""
    started: list[asyncio.Task[None]] = []
    add = Page.add_yield_point

    async def child() -> None:
        observer.work(5)

    def finalize() -> None:
        """Start an eager task as a finalizer might, but not from within that task."""
        with monkeypatch.context() as quiet:
            quiet.setattr(Page, "add_yield_point", add)
            quiet.setattr(LoopStats, "note_thread", lambda _: None)
            started.append(asyncio.Task(child(), loop=asyncio.get_running_loop(), eager_start=True))  # type: ignore[call-arg, unused-ignore]

    def naming(*args: Any) -> int:
        finalize()
        return add(*args)

    def reporting(_: LoopStats) -> None:
        if sys._getframe(1).f_code.co_name == "blocked":
            finalize()

    async def works() -> None:
        observer.work(150)

    async def parent() -> None:
        await asyncio.sleep(0)
        await eager(works())
        observer.work(120)
        asyncio.get_running_loop().call_soon(observer.work, 110)
        await asyncio.sleep(0)

    with monkeypatch.context() as hooked:
        if when == "while a place is named":
            hooked.setattr(Page, "add_yield_point", naming)
        else:
            hooked.setattr(LoopStats, "note_thread", reporting)
        observer.traced.run(parent())
    observer.traced.run(asyncio.wait(started))
    seen = observer.traced.snapshot()
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


def test_inflicted_wait_counts_the_handles_that_were_ready(observer: Observer) -> None:
    """It is the length of the blocking segment times the handles that were ready behind it."""

    async def holds() -> None:
        for _ in range(3):
            asyncio.get_running_loop().call_soon(int)
        observer.work(200)
        await asyncio.sleep(0)

    observer.traced.run(holds())
    assert [3 * 200 * MS] == [
        point.inflicted_wait_ns
        for point in observer.traced.snapshot().yield_points
        if point.inflicted_wait_ns
    ]


def test_the_oldest_suspension_is_that_of_the_longest_waiting_task(observer: Observer) -> None:
    """Whichever task is resumed, the gauge shows the oldest suspension that remains."""
    oldest: list[tuple[int, int]] = []

    async def waits(event: asyncio.Event) -> None:
        await event.wait()

    def record() -> None:
        (point,) = (
            point
            for point in observer.traced.snapshot().yield_points
            if point.coroutine.endswith("waits") and point.awaits != "(return)"
        )
        oldest.append((point.suspended, point.oldest_suspension_ns // MS))

    async def main() -> None:
        events = [asyncio.Event() for _ in range(3)]
        tasks = []
        for event in events:
            tasks.append(asyncio.create_task(waits(event)))
            await asyncio.sleep(1)
        record()
        for which in (1, 0, 2):
            events[which].set()
            await tasks[which]
            record()

    observer.traced.run(main())
    start = 1000
    assert [(3, start), (2, start), (1, start + 2000), (0, 0)] == oldest
