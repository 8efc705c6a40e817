"""What is logged about blocks: at which level, how often, and whether there was a CPU."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import subprocess
import sys
import unittest
from typing import ClassVar

import pytest

import aiometrics
from aiometrics.instrumentation import block_log
from aiometrics.instrumentation.block_log import MAX_PLACES, MINUTE_NS, Block, BlockLog
from aiometrics.instrumentation.thread_times import Usage, UsageMeter
from aiometrics.instrumentation.watchdog import Watchdog

MS = 1_000_000
PLACE = "shop.py:7 handle > time.sleep"
BY = f"by shop.handle at {PLACE}: run > handle"
BLOCK = Block("main", "shop.handle", PLACE, "run > handle", 250 * MS)
LASTING = BLOCK._replace(lasted_ns=5_000 * MS, over=False)


@pytest.fixture
def heard(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    """What is logged when the level asks for everything."""
    caplog.set_level(logging.DEBUG, block_log.logger.name)
    return caplog


def lines(caplog: pytest.LogCaptureFixture) -> list[tuple[str, str]]:
    """The lines that were logged, with their level."""
    return [(record.levelname, record.getMessage()) for record in caplog.records]


@pytest.mark.parametrize(
    ("block", "level", "expected"),
    [
        (
            BLOCK,
            "DEBUG",
            "loop main was blocked for 0.250 s by shop.handle at shop.py:7 handle > time.sleep",
        ),
        (
            BLOCK._replace(cpu_ns=3 * MS, runqueue_ns=124 * MS),
            "DEBUG",
            "loop main was blocked for 0.250 s (0.003 s of it on a CPU) by shop.handle at " + PLACE,
        ),
        (
            BLOCK._replace(cpu_ns=90 * MS, runqueue_ns=125 * MS),
            "DEBUG",
            "loop main had no CPU for 0.125 s of 0.250 s, in shop.handle at " + PLACE,
        ),
        (
            LASTING._replace(cpu_ns=0, runqueue_ns=0),
            "WARNING",
            f"loop main has been blocked for 5.000 s (0.000 s of it on a CPU) and still is, {BY}",
        ),
        (
            LASTING._replace(cpu_ns=0, runqueue_ns=5_000 * MS),
            "DEBUG",
            "loop main had no CPU for 5.000 s of 5.000 s and goes on so, in shop.handle at "
            + PLACE,
        ),
    ],
    ids=["nothing known", "waited", "starved", "lasting", "lasting and starved"],
)
def test_a_line_says_what_stopped_the_loop(
    heard: pytest.LogCaptureFixture, block: Block, level: str, expected: str
) -> None:
    """Only a block that lasts and has its CPU is a warning."""
    BlockLog().tell(block, 0)
    assert [(level, f"aiometrics: {expected}")] == lines(heard)


def test_nothing_is_heard_of_what_is_over_unless_asked_for(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Tests of applications that allow no log line see none, and nothing is counted for later."""
    log = BlockLog()
    for _ in range(3):
        log.tell(BLOCK, 0)
    log.tell(LASTING, 0)
    log.catch_up(2 * MINUTE_NS)
    assert ["WARNING"] == [level for level, _ in lines(caplog)]


class BlocksWithoutALine(unittest.IsolatedAsyncioTestCase):
    """A test of an application that blocks the loop until the watchdog has seen it."""

    __test__ = False  # for pytest, which would run it alone
    exporter: ClassVar[aiometrics.Exporter]

    async def test(self) -> None:
        """Fail if anything is logged, by any logger."""
        # asyncio itself logs what is slow, in its debug mode.
        asyncio.get_running_loop().slow_callback_duration = 300
        (watchdog,) = (w for w in self.exporter._watchers if isinstance(w, Watchdog))
        with self.assertNoLogs():
            while not watchdog._incidents:
                pass
            while watchdog._incidents:  # noqa: ASYNC110 - the watchdog must not know that it is tested
                await asyncio.sleep(0)


def test_tests_that_allow_no_line_pass() -> None:
    """A block that the watchdog has seen does not fail ``assertNoLogs``."""
    gc.collect()  # tasks that other tests left, of which asyncio would log
    result = unittest.TestResult()
    with aiometrics.start_exporter(
        0, "127.0.0.1", registry=None, blocking_threshold=0.01, watchdog_interval=0.01
    ) as BlocksWithoutALine.exporter:
        BlocksWithoutALine("test").run(result)
    assert (1, [], []) == (result.testsRun, result.errors, result.failures)


def test_one_line_a_minute_for_a_place(heard: pytest.LogCaptureFixture) -> None:
    """The first is logged at once, the others as a count when the minute is over."""
    log = BlockLog()
    starved = BLOCK._replace(runqueue_ns=250 * MS)
    log.tell(BLOCK, 0)
    for now_ns in (1, MINUTE_NS - 1):
        log.tell(starved, now_ns)
    log.tell(BLOCK, MINUTE_NS - 1)
    assert 1 == len(lines(heard))
    log.tell(BLOCK, MINUTE_NS)
    assert (
        "aiometrics: blocks at shop.py:7 handle > time.sleep: 3 more, 0.750 s in all, "
        "2 of them for want of a CPU"
    ) == lines(heard)[1][1]
    log.catch_up(2 * MINUTE_NS - 1)
    assert 2 == len(lines(heard))
    log.catch_up(2 * MINUTE_NS)
    assert ("aiometrics: blocks at shop.py:7 handle > time.sleep: 1 more, 0.250 s in all") == lines(
        heard
    )[2][1]
    log.catch_up(3 * MINUTE_NS)
    log.tell(BLOCK, 3 * MINUTE_NS)
    assert 4 == len(lines(heard))
    assert lines(heard)[0] == lines(heard)[3]


def test_a_warning_is_not_silenced_by_a_lesser_line(heard: pytest.LogCaptureFixture) -> None:
    """A block that lasts at a place of which there was a line is a warning nevertheless."""
    log = BlockLog()
    log.tell(BLOCK, 0)
    log.tell(LASTING, 1)
    log.tell(LASTING, 2)
    assert ["DEBUG", "WARNING"] == [level for level, _ in lines(heard)]


def test_many_places_are_few_lines(heard: pytest.LogCaptureFixture) -> None:
    """Further places share one line, and get one of their own once there is room."""
    log = BlockLog()
    for number in range(MAX_PLACES + 3):
        log.tell(BLOCK._replace(place=f"shop.py:{number} f"), 0)
    assert MAX_PLACES == len(lines(heard))
    log.tell(BLOCK._replace(place=f"shop.py:{MAX_PLACES} f"), MINUTE_NS)
    assert [
        "aiometrics: blocks at other places: 3 more, 0.750 s in all",
        f"aiometrics: {BLOCK._replace(place=f'shop.py:{MAX_PLACES} f')}",
    ] == [message for _, message in lines(heard)[MAX_PLACES:]]


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel does not tell")
def test_usage_of_a_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """A file is opened only when the thread has run; of another thread, nothing is known."""
    native = os.getpid()
    asked: list[int] = []
    times = iter([5, 5, 9])

    def runqueue_ns(_: int) -> int:
        asked.append(1)
        return len(asked)

    monkeypatch.setattr("aiometrics.instrumentation.thread_times.cpu_ns", lambda _: next(times, 9))
    monkeypatch.setattr("aiometrics.instrumentation.thread_times.runqueue_ns", runqueue_ns)
    meter = UsageMeter()
    before = meter(native)
    assert before == meter(native)
    assert [1] == asked
    assert Usage(native, 4, 1) == meter(native).since(before)
    assert Usage(native + 1) == meter(native + 1).since(before)
    assert Usage(native) == Usage(native, None, 3).since(Usage(native, 1, None))


#: Three processes compute on the one CPU that there is, or the loop sleeps in vain.
STARVED = r"""
import asyncio, logging, os, subprocess, sys, threading, time
import aiometrics
computes = sys.argv[1] == "computes"
os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
hog = [sys.executable, "-c", "print(flush=True)\nwhile True: pass"]
hogs = [subprocess.Popen(hog, stdout=subprocess.PIPE) for _ in range(3)]
for each in hogs:
    each.stdout.readline()
told = threading.Event()
class Tells(logging.Handler):
    def emit(self, record):
        print(record.levelname, record.getMessage(), flush=True)
        told.set()
logger = logging.getLogger("aiometrics.blocked")
logger.setLevel(logging.DEBUG)
logger.addHandler(Tells())
async def main():
    while not told.is_set():
        await asyncio.sleep(0.2)  # so that the watchdog knows what the thread had used before
        if computes:
            ends = time.thread_time() + 0.5
            while time.thread_time() < ends:
                pass
        else:
            time.sleep(0.5)
try:
    with aiometrics.start_exporter(0, "127.0.0.1", registry=None):
        asyncio.run(main())
finally:
    for hog in hogs:
        hog.kill()
        hog.wait()
"""


@pytest.mark.skipif(
    not os.path.exists("/proc/self/schedstat"),  # noqa: PTH110 - a name that the kernel gives
    reason="the kernel does not count the time in the run queue",
)
@pytest.mark.parametrize(
    ("does", "expected"),
    [("computes", "loop MainThread had no CPU for "), ("sleeps", "loop MainThread was blocked ")],
)
def test_a_machine_that_is_too_busy_is_told_from_a_line_that_blocks(
    does: str, expected: str
) -> None:
    """On one CPU with three other processes: a call that waits blocks as it would alone."""
    ended = subprocess.run(
        [sys.executable, "-P", "-c", STARVED, does],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert "" == ended.stderr
    assert ended.stdout.startswith(f"DEBUG aiometrics: {expected}"), ended.stdout
