"""A loop, task or page that is not as expected costs its own numbers, and never the others."""

from __future__ import annotations

import asyncio
import importlib.util
import os
import selectors
import subprocess
import sys
import time
from typing import Any

import pytest
from support.tracing import every_loop

from aiometrics.base.options import resolve
from aiometrics.instrumentation.instrumentation import Instrumentation
from aiometrics.instrumentation.loop_stats import LoopStats
from aiometrics.pages.snapshot import Snapshot
from aiometrics.recorder.implementation import IMPLEMENTATIONS


async def works() -> None:
    """Suspend once."""
    await asyncio.sleep(0)


#: trio_asyncio changes asyncio for the whole process.
TRIO = """
import asyncio, sys, urllib.request
import trio, trio_asyncio
import aiometrics

async def works():
    await asyncio.sleep(0)

def scrape():
    return urllib.request.urlopen(exporter.url).read().decode()

async def main():
    async with trio_asyncio.open_loop() as loop:
        task = loop.create_task(works())
        while not task.done():
            await trio.sleep(0.001)
        print(await trio.to_thread.run_sync(scrape))

exporter = aiometrics.start_exporter(0, "127.0.0.1", registry=None)
trio.run(main)
"""


#: A loop in Rust, without a selector.
RLOOP = """
import asyncio, urllib.request
import rloop
import aiometrics

async def works():
    await asyncio.sleep(0)

def scrape():
    return urllib.request.urlopen(exporter.url).read().decode()

async def main():
    await asyncio.create_task(works())
    print(await asyncio.get_running_loop().run_in_executor(None, scrape))

exporter = aiometrics.start_exporter(0, "127.0.0.1", registry=None)
with asyncio.Runner(loop_factory=rloop.new_event_loop) as runner:
    runner.run(main())
"""


@pytest.mark.parametrize(("package", "program"), [("trio_asyncio", TRIO), ("rloop", RLOOP)])
def test_a_loop_of_another_kind_is_measured_as_far_as_it_can_be(
    package: str, program: str, implementation: str
) -> None:
    """Its queue is no list, and it has no selector. It ends as without us.

    The Python recorder does not see the tasks that rloop makes.
    """
    if importlib.util.find_spec(package) is None:
        pytest.skip(f"{package} is not installed: install it to run this test")
    environ = {**os.environ, "AIOMETRICS_NO_EXTENSIONS": "1" if implementation == "python" else ""}
    done = subprocess.run(
        [sys.executable, "-c", program],
        check=True,
        env=environ,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert not done.stderr
    seen = 'asyncio_tasks_created_total{coroutine="__main__.works"} 1\n' in done.stdout
    assert seen or (package, implementation) == ("rloop", "python")
    for unknown in ("asyncio_loop_ready_handles{", "aiometrics_errors_total{"):
        assert f"\n{unknown}" not in done.stdout
    assert 'state="idle"' not in done.stdout


class Elsewhere(Exception):  # noqa: N818 - it is no error
    """Raised by a selector that lets another loop wait."""


class GuestSelector(selectors.DefaultSelector):
    """Never waits."""

    def select(self, timeout: float | None = None) -> Any:
        found = super().select(0)
        if found or (timeout is not None and timeout <= 0):
            return found
        raise Elsewhere


class GuestLoop(asyncio.SelectorEventLoop):
    """A loop in the place of qtinter's, for which that of Qt waits."""

    def __init__(self) -> None:
        super().__init__(GuestSelector())

    def _run_once(self) -> None:
        try:
            super()._run_once()  # type: ignore[misc]
        except Elsewhere:
            time.sleep(0.001)


def test_what_another_loop_waits_for_is_not_active_time(implementation: str) -> None:
    """Turns are not known, so active time is that of the segments, and there is no idle time."""

    def counted(seen: Snapshot) -> tuple[int, int, int | None]:
        (loop,) = seen.loops
        segments_ns = sum(point.segments.sum_ns for point in seen.yield_points)
        return loop.active_ns - segments_ns, loop.iterations.count, loop.idle_ns

    async def main() -> None:
        for _ in range(5):
            await asyncio.sleep(0.005)
        before = counted(traced.snapshot())
        for _ in range(5):
            await asyncio.sleep(0.005)
        assert before == counted(traced.snapshot())

    with (
        every_loop(implementation) as traced,
        asyncio.Runner(loop_factory=GuestLoop) as runner,
    ):
        runner.run(main())
        runner.run(main())


class Odd(Exception):  # noqa: N818 - the error is odd
    """What an object raises that answers nothing."""


class OddLoop(asyncio.SelectorEventLoop):
    """A loop that cannot say whether it is closed while ``odd`` is set."""

    odd = False

    def is_closed(self) -> bool:
        if self.odd:
            raise Odd
        return super().is_closed()


class OddTask(asyncio.Task[None]):
    """A task that cannot say whether it is done while ``odd`` is set."""

    odd = False

    def done(self) -> bool:
        if self.odd:
            raise Odd
        return super().done()


def instrumentation(implementation: str) -> Instrumentation:
    """Return one that traces every loop, whose errors are looked at."""
    made = Instrumentation(
        resolve(environ={}).recording, implementation=IMPLEMENTATIONS[implementation]
    )
    made.instrument_every_loop()
    return made


def test_a_loop_that_cannot_say_whether_it_is_closed_runs_on(implementation: str) -> None:
    """Its numbers are shown, and no error is counted: it may still run."""
    with every_loop(implementation) as traced:
        loop = OddLoop()
        loop.run_until_complete(works())
        loop.odd = True
        assert 1 == traced.snapshot().coroutine(f"{__name__}.works").created
        loop.odd = False
        loop.close()


def test_an_odd_task_costs_the_number_of_untraced_tasks(implementation: str) -> None:
    """The rest of the snapshot is there, and the error is counted."""

    async def main() -> Snapshot:
        await asyncio.create_task(works())
        task = OddTask(works(), loop=asyncio.get_running_loop())
        OddTask.odd = True
        try:
            return traced.snapshot()
        finally:
            OddTask.odd = False
            await task

    traced = instrumentation(implementation)
    try:
        seen = asyncio.run(main())
    finally:
        traced.remove()
    assert ({"untraced": 1}, 0) == (seen.errors, seen.untraced_tasks)
    assert seen.coroutine(f"{__name__}.works").created


def test_what_cannot_be_asked_of_one_loop_costs_only_that(
    implementation: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other loop has all its numbers, and both have what was recorded."""

    def refresh(stats: LoopStats) -> None:
        if stats is traced.slots()[0].loop_stats:
            raise Odd
        original(stats)

    original = LoopStats.refresh
    traced = instrumentation(implementation)
    try:
        first, second = asyncio.new_event_loop(), asyncio.new_event_loop()
        for loop in (first, second):
            loop.run_until_complete(works())
        monkeypatch.setattr(LoopStats, "refresh", refresh)
        seen = traced.snapshot()
        for loop in (first, second):
            loop.close()
    finally:
        traced.remove()
    assert ({"loops": 1}, 2) == (seen.errors, seen.coroutine(f"{__name__}.works").created)
    assert [None, 0] == [loop.ready_handles for loop in seen.loops]
