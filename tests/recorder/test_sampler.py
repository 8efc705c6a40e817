"""Samples: which line is named, in which coroutine, and for how much time they stand."""

from __future__ import annotations

import asyncio
import gc
import inspect
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from itertools import pairwise
from math import sqrt
from random import Random
from typing import Any

import pytest
from support.tracing import every_loop

import aiometrics
from aiometrics.instrumentation.instrumentation import Instrumentation
from aiometrics.pages.layout import LOOP
from aiometrics.pages.snapshot import ITSELF, RETURN, START
from aiometrics.recorder.implementation import IMPLEMENTATIONS
from aiometrics.testing import TracedLoop, traced_loop

MS = 1_000_000
FILE = f"{__name__.replace('.', '/')}.py"
#: A program that ends while its loop is sampled, in each of the ways in which programs end.
ENDS = """
import asyncio, os, sys, time
import aiometrics
aiometrics.start_exporter(0, "127.0.0.1", registry=None, sample_interval=1e-4)
async def main():
    end = time.monotonic() + 0.3
    while time.monotonic() < end:
        sum(range(100))
        await asyncio.sleep(0)
asyncio.run(main())
if sys.argv[1] == "forks":
    child = os.fork()
    asyncio.run(main())
    if child:
        assert os.waitpid(child, 0)[1] == 0
asyncio.run(main())
print("done", flush=True)
if sys.argv[1] == "raises":
    raise SystemExit(0)
"""


def here() -> int:
    """The line of the caller."""
    return sys._getframe(1).f_lineno


@pytest.fixture
def traced(implementation: str) -> Iterator[TracedLoop]:
    """A traced loop on each recorder."""
    with traced_loop(implementation=implementation) as made:
        yield made


def held(traced: TracedLoop) -> dict[tuple[str, str], tuple[int, int]]:
    """Samples and milliseconds by coroutine and line."""
    return {
        (entry.coroutine.rpartition(".")[2], entry.held_at): (
            entry.samples,
            entry.active_ns // MS,
        )
        for entry in traced.snapshot().held
    }


def name_of(function: Any) -> str:
    """The name of a function as it stands in a place."""
    return str(function.__qualname__)


def test_a_sample_is_counted_at_its_line_and_coroutine(traced: TracedLoop) -> None:
    """The line is where the loop is, and not where the segment ends."""
    tick, lines = traced.instrumentation.sampler.tick, []

    def work() -> None:
        lines.append(here() + 1)
        tick(10 * MS)

    async def main() -> None:
        work()
        work()
        lines.append(here() + 1)
        tick(5 * MS)
        await asyncio.sleep(0)

    traced.run(main())
    assert {
        ("main", f"{FILE}:{lines[0]} {name_of(work)}"): (2, 20),
        ("main", f"{FILE}:{lines[2]} {name_of(main)}"): (1, 5),
    } == held(traced)


def test_what_a_library_does_is_counted_at_the_line_that_called_it(traced: TracedLoop) -> None:
    """Its function is named behind the line."""
    tick, lines = traced.instrumentation.sampler.tick, []

    async def main() -> None:
        lines.append(here() + 1)
        with ExitStack() as stack:
            stack.callback(tick, 10 * MS)

    traced.run(main())
    place = f"{FILE}:{lines[0]} {name_of(main)} > contextlib.ExitStack.__exit__"
    assert {("main", place): (1, 10)} == held(traced)


@pytest.mark.parametrize("called", [True, False], ids=["called", "in a hook"])
def test_what_we_do_is_counted_at_the_line_of_the_application(
    traced: TracedLoop,
    called: bool,  # noqa: FBT001 - a parameter
) -> None:
    """What it called is named if it is ours, but not what our hooks call."""
    lines = []
    tick = traced.instrumentation.sampler.tick
    works = code_of_ours("aiometrics.exporter.made_up", WORKS, tick=tick)
    hook = code_of_ours("aiometrics.instrumentation.hooks.tasks", HOOK, works=works)

    async def main() -> None:
        lines.append(here() + 1)
        works() if called else hook()

    traced.run(main())
    place = f"{FILE}:{lines[0]} {name_of(main)}"
    assert {("main", f"{place} > aiometrics.works" if called else place): (1, 10)} == held(traced)


WORKS = """
from contextlib import ExitStack
from random import Random

def works():
    with ExitStack() as stack:
        stack.callback(tick, 10_000_000)
"""
HOOK = """
def hook():
    works()
"""


def code_of_ours(module: str, source: str, **names: Any) -> Any:
    """Return the function that ``source`` defines last, as if a module of aiometrics had it."""
    names["__name__"] = module
    exec(compile(source, aiometrics.__file__, "exec"), names)  # noqa: S102 - it stands above
    return list(names.values())[-1]


#: A function that is sampled where so much more stack is left.
DEEP = """
def deep(limit):
    try:
        setrecursionlimit(limit)
    except RecursionError:
        return None  # there is none
    try:
        tick(10_000_000)
        return limit
    finally:
        setrecursionlimit(usual)
"""


@pytest.mark.skipif("c" not in IMPLEMENTATIONS, reason="Python samples in another thread")
def test_a_stack_that_is_used_up_is_no_error_of_the_application() -> None:
    """The sample, which is taken on its stack, waits until there is room to find its line.

    No collection may come there: its callbacks, of whatever tool, would have no room either.
    """
    usual = sys.getrecursionlimit()
    reached: list[int] = []

    async def main() -> None:
        depth = len(inspect.stack(0))
        for limit in range(depth, depth + 60):
            names: dict[str, Any] = {"tick": made.instrumentation.sampler.tick, "usual": usual}
            names |= {"setrecursionlimit": sys.setrecursionlimit, "__name__": f"application{limit}"}
            exec(compile(DEEP, f"{limit}.py", "exec"), names)  # noqa: S102 - it stands above
            if names["deep"](limit) is not None:
                reached.append(limit)

    gc.disable()
    try:
        with traced_loop(implementation="c") as made:
            made.run(main())
            snapshot = made.snapshot()
    finally:
        gc.enable()
    assert len(reached) > 30
    assert len(reached) == sum(entry.samples for entry in snapshot.held)
    assert {} == snapshot.errors


@pytest.mark.skipif("c" not in IMPLEMENTATIONS, reason="Python samples in another thread")
def test_an_error_of_ours_is_no_error_of_the_application(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is counted, and the sample is, too."""

    def fail(*_: object) -> None:
        raise ValueError("made up")

    async def main() -> None:
        made.instrumentation.sampler.tick(10 * MS)

    monkeypatch.setattr("aiometrics.recorder.held.frame_kind", fail)
    with (
        pytest.raises(AssertionError, match=r"by probe: \{'sampler': 1\}"),
        traced_loop(implementation="c") as made,
    ):
        made.run(main())  # it raises at the end
    snapshot = made.snapshot()
    assert [1] == [entry.samples for entry in snapshot.held]


def test_callbacks_and_the_loop_itself(traced: TracedLoop) -> None:
    """A callback is a segment of its own; what is none is the loop's own work."""
    tick, lines = traced.instrumentation.sampler.tick, []

    def callback() -> None:
        lines.append(here() + 1)
        tick(10 * MS)

    async def main() -> None:
        asyncio.get_running_loop().call_soon(callback)
        await asyncio.sleep(0)

    traced.run(main())
    assert {("(callback)", f"{FILE}:{lines[0]} {name_of(callback)}"): (1, 10)} == held(traced)
    loop: Any = traced.loop
    plain = loop._process_events

    def process_events(events: Any) -> None:
        tick(3 * MS)
        plain(events)

    loop._process_events = process_events
    traced.run(main())
    found = {line: ms for (coroutine, line), (_, ms) in held(traced).items() if coroutine == ITSELF}
    assert found
    assert all(ms % 3 == 0 for ms in found.values())


def test_samples_add_up_to_the_active_time(traced: TracedLoop) -> None:
    """Each stands for the active time since the last one, however late it is, and for no other."""
    tick, clock, lines = traced.instrumentation.sampler.tick, traced.clock, []

    async def main() -> None:
        lines.append(here() + 6)
        for ms in 1, 300, 2:
            await asyncio.sleep(60)
            clock.advance_ns(ms * MS)
            await asyncio.sleep(0)
            clock.advance_ns(ms * MS)
            tick(60_000 * MS, clock())

    traced.run(main())
    assert {("main", f"{FILE}:{lines[0]} {name_of(main)}"): (3, 606)} == held(traced)
    assert 606 * MS == traced.snapshot().loops[0].active_ns


def test_late_samples_do_not_favour_long_segments(traced: TracedLoop) -> None:
    """On a busy machine every other sample comes late; the shares are still the true ones."""
    draw, clock, tick = Random(7), traced.clock, traced.instrumentation.sampler.tick  # noqa: S311 - no secret
    looked_ns = due_ns = clock()

    def work(ns: int) -> None:
        nonlocal looked_ns, due_ns
        end_ns = clock() + ns
        while due_ns < end_ns:
            clock.advance_ns(max(0, due_ns - clock()))
            tick(due_ns - looked_ns, due_ns)
            looked_ns = due_ns
            due_ns += round(draw.expovariate(1 / (10 * MS))) + draw.choice((0, 100 * MS))
        clock.advance_ns(end_ns - clock())

    async def long() -> None:
        work(100 * MS)

    async def short() -> None:
        for _ in range(100):
            work(MS)
            await asyncio.sleep(0)

    async def main() -> None:
        for _ in range(500):
            await asyncio.create_task(long())
            await asyncio.create_task(short())

    traced.run(main())
    assert abs(share_of("long", traced) - 0.5) < 0.03


def share_of(function: str, traced: TracedLoop) -> float:
    """The share of a coroutine in the time that samples stand for."""
    entries = [
        (entry.coroutine.rpartition(".")[2], entry.active_ns) for entry in traced.snapshot().held
    ]
    return sum(ns for name, ns in entries if name == function) / sum(ns for _, ns in entries)


def test_an_idle_loop_is_not_sampled(traced: TracedLoop) -> None:
    """Neither before it runs, nor while it waits, nor after it."""
    tick = traced.instrumentation.sampler.tick

    def tick_while_it_waits() -> None:
        (slot,) = traced.instrumentation.slots()
        while not slot.page.words[slot.page.layout.loop + LOOP["poll_since_ns"]]:
            time.sleep(1e-3)
        tick(10 * MS)

    async def main() -> None:
        await asyncio.to_thread(tick_while_it_waits)

    traced.clock.advance_ns(1)
    tick(10 * MS)
    traced.run(main())
    tick(10 * MS)
    assert {} == held(traced)


def test_garbage_collection_is_named(traced: TracedLoop) -> None:
    """It is named behind the line that allocated, with its generation, and never aiometrics."""
    tick, lines = traced.instrumentation.sampler.tick, []

    def witness(phase: str, _: Any) -> None:
        if phase == "stop":
            tick(10 * MS)

    async def main() -> None:
        lines.append(here() + 1)
        gc.collect(1)

    gc.callbacks.insert(0, witness)
    gc.disable()  # another collection would be named, too
    try:
        traced.run(main())
    finally:
        gc.enable()
        gc.callbacks.remove(witness)
    found = [line for line, _ in held(traced).items() if line[0] == "main"]
    assert found
    assert all(line.endswith(" > (garbage collection, generation 1)") for _, line in found)


def test_segments_are_counted_by_where_they_began_and_ended(traced: TracedLoop) -> None:
    """All of a coroutine's segments add up over its paths."""
    lines: list[int] = []

    async def main() -> None:
        for _ in range(3):
            lines.append(here() + 2)
            traced.clock.advance_ns(MS)
            await asyncio.sleep(0)
        traced.clock.advance_ns(MS)

    traced.run(main())
    snapshot = traced.snapshot()
    point = f"{FILE}:{lines[0]} {name_of(main)}"
    paths = {
        (path.began_at, path.ended_at): (path.segments, path.active_ns // MS)
        for path in snapshot.segment_paths
        if path.coroutine.endswith(name_of(main))
    }
    assert {
        (START, point): (1, 1),
        (point, point): (2, 2),
        (point, RETURN): (1, 1),
    } == paths
    segments = sum(entry.segments.count for entry in snapshot.yield_points)
    assert segments == sum(path.segments for path in snapshot.segment_paths)


def test_paths_without_room_are_counted_as_other(implementation: str) -> None:
    """The sums stay whole."""

    async def main() -> None:
        for _ in range(5):
            await asyncio.sleep(0)
            await asyncio.sleep(1)
            await asyncio.gather(*(asyncio.create_task(asyncio.sleep(0)) for _ in range(3)))

    with traced_loop(implementation=implementation, max_yield_points=3) as traced:
        traced.run(main())
        snapshot = traced.snapshot()
    segments = sum(entry.segments.count for entry in snapshot.yield_points)
    assert segments == sum(path.segments for path in snapshot.segment_paths)


#: The time of ``short()``, and that of ``short()`` and ``long()``, up to some moment.
Taken = tuple[int, int]
#: The difference of shares that is a bias, how many standard errors that must be, and how many
#: samples it takes to know them.
BIAS, ERRORS, SAMPLES = 0.25, 6, 100


def taken(entries: Any) -> Taken:
    """Add up the ns of ``short()``, and of both functions, by their coroutines."""
    found = {"short": 0, "long": 0}
    for coroutine, ns in entries:
        name = coroutine.rpartition(".")[2]
        found[name] = found.get(name, 0) + ns
    return found["short"], found["short"] + found["long"]


def share_and_errors(moments: list[Taken]) -> tuple[float, list[float]]:
    """The share of ``short()`` in all, and by how much it is off for the sake of each round."""
    rounds = [(b[0] - a[0], b[1] - a[1]) for a, b in pairwise(moments)]
    short, both = moments[-1][0] - moments[0][0], moments[-1][1] - moments[0][1]
    share = short / both if both else 0.0
    return share, [(a - share * b) / (both or 1) for a, b in rounds]


class Shares:
    """What samples say of ``short()`` and ``long()``, and what is true, round by round."""

    def __init__(self, made: Instrumentation) -> None:
        self._made = made
        self._sampled: list[Taken] = []
        self._exact: list[Taken] = []
        self._samples = 0
        self._deadline = time.monotonic() + 240

    def note(self) -> None:
        """A round is over."""
        seen = self._made.snapshot()
        self._samples = sum(entry.samples for entry in seen.held)
        self._sampled.append(taken((entry.coroutine, entry.active_ns) for entry in seen.held))
        self._exact.append(
            taken((point.coroutine, point.segments.sum_ns) for point in seen.yield_points)
        )

    def bias(self) -> tuple[float, float]:
        """The difference of the shares, and its standard error."""
        sampled, sampled_errors = share_and_errors(self._sampled)
        exact, exact_errors = share_and_errors(self._exact)
        errors = [a - b for a, b in zip(sampled_errors, exact_errors, strict=True)]
        return sampled - exact, sqrt(sum(error * error for error in errors))

    @property
    def known(self) -> bool:
        """Whether a bias can be told from chance: a thread that gets no CPU takes few samples."""
        if time.monotonic() > self._deadline:
            return True
        enough = self._samples >= SAMPLES and len(self._exact) > 25
        return enough and ERRORS * self.bias()[1] <= BIAS


def work(seconds: float) -> None:
    """Compute for so much time of the thread."""
    end = time.thread_time() + seconds
    while time.thread_time() < end:
        pass


async def short_and_long(shares: Shares) -> None:
    """About as much time in short segments as in long ones."""

    async def short() -> None:
        work(100e-6)

    async def long() -> None:
        work(0.02)

    while not shares.known:
        shares.note()
        await asyncio.create_task(long())
        for _ in range(200):
            await asyncio.create_task(short())


@pytest.mark.skipif("c" not in IMPLEMENTATIONS, reason="Python waits for the GIL, which is biased")
@pytest.mark.parametrize("where", ["main", "thread"])
def test_shares_do_not_depend_on_the_length_of_segments(where: str) -> None:
    """Short segments are seen as often as they deserve, within many times what chance allows.

    A thread that waits for the GIL sees hardly any of them.
    """
    with every_loop("c") as made:
        shares = Shares(made)
        sampling = threading.Thread(target=made.sampler.run, args=(MS,))
        sampling.start()
        if where == "main":
            asyncio.run(short_and_long(shares))
        else:
            runs = threading.Thread(target=lambda: asyncio.run(short_and_long(shares)))
            runs.start()
            runs.join()
        made.sampler.stop()
        sampling.join()
        snapshot = made.snapshot()
    bias, error = shares.bias()
    assert ERRORS * error <= BIAS
    assert abs(bias) < BIAS
    assert {} == snapshot.errors


@pytest.fixture
def no_forced_switches() -> Iterator[None]:
    """No thread has to let go of the GIL, so that one which waits for it is not cut short."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1000)
    yield
    sys.setswitchinterval(interval)


@pytest.mark.skipif("c" not in IMPLEMENTATIONS, reason="Python samples in another thread")
@pytest.mark.usefixtures("no_forced_switches")
def test_the_sampling_thread_asks_loops_for_the_gil() -> None:
    """A loop of short turns would else take it back before that thread wakes up.

    The thread would have it only in the next long segment, for which all the time until then would
    count.
    """
    hand_over = IMPLEMENTATIONS["c"].hand_over
    asked: list[bool] = []

    async def main() -> None:
        end = time.monotonic() + 60
        while not hand_over.asked and time.monotonic() < end:
            pass
        asked.append(hand_over.asked)

    with every_loop("c") as made:
        sampling = threading.Thread(target=made.sampler.run, args=(MS,))
        sampling.start()
        runs = threading.Thread(target=lambda: asyncio.run(main()))
        runs.start()
        runs.join()
        made.sampler.stop()
        sampling.join()
    assert [True] == asked
    assert not hand_over.asked


def test_a_wait_that_never_returns_is_named_while_it_lasts() -> None:
    """The sampling thread looks itself when the loop does not answer."""
    released = threading.Event()

    async def main() -> None:
        released.wait(60)

    with aiometrics.start_exporter(
        0, "127.0.0.1", registry=None, sample_interval=1e-3, watchdog=False
    ) as exporter:

        def watches() -> None:
            while not any("threading.Event.wait" in entry.held_at for entry in seen()):
                time.sleep(0.01)
            released.set()

        def seen() -> Any:
            return exporter.snapshot().held

        watcher = threading.Thread(target=watches)
        watcher.start()
        asyncio.run(main())
        watcher.join()
    assert released.is_set()


@pytest.mark.parametrize("extensions", [True, False], ids=["c", "python"])
@pytest.mark.parametrize("how", ["returns", "raises", "forks"])
def test_a_program_ends_as_without_samples(how: str, extensions: bool) -> None:  # noqa: FBT001 - a parameter
    """The sampling thread ends before the interpreter does; a child has no part in it."""
    told = subprocess.run(
        [sys.executable, "-X", "dev", "-W", "ignore", "-c", ENDS, how],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        env={} if extensions else {"AIOMETRICS_NO_EXTENSIONS": "1"},
    )
    assert (0, ["done"] * (1 + (how == "forks"))) == (told.returncode, told.stdout.split()), (
        told.stderr
    )


def test_no_sampling_without_an_interval() -> None:
    """Then there is no thread for it either."""
    threads = {thread.name for thread in threading.enumerate()}
    with aiometrics.start_exporter(0, "127.0.0.1", registry=None, sample_interval=0):
        now = {thread.name for thread in threading.enumerate()}
    assert "aiometrics-sampler" not in now - threads
