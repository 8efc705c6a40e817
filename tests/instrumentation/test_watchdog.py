"""The watchdog: what counts as a block, which line it names, and what it logs."""

from __future__ import annotations

import asyncio
import gc
import logging
import re
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from types import FrameType, ModuleType
from typing import Any

import pytest
from support.samples import page
from support.tracing import every_loop

import aiometrics
from aiometrics.base.internal_errors import InternalErrors
from aiometrics.instrumentation import block_log, thread_times
from aiometrics.instrumentation.block_log import MINUTE_NS
from aiometrics.instrumentation.loop_stats import LoopStats
from aiometrics.instrumentation.watchdog import MIN_PAUSE_NS, Watchdog, blocked_ns, pause_ns
from aiometrics.pages.layout import LOOP, NAME_BYTES
from aiometrics.pages.snapshot import OTHER
from aiometrics.recorder import stack
from aiometrics.recorder.places import Places
from aiometrics.recorder.stack import (
    MAX_FRAMES,
    SHORT,
    UNKNOWN,
    Call,
    Frame,
    _without_collection,
    blocked_at,
    calls,
    frames,
    shortened,
    stack_of_thread,
)
from aiometrics.testing import TracedLoop, traced_loop


@contextmanager
def collecting(*, enabled: bool) -> Iterator[None]:
    """Turn garbage collection on or off."""
    was = gc.isenabled()
    (gc.enable if enabled else gc.disable)()
    try:
        yield
    finally:
        (gc.enable if was else gc.disable)()


MS = 1_000_000
#: Threads come and go, garbage lets other threads run when it is collected, and a thread is looked
#: at all the time.
RESTLESS = """
import os, sys, threading, warnings
from aiometrics.recorder.implementation import IMPLEMENTATIONS
stack_of_thread = IMPLEMENTATIONS[sys.argv[1]].stack_of_thread
warnings.simplefilter("ignore")
sys.setswitchinterval(1e-5)
class Garbage:
    def __init__(self):
        self.itself, self.file = self, open(os.devnull)
def start_threads():
    while True:
        thread = threading.Thread(target=int)
        thread.start()
        thread.join()
def make_garbage():
    while True:
        Garbage()
for work in (start_threads, start_threads, make_garbage):
    threading.Thread(target=work, daemon=True).start()
main = threading.get_ident()
for _ in range(1_000_000):
    stack_of_thread(main)
print("done", flush=True)
os._exit(0)
"""
FILE = f"{__name__.replace('.', '/')}.py"


def here(up: int = 0) -> int:
    """The line of the caller."""
    return sys._getframe(1 + up).f_lineno


class Watched:
    """A traced loop in virtual time, and a watchdog that looks when a test calls it."""

    def __init__(self, traced: TracedLoop) -> None:
        self.traced = traced
        made = traced.instrumentation
        self.dog = Watchdog(
            made.slots,
            made.places,
            made.internal_errors,
            threshold_ns=100 * MS,
            interval=0.05,
            stack_of_thread=made.stack_of_thread,
            clock=traced.clock,
        )

    def work(self, ms: int) -> None:
        """Block the loop."""
        self.traced.clock.advance_ns(ms * MS)

    @property
    def samples(self) -> dict[str, int]:
        """Samples by place."""
        (loop,) = self.traced.snapshot().loops
        return dict(loop.block_samples)


@pytest.fixture
def watched(
    implementation: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Watched]:
    """A watched loop on each recorder, of which every block is logged.

    Its time is virtual, to which the time that a busy machine lets it wait for a CPU says nothing.
    """
    monkeypatch.setattr(thread_times, "runqueue_ns", lambda _: 0)
    caplog.set_level(logging.DEBUG, block_log.logger.name)
    with traced_loop(implementation=implementation) as traced:
        yield Watched(traced)


def logged(caplog: pytest.LogCaptureFixture) -> list[str]:
    """The messages that were logged about blocks, without what the kernel said of the thread."""
    return [
        re.sub(r" \(\d+\.\d+ s of it on a CPU\)", "", record.getMessage())
        for record in caplog.records
        if record.name == "aiometrics.blocked"
    ]


@pytest.mark.parametrize(
    ("since_ns", "now_ns", "expected"),
    [(0, 500, 0), (100, 100, 0), (100, 199, 0), (100, 200, 100), (100, 9_000, 8_900), (100, 50, 0)],
    ids=["idle", "new", "short", "at the threshold", "long", "begun after the clock was read"],
)
def test_when_a_segment_blocks(since_ns: int, now_ns: int, expected: int) -> None:
    """A segment in progress blocks once it reaches the threshold, with all of its time."""
    assert expected == blocked_ns(since_ns, now_ns, 100)


@pytest.mark.parametrize(
    ("since_ns", "now_ns", "threshold_ns", "expected"),
    [
        (0, 500, 100 * MS, 100 * MS),
        (500, 500, 100 * MS, 100 * MS),
        (500, 500 + 60 * MS, 100 * MS, 40 * MS),
        (500, 499 + 100 * MS, 100 * MS, MIN_PAUSE_NS),
        (500, 500 + 100 * MS, 100 * MS, 50 * MS),
        (500, 500 + 9_000 * MS, 100 * MS, 50 * MS),
        (0, 500, 1, 50 * MS),
        (500, 400, 100 * MS, 100 * MS),
    ],
    ids=[
        "idle",
        "new",
        "half way",
        "nearly",
        "at the threshold",
        "long",
        "low threshold",
        "begun after the clock was read",
    ],
)
def test_when_to_look_again(since_ns: int, now_ns: int, threshold_ns: int, expected: int) -> None:
    """It looks when there can be a block, then every interval, and never in a busy loop."""
    assert expected == pause_ns(since_ns, now_ns, threshold_ns, 50 * MS)


def test_a_page_that_was_overwritten_tells_nothing(
    watched: Watched, caplog: pytest.LogCaptureFixture
) -> None:
    """Read as numbers, it would be a block of hours, in a coroutine whose name is megabytes long.

    Such a line in the log stops every thread that logs, where nobody reads it.
    """

    async def main() -> None:
        (slot,) = watched.traced.instrumentation.slots()
        memory = slot.page.memory
        before, memory[:] = memory[:], b"\xff" * len(memory)
        looks.append(watched.dog.look())
        texts.append(slot.page.text(-1))
        memory[:] = before

    looks: list[int] = []
    texts: list[str] = []
    watched.traced.run(main())
    assert [100 * MS] == looks
    assert [NAME_BYTES] == [len(text) for text in texts]
    assert [] == logged(caplog)
    assert {} == watched.samples


def test_a_look_returns_when_to_look_again(watched: Watched) -> None:
    """It does so without any loop too."""

    async def main() -> None:
        watched.work(30)
        looks.append(watched.dog.look())
        watched.work(70)
        looks.append(watched.dog.look())

    looks = [watched.dog.look()]
    watched.traced.run(main())
    looks.append(watched.dog.look())
    assert [50 * MS, 70 * MS, 50 * MS, 100 * MS] == looks


def test_every_look_at_a_block_is_a_sample_of_its_line(watched: Watched) -> None:
    """Only blocks are sampled. The line is where the thread is, not where the segment ends."""
    lines: list[int] = []

    async def main() -> None:
        watched.work(99)
        watched.dog.look()
        watched.work(1)
        lines.append(here() + 1)
        watched.dog.look()
        for _ in range(2):
            lines.append(here() + 1)
            watched.dog.look()
        await asyncio.sleep(0)
        watched.dog.look()

    watched.dog.look()
    watched.traced.run(main())
    name = f"{main.__qualname__} > aiometrics.Watchdog.look"
    assert {f"{FILE}:{lines[0]} {name}": 1, f"{FILE}:{lines[1]} {name}": 2} == watched.samples


def test_a_block_inside_of_a_library_is_charged_to_the_line_that_called_it(
    watched: Watched,
) -> None:
    """The place is that line with the function it called, whatever the library calls in turn."""
    lines: list[int] = []

    async def main() -> None:
        watched.work(100)
        lines.append(here() + 1)
        with ExitStack() as stack:
            stack.callback(watched.dog.look)

    watched.traced.run(main())
    assert {
        f"{FILE}:{lines[0]} {main.__qualname__} > contextlib.ExitStack.__exit__": 1
    } == watched.samples


def test_a_collection_that_began_while_a_look_was_late_is_not_the_cause(watched: Watched) -> None:
    """Its callbacks are where the thread gives up the GIL, for which the look had to wait."""
    late_ms = [60, 0]

    def in_collection(phase: str, _: Any) -> None:
        if phase == "start":
            watched.work(60)
            watched.dog.look()

    async def main() -> None:
        watched.work(100)
        watched.dog.look()
        for milliseconds in late_ms:
            watched.work(milliseconds)
            gc.collect(1)

    gc.disable()  # no other collection may come
    gc.callbacks.append(in_collection)
    try:
        watched.traced.run(main())
    finally:
        gc.callbacks.remove(in_collection)
        gc.enable()
    causes = [place.rpartition(" > ")[2] for place in watched.samples if "in_collection" in place]
    assert ["aiometrics.Watchdog.look", "(garbage collection, generation 1)"] == causes


def test_a_callback_that_blocks_is_named_too(
    watched: Watched, caplog: pytest.LogCaptureFixture
) -> None:
    """A callback of a timer or a protocol blocks like a task."""

    def callback() -> None:
        watched.work(150)
        watched.dog.look()

    async def main() -> None:
        asyncio.get_running_loop().call_soon(callback)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        watched.dog.look()

    watched.traced.run(main())
    ((place, samples),) = watched.samples.items()
    assert (1, True) == (
        samples,
        place.endswith(f"{callback.__qualname__} > aiometrics.Watchdog.look"),
    )
    (line,) = logged(caplog)
    assert f"aiometrics: loop MainThread was blocked for 0.150 s by (callback) at {place}" == line


def test_a_stack_that_may_belong_to_the_next_segment_is_dropped(
    watched: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The segment ended after the page was read, and before the stack was."""

    def goes_on(_: int) -> list[Frame]:
        (slot,) = watched.traced.instrumentation.slots()
        slot.page.words[slot.page.layout.loop + LOOP["segment_since_ns"]] += 1
        return []

    async def main() -> None:
        watched.work(100)
        with monkeypatch.context() as patched:
            patched.setattr(watched.dog, "_stack_of_thread", goes_on)
            watched.dog.look()

    watched.traced.run(main())
    assert {} == watched.samples


def test_a_thread_that_is_not_found_is_unknown(
    watched: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The block counts nevertheless."""

    async def main() -> None:
        watched.work(100)
        with monkeypatch.context() as patched:
            patched.setattr(watched.dog, "_stack_of_thread", lambda _: [])
            watched.dog.look()

    watched.traced.run(main())
    assert {UNKNOWN: 1} == watched.samples


@pytest.mark.skipif(
    sys.version_info >= (3, 12), reason="garbage is collected between instructions only"
)
def test_looking_at_a_stack_does_not_deadlock_all_threads(implementation: str) -> None:
    """With sys._current_frames() alone they mostly do before a million calls."""
    told = subprocess.run(
        [sys.executable, "-c", RESTLESS, implementation],
        capture_output=True,
        text=True,
        timeout=550,
        check=False,
    )
    assert "done\n" == told.stdout, told.stderr


@pytest.mark.parametrize("enabled", [True, False])
def test_frames_are_looked_up_while_collection_is_disabled(
    monkeypatch: pytest.MonkeyPatch,
    enabled: bool,  # noqa: FBT001 - a parameter
) -> None:
    """A collection in the middle could deadlock all threads. The setting is restored afterwards."""
    seen: list[bool] = []

    def of_threads() -> dict[int, FrameType]:
        seen.append(gc.isenabled())
        return {1: here_is}

    here_is = sys._getframe()
    monkeypatch.setattr(stack, "COLLECTS_ANYWHERE", True)
    monkeypatch.setattr(sys, "_current_frames", of_threads)
    with collecting(enabled=enabled):
        assert here_is.f_code is stack_of_thread(1)[0][0]
        assert [] == stack_of_thread(2)
        assert enabled == gc.isenabled()
    assert [False, False] == seen


def test_collection_is_enabled_again_after_a_failed_look_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The look-up may fail because memory is short."""

    def of_threads() -> dict[int, FrameType]:
        raise MemoryError

    monkeypatch.setattr(stack, "COLLECTS_ANYWHERE", True)
    monkeypatch.setattr(sys, "_current_frames", of_threads)
    with collecting(enabled=True), pytest.raises(MemoryError):
        stack_of_thread(1)
    assert gc.isenabled()


def test_collection_stays_disabled_if_the_application_disables_it_meanwhile(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The application disables it between our question and the look-up."""
    monkeypatch.setattr(stack, "COLLECTS_ANYWHERE", True)
    with collecting(enabled=False):
        assert [] == _without_collection(list)
        assert not gc.isenabled()


def test_one_line_is_logged_when_the_block_is_over(
    watched: Watched, caplog: pytest.LogCaptureFixture
) -> None:
    """It has the exact duration, the coroutine, and the line of most samples."""
    lines: list[int] = []

    def blocks() -> None:
        for _ in range(2):
            watched.work(120)
            lines.append(here() + 1)
            watched.dog.look()

    async def main() -> None:
        lines.append(here() + 1)
        blocks()
        watched.dog.look()
        watched.work(7)
        assert [] == logged(caplog)
        await asyncio.sleep(0)
        watched.work(20)
        watched.dog.look()
        watched.dog.look()

    watched.traced.run(main())
    place = f"{FILE}:{lines[1]} {blocks.__qualname__} > aiometrics.Watchdog.look"
    (line,) = logged(caplog)
    assert (
        f"aiometrics: loop MainThread was blocked for 0.247 s by {__name__}.{main.__qualname__} "
        f"at {place}"
    ) == line


def test_two_blocks_of_one_loop_are_two_incidents(
    watched: Watched, caplog: pytest.LogCaptureFixture
) -> None:
    """They are two although no look fell between them, and have only their own durations."""

    async def main() -> None:
        watched.work(100)
        watched.dog.look()
        await asyncio.sleep(0)
        watched.work(200)
        watched.dog.look()
        await asyncio.sleep(0)
        watched.work(50)
        watched.dog.look()

    watched.traced.run(main())
    assert ["0.100", "0.200"] == [line.split()[6] for line in logged(caplog)]


def test_a_block_that_does_not_end_is_logged_too(
    watched: Watched, caplog: pytest.LogCaptureFixture
) -> None:
    """It is logged after five seconds, with the stack, and then not again."""
    lines: list[int] = []

    async def main() -> None:
        for ms in (4_999, 1, 1, 3_000):
            watched.work(ms)
            lines.append(here() + 1)
            watched.dog.look()
        await asyncio.sleep(0)
        watched.dog.look()

    watched.traced.run(main())
    (line,) = logged(caplog)
    told, _, stack = line.partition(": ")[2].partition(": ")
    place = f"{FILE}:{lines[0]} {main.__qualname__}"
    assert (
        "loop MainThread has been blocked for 5.000 s and still is, "
        f"by {__name__}.{main.__qualname__} at {place} > aiometrics.Watchdog.look"
    ) == told
    assert stack.startswith(f"{place} > ")
    assert ["WARNING"] == [record.levelname for record in caplog.records]
    assert 4 == sum(watched.samples.values())


def test_a_flood_of_blocks_is_not_a_flood_of_lines(
    watched: Watched, caplog: pytest.LogCaptureFixture
) -> None:
    """The samples count every block, and a line says how many there were."""

    async def main() -> None:
        for _ in range(30):
            watched.work(100)
            watched.dog.look()
            await asyncio.sleep(0)
        watched.dog.look()
        watched.traced.clock.advance_ns(MINUTE_NS)
        await asyncio.sleep(0)
        watched.dog.look()

    watched.traced.run(main())
    first, count = logged(caplog)
    _, _, place = first.partition(f" was blocked for 0.100 s by {__name__}.{main.__qualname__} at ")
    assert f"aiometrics: blocks at {place}: 29 more, 2.900 s in all" == count
    assert 30 == sum(watched.samples.values())


def test_places_are_bounded() -> None:
    """A loop has a hundred places; later ones are (other), and known ones go on."""
    loop_stats = LoopStats(page())
    for number in range(102):
        loop_stats.count_block_sample(f"shop.py:{number} f")
    loop_stats.count_block_sample("shop.py:0 f")
    assert (101, 2, 2) == (
        len(loop_stats.block_samples),
        loop_stats.block_samples[OTHER],
        loop_stats.block_samples["shop.py:0 f"],
    )


def uvloop_loop() -> Any:
    """A loop of uvloop's, where there is one."""
    return pytest.importorskip("uvloop").new_event_loop()


@pytest.mark.parametrize("make", [asyncio.SelectorEventLoop, uvloop_loop])
@pytest.mark.parametrize("trace", [False, True], ids=["bare", "traced"])
def test_a_stack_begins_where_the_loop_runs_something(
    make: Callable[[], Any], implementation: str, *, trace: bool
) -> None:
    """Neither the program that runs the loop nor aiometrics is part of what the loop does."""
    found: list[list[Call]] = []

    async def main() -> None:
        def inner() -> None:
            found.append(calls([*frames([sys._getframe()])]))

        inner()

    with every_loop(implementation) if trace else nullcontext():
        loop = make()
        try:
            loop.run_until_complete(main())
        finally:
            loop.close()
    assert [["inner", "main"]] == [[call.code.co_name for call in stack] for stack in found]


def frames_of(source: str, module: str, path: str) -> list[Call]:
    """The stack at the call of ``stop()`` in a module of that name and file."""
    found: list[Call] = []
    stop = lambda: found.extend(calls([*frames([sys._getframe(1)])]))  # noqa: E731 - a function would need a name in the stack
    exec(compile(source, path, "exec"), {"__name__": module, "stop": stop})  # noqa: S102 - code of ours, in a place of its own
    return found


SITE = "/usr/lib/python3/site-packages/requests/api.py"


def test_without_the_application_the_library_is_named() -> None:
    """The innermost frame decides only among frames of the same origin."""
    library = frames_of("def get():\n    stop()\nget()", "requests.api", SITE)[:2]
    application = frames_of("def main():\n    stop()\nmain()", "shop.main", "/srv/shop/main.py")[:1]
    places = Places()
    assert "requests/api.py:2 get" == blocked_at(library, places)
    assert "shop/main.py:2 main > requests.get" == blocked_at([library[0], *application], places)
    assert "shop/main.py:2 main" == blocked_at(application, places)
    assert UNKNOWN == blocked_at([], places)


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("namedtuple_Point", "lambda cls, x: stop()"),
        ("shop.models", "def __init__(self, x):\n    stop()"),
    ],
    ids=["named tuple", "data class"],
)
def test_generated_code_has_no_line_of_its_own(module: str, source: str) -> None:
    """The caller of code that a library generated is named, even in a module of the application."""
    application = frames_of("def main():\n    stop()\nmain()", "shop.main", "/srv/shop/main.py")[:1]
    generated = Call(compile(source, "<string>", "exec").co_consts[0], 1, module)
    expected = f"shop/main.py:2 main > {module.partition('.')[0]}.{generated.code.co_qualname}"
    assert expected == blocked_at([generated, *application], Places(application=["shop"]))


def test_code_without_a_file_has_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    """``python -c``, the prompt and notebooks have no file, but lines that the user knows."""
    stack = [
        Call(compile("pass", "<stdin>", "exec"), 3, "__main__"),
        *frames_of("stop()", "requests.api", SITE)[:1],
    ]
    main = ModuleType("__main__")
    monkeypatch.setitem(sys.modules, "__main__", main)
    monkeypatch.setattr(main, "__file__", "/srv/shop/main.py", raising=False)
    assert "requests/api.py:1 <module> > __main__.<module>" == blocked_at(stack, Places())
    monkeypatch.delattr(main, "__file__")
    assert "<stdin>:3 <module>" == blocked_at(stack, Places())


def test_our_own_work_is_never_the_place() -> None:
    """Neither are functions that it calls, except those of the application."""
    places = Places()
    ours = frames_of(
        "def look():\n    stop()\nlook()",
        "aiometrics.instrumentation.loop_stats",
        "/usr/lib/python3/site-packages/aiometrics/instrumentation/loop_stats.py",
    )[:1]
    application = frames_of("def main():\n    stop()\nmain()", "shop.main", "/srv/shop/main.py")[:1]
    library = frames_of("def get():\n    stop()\nget()", "requests.api", SITE)[:1]
    assert UNKNOWN == blocked_at(ours, places)
    assert UNKNOWN == blocked_at([*library, *ours], places)
    assert "requests/api.py:2 get > aiometrics.look" == blocked_at([*ours, *library], places)
    assert "shop/main.py:2 main > aiometrics.look" == blocked_at(
        [*library, *ours, *application], places
    )
    assert "shop/main.py:2 main" == blocked_at([*application, *ours, *library], places)


def test_no_line_is_blamed_while_inflicted_waits_are_counted(
    watched: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The block has ended by then, and the loop's thread runs our own code."""

    async def main() -> None:
        (slot,) = watched.traced.instrumentation.slots()
        monkeypatch.setattr(
            slot.loop_stats, "note_thread", lambda: looks.append(watched.dog.look())
        )
        watched.work(100)
        await asyncio.sleep(0)
        monkeypatch.undo()

    looks: list[int] = []
    gc.disable()  # which would look at whose thread it is in as well
    try:
        watched.traced.run(main())
    finally:
        gc.enable()
    assert ([100 * MS], {}) == (looks, watched.samples)


def test_a_long_stack_is_cut() -> None:
    """It shows the innermost calls; of a deep recursion not every frame is looked at."""
    deep = frames_of(
        f"def f(n):\n    f(n - 1) if n else stop()\nf({MAX_FRAMES + 40})",
        "shop.deep",
        "/srv/shop/deep.py",
    )
    assert MAX_FRAMES == len(deep)
    told = shortened(deep)
    assert ["...", *["shop/deep.py:2 f"] * SHORT] == told.split(" > ")
    assert "shop/deep.py:2 f" == shortened(deep[:1])


def test_an_error_ends_the_watchdog_only(caplog: pytest.LogCaptureFixture) -> None:
    """The error is logged and counted once, and the thread has ended."""

    def slots() -> Any:
        raise LookupError("no slots")

    internal_errors = InternalErrors()
    dog = Watchdog(slots, Places(), internal_errors, threshold_ns=1, interval=1e-9)
    dog.start()
    dog._thread.join(300)
    assert ({"watchdog": 1}, False) == (internal_errors.counts(), dog._thread.is_alive())
    assert [
        (
            "aiometrics: internal error in probe 'watchdog', which is now off; "
            "the application is not affected"
        )
    ] == [record.getMessage() for record in caplog.records]
    dog.stop()


def watchdogs() -> list[threading.Thread]:
    """The threads of watchdogs that run."""
    return [thread for thread in threading.enumerate() if thread.name == "aiometrics-watchdog"]


def test_the_exporter_starts_and_stops_it() -> None:
    """It is one daemon thread, unless the option is off."""
    with aiometrics.start_exporter(0, "127.0.0.1", registry=None):
        assert [True] == [thread.daemon for thread in watchdogs()]
    assert [] == watchdogs()
    with aiometrics.start_exporter(0, "127.0.0.1", registry=None, watchdog=False):
        assert [] == watchdogs()


def test_a_log_handler_may_stop_the_exporter(caplog: pytest.LogCaptureFixture) -> None:
    """The handler runs in the watchdog's thread, which does not wait for itself."""
    stopped = threading.Event()

    class Stops(logging.Handler):
        """A log handler that stops the exporter."""

        def emit(self, _: logging.LogRecord) -> None:
            exporter.stop()
            stopped.set()

    async def main() -> None:
        # Blocks until it was seen, and again until that was heard of.
        while not any(loop.block_samples for loop in exporter.snapshot().loops):
            pass
        assert await asyncio.to_thread(stopped.wait, 300)

    handler, logger = Stops(), block_log.logger
    caplog.set_level(logging.DEBUG, logger.name)
    with aiometrics.start_exporter(
        0, "127.0.0.1", registry=None, blocking_threshold=1e-6, watchdog_interval=1e-4
    ) as exporter:
        logger.addHandler(handler)
        try:
            asyncio.run(main())
        finally:
            logger.removeHandler(handler)
    assert {} == exporter.snapshot().errors
    exporter._watchers[0]._thread.join()  # the line goes to other handlers after this one
    assert logged(caplog)
    for thread in watchdogs():
        thread.join(300)
