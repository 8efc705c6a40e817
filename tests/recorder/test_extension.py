"""The C recorder as an extension: what it shares with Python, when it stands back, and that nothing it meets makes it write astray."""

from __future__ import annotations

import asyncio
import gc
import importlib.util
import os
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import AsyncGenerator, Coroutine, Generator
from types import CodeType
from typing import Any

import pytest
from support.tracing import every_loop

from aiometrics import current_request, request
from aiometrics.base.internal_errors import InternalErrors
from aiometrics.instrumentation.instrumentation import Instrumentation
from aiometrics.options import Options
from aiometrics.pages import layout
from aiometrics.pages.layout import COROUTINE, HEADER, YIELD_POINT, from_seconds
from aiometrics.pages.page import Page
from aiometrics.recorder import locate
from aiometrics.recorder.implementation import IMPLEMENTATIONS, _reason_against_core
from aiometrics.recorder.labels import Labels
from aiometrics.recorder.places import Places
from aiometrics.recorder.scope import current_scope
from aiometrics.testing import ManualClock, traced_loop

EAGERLY: dict[str, Any] = {"eager_start": True} if sys.version_info >= (3, 12) else {}
WITHOUT_THE_CORE = {
    "the environment": (
        "import os; os.environ['AIOMETRICS_NO_EXTENSIONS'] = '1'",
        "AIOMETRICS_NO_EXTENSIONS is set",
    ),
    "a build without it": (
        "import sys; sys.modules['aiometrics.recorder._core'] = None",
        "the C core does not load: import of aiometrics.recorder._core halted; None in sys.modules",
    ),
    "no GIL": (
        "import sysconfig; sysconfig.get_config_vars()['Py_GIL_DISABLED'] = 1",
        "this Python runs without the GIL, which the C core relies on",
    ),
}
FALLBACK = """
import logging, sys, urllib.request
logging.basicConfig(level=logging.INFO, format="[%(name)s] %(message)s", stream=sys.stdout)
{arrangement}
import aiometrics
with aiometrics.start_exporter(port=0, addr="127.0.0.1") as exporter:
    text = urllib.request.urlopen(exporter.url).read().decode()
print(aiometrics.IMPLEMENTATION, *(line for line in text.splitlines() if line.startswith("aiometrics_build_info")))
print("the core was" if sys.modules.get("aiometrics.recorder._core") else "the core was not", "loaded")
"""
IN_A_SUBINTERPRETER = """
import sys
{interpreters}
def run(code):
    {run}
run("import asyncio, aiometrics; print(aiometrics.IMPLEMENTATION, flush=True); asyncio.run(asyncio.sleep(0))")
import aiometrics
print(aiometrics.IMPLEMENTATION, flush=True)
from aiometrics.testing import traced_loop
with traced_loop() as traced:
    run("import asyncio; asyncio.run(asyncio.wait_for(asyncio.sleep(0), 1)); print('runs', flush=True)")
    print(len(traced.snapshot().coroutines), flush=True)
"""


def python(code: str) -> list[str]:
    """The lines that a fresh interpreter prints."""
    env = {name: value for name, value in os.environ.items() if name != "AIOMETRICS_NO_EXTENSIONS"}
    return subprocess.run(
        [sys.executable, "-c", code], env=env, check=True, capture_output=True, text=True
    ).stdout.splitlines()


@pytest.fixture(scope="module")
def core() -> Any:
    """The extension."""
    return pytest.importorskip(
        "aiometrics.recorder._core", reason="the C core is not built here", exc_type=ImportError
    )


def test_c_and_python_mean_the_same_words(core: Any) -> None:
    """Every offset that C was compiled with is the one that the layout declares."""
    assert {
        (record, field): vars(layout)[record][field] for record, field in core.LAYOUT
    } == core.LAYOUT
    assert {
        "HEADER",
        "LOOP",
        "COROUTINE",
        "YIELD_POINT",
        "SCOPE_ERROR",
        "REQUEST",
        "REQUEST_WAIT",
    } == {record for record, _ in core.LAYOUT}


@pytest.mark.parametrize("because", WITHOUT_THE_CORE)
def test_where_the_core_cannot_run_python_does_and_says_so_once(because: str) -> None:
    """One log line with the reason, the metric that tells, and the extension is not even loaded."""
    arrangement, reason = WITHOUT_THE_CORE[because]
    message, info, loaded = python(FALLBACK.format(arrangement=arrangement))
    assert message.startswith("[aiometrics] aiometrics: the recorder runs in Python")
    assert message.endswith(reason)
    assert info.startswith("python aiometrics_build_info{")
    assert 'implementation="python"' in info
    assert "the core was not loaded" == loaded


@pytest.mark.parametrize(
    "offsets",
    [{}, {("LOOP", "finished"): 7}, {("LOOP", "forgotten"): 0}, {("FORGOTTEN", "finished"): 0}],
)
def test_a_core_that_was_built_from_other_sources_is_left_alone(
    offsets: dict[tuple[str, str], int],
) -> None:
    """It would write pages that nobody reads as they were meant."""
    arrangement = f"import types; stale = types.ModuleType('stale'); stale.LAYOUT = {offsets}; sys.modules['aiometrics.recorder._core'] = stale"
    message, info, _ = python(FALLBACK.format(arrangement=arrangement))
    assert message.endswith("the C core was built from other sources. Build it again")
    assert 'implementation="python"' in info


def test_an_extension_that_is_there_is_used() -> None:
    """Else every test of the C recorder would be left out in silence."""
    built = importlib.util.find_spec("aiometrics.recorder._core") is not None
    assert (built and _reason_against_core() is None) == ("c" in IMPLEMENTATIONS)


def test_other_interpreters_of_the_process_get_the_python_recorder(core: Any) -> None:
    """What the core hooks may belong to all of them, so that it serves the main one only, and leaves the tasks of others alone."""
    del core
    if sys.version_info >= (3, 14):
        interpreters, run = (
            "from concurrent import interpreters",
            "interpreters.create().exec(code)",
        )
    elif sys.version_info >= (3, 13):
        interpreters, run = (
            "import _interpreters",
            "_interpreters.exec(_interpreters.create('legacy'), code)",
        )
    else:
        interpreters, run = (
            "import _xxsubinterpreters",
            "_xxsubinterpreters.run_string(_xxsubinterpreters.create(isolated=False), code)",
        )
    assert ["python", "c", "runs", "0"] == python(
        IN_A_SUBINTERPRETER.format(interpreters=interpreters, run=run)
    )


def page(**header: int) -> Page:
    """A small page, with words of its header changed."""
    made = Page(from_seconds((0.1,), (1.0, 2.0), 2, 3, 4), blocking_threshold_ns=1)
    for name, value in header.items():
        made.words[HEADER[name]] = value
    return made


class Forged:
    """What passes for a page."""

    def __init__(self, memory: Any, **parts: Any) -> None:
        self.memory = memory
        self.layout = type(
            "Parts", (), {name: getattr(page().layout, name) for name in PARTS} | parts
        )


PARTS = (
    "bounds",
    "loop",
    "start_delay",
    "iterations",
    "coroutines",
    "yield_points",
    "scope_errors",
    "requests",
    "request_waits",
)


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("start", [-1, 10**6, 2**62, 2**70, None])
def test_a_page_whose_parts_lie_outside_of_it_is_refused(
    core: Any, part: str, start: int | None
) -> None:
    """Nothing is written past the end of a page, whatever its layout says."""
    with pytest.raises((ValueError, OverflowError, TypeError)):
        core.Recorder(Forged(page().memory, **{part: start}), None, None)


@pytest.mark.parametrize(
    "field",
    [
        "segment_bounds",
        "wait_bounds",
        "max_coroutines",
        "max_yield_points",
        "max_requests",
        "weight",
    ],
)
@pytest.mark.parametrize("value", [0, -1, 2**40])
def test_a_page_whose_header_makes_no_sense_is_refused(core: Any, field: str, value: int) -> None:
    """So is one whose numbers do not fit together."""
    with pytest.raises(
        ValueError, match=f"word {HEADER[field]} of a page is 1 to [0-9]+, not {value}"
    ):
        core.Recorder(page(**{field: value}), None, None)


def test_a_page_that_is_too_small_or_not_to_be_written_is_refused(core: Any) -> None:
    """So is one that holds fewer records than it says."""
    memory = page().memory
    for short in (b"", memory[: 8 * len(HEADER) - 8], memory[: 8 * page().layout.yield_points]):
        with pytest.raises(ValueError, match=r"not enough|do not fit"):
            core.Recorder(Forged(bytearray(short)), None, None)
    with pytest.raises(BufferError):
        core.Recorder(Forged(bytes(memory)), None, None)
    for wrong in ((), (page(),), (page(), None), (None, None, None), (page(), None, None, None)):
        with pytest.raises((TypeError, AttributeError)):
            core.Recorder(*wrong)


def test_the_clock_of_the_core_is_the_systems(core: Any) -> None:
    """It never goes back, and is within a microsecond of what the system says before and after, while the anchor changes many times."""
    readings = [
        (time.monotonic_ns(), core.monotonic_ns(), time.monotonic_ns()) for _ in range(200_000)
    ]
    ours = [reading for _, reading, _ in readings]
    assert sorted(ours) == ours
    assert [] == [
        (before, now, after)
        for before, now, after in readings
        if not before - 1_000 <= now <= after + 1_000
    ]


def test_only_a_recorder_makes_traced_coroutines(core: Any) -> None:
    """One without a recorder would have nowhere to write."""
    with pytest.raises(TypeError):
        core.TracedCoroutine()


def test_a_scope_takes_what_it_is_given_at_its_word_only_if_that_can_be(
    implementation: str,
) -> None:
    """Records that are in the page, statuses that there are; what it is asked twice, or too early, it does not do."""
    core = IMPLEMENTATIONS[implementation]
    made = page()
    recorder = core.recorder(made, None, None)
    scope: Any = core.scope()
    assert (-1, [], None, 0) == (scope.leave(0), scope.charges(), scope.outer, scope.entered_ns)
    assert not scope.enter(recorder, 1)
    scope = core.scope()
    if core.core is not None:
        for wrong in ((), (recorder,), (None, 1), (recorder, None), (recorder, 1, 1)):
            with pytest.raises(TypeError):
                scope.enter(*wrong)
        for record in (-1, 5, 2**40):
            with pytest.raises((ValueError, OverflowError)):
                scope.enter(recorder, record)
    assert scope.enter(recorder, 4)
    assert not scope.enter(recorder, 4)
    if core.core is not None:
        for status in (-1, 3, 2**40):
            with pytest.raises((ValueError, OverflowError)):
                scope.leave(status)
    assert 0 <= scope.leave(2)
    assert -1 == scope.leave(2)
    other: Any = core.scope()
    current_scope.set(other)
    assert other.enter(recorder, 0)
    assert None is other.outer
    current_scope.set(None)
    recorder.retire()
    assert -1 == other.leave(0)
    assert not core.scope().enter(recorder, 0)
    cancelled = made.layout.request_wall(4, 2)
    assert 1 == sum(made.words[cancelled + 1 : cancelled + made.layout.wait_words])


class MeddlingLabels(Labels):
    """Something else happens when it is asked where waits go for the first time."""

    meddle: Any

    def request_wait(self, request: int, point: int) -> int:
        """The record."""
        meddle, self.meddle = self.meddle, lambda: None
        meddle()
        return super().request_wait(request, point)


class MeddlingClock(ManualClock):
    """Something else happens when it is read for the first time since it was told so."""

    def __init__(self) -> None:
        super().__init__()
        self.meddle: Any = lambda: None

    def __call__(self) -> int:
        """The time."""
        meddle, self.meddle = self.meddle, lambda: None
        meddle()
        return super().__call__()


@pytest.mark.skipif(not EAGERLY, reason="eager tasks came with Python 3.12")
def test_a_request_may_wait_while_its_end_is_timed(implementation: str) -> None:
    """What nobody has named by then goes to (other)."""

    async def eager() -> None:
        clock.advance(0.5)
        await asyncio.sleep(0)

    async def main() -> None:
        with request("GET /"):
            await asyncio.sleep(0.25)
            clock.meddle = lambda: asyncio.Task(eager(), loop=traced.loop, **EAGERLY)
        await asyncio.sleep(0)

    clock = MeddlingClock()
    with traced_loop(clock=clock, implementation=implementation) as traced:
        traced.run(main())
        seen = traced.snapshot()
    assert {("GET /", "asyncio.sleep"): 250_000_000, ("(other)", "(other)"): 500_000_000} == {
        wait.labels: wait.wait_ns for wait in seen.request_waits
    }


@pytest.mark.parametrize("what", ["retire", "leave", "charge"])
def test_anything_may_happen_while_the_waits_of_a_request_are_named(
    implementation: str, what: str
) -> None:
    """The recorder goes, the scope is left, or new places are met: each wait is counted once, and nothing where it must not be."""

    async def eager() -> None:
        await asyncio.sleep(0)

    async def main() -> None:
        with request("GET /"):
            await asyncio.sleep(0.25)
            await asyncio.sleep(0.5)
            scope: Any = current_request()
            labels: Any = traced.instrumentation.slots()[0].directory
            labels.__class__ = MeddlingLabels
            labels.meddle = {
                "retire": lambda: traced.instrumentation.uninstrument(traced.loop),
                "leave": lambda: scope.leave(0),
                "charge": lambda: [
                    asyncio.Task(eager(), loop=traced.loop, **EAGERLY) for _ in range(3)
                ],
            }[what]

    with traced_loop(implementation=implementation) as traced:
        traced.loop.run_until_complete(main())
        traced.run(asyncio.sleep(1))
        seen = traced.snapshot()
    waited = {wait.awaits: wait.wait_ns for wait in seen.request_waits if wait.wait_ns}
    assert ({} if what == "retire" else {"asyncio.sleep": 750_000_000}) == waited
    assert (0 if what == "retire" else 1) == seen.request("GET /").wall["completed"].count


def test_each_loop_has_its_tasks_whoever_constructs_them(implementation: str) -> None:
    """A task that is given no loop is the running one's, also after another loop's."""

    async def works() -> None:
        await asyncio.sleep(0)

    async def main() -> None:
        await asyncio.Task(works())

    with every_loop(implementation) as instrumentation:
        loops = [asyncio.new_event_loop(), asyncio.new_event_loop()]
        for loop, name in zip(loops * 2, "abab", strict=True):
            thread = threading.Thread(target=loop.run_until_complete, args=(main(),), name=name)
            thread.start()
            thread.join()
        seen = instrumentation.snapshot()
        for loop in loops:
            loop.close()
    assert {"a": 4, "b": 4} == {loop.loop: loop.start_delay.count for loop in seen.loops}


class Meddling(Places):
    """Something else happens while a place is being named: a garbage collection, another thread."""

    def __init__(self) -> None:
        super().__init__()
        self.meddle: Any = lambda: None

    def yield_point(self, owner: Any) -> str:
        """The place, named anew for each task."""
        meddle, self.meddle = self.meddle, lambda: None
        meddle()
        return super().yield_point(owner)


async def waits() -> None:
    """Wait for nothing."""
    await asyncio.get_running_loop().create_future()


def test_a_recorder_may_be_retired_while_it_names_a_place(implementation: str) -> None:
    """Nothing is written any more then, neither to its page nor to tasks that have gone meanwhile."""
    places = Meddling()
    with every_loop(implementation) as instrumentation:
        instrumentation._slot_pool._places = places

        async def last() -> None:
            await asyncio.sleep(60)

        async def main() -> None:
            asyncio.get_running_loop().set_exception_handler(lambda *_: None)
            lost: list[asyncio.Task[None]] = [asyncio.create_task(waits()) for _ in range(3)]
            await asyncio.sleep(0)

            def meddle() -> None:
                instrumentation.remove()
                lost.clear()
                gc.collect()

            places.meddle = meddle
            task = asyncio.create_task(last())
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            task.cancel()

        asyncio.run(main())
        page = instrumentation._slot_pool.all()[0].page
    assert 0 == page.words[HEADER["live"]]
    assert 0 == sum(
        page.words[page.layout.coroutine(number) + COROUTINE["live"]] for number in range(5)
    )
    assert 0 == sum(
        page.words[page.layout.yield_point(number) + YIELD_POINT["suspended"]]
        for number in range(20)
    )


def test_a_coroutine_may_be_closed_while_its_place_is_named(implementation: str) -> None:
    """What the await chain consists of may go while it is being named."""
    places = Meddling()

    async def inner() -> None:
        await asyncio.sleep(60)

    async def outer() -> None:
        await inner()

    async def main() -> BaseException | None:
        task = asyncio.create_task(outer())
        coro: Any = task.get_coro()
        places.meddle = lambda: (getattr(coro, "__wrapped__", coro).close(), gc.collect())
        await asyncio.wait([task])
        return task.exception()

    with every_loop(implementation) as instrumentation:
        instrumentation._slot_pool._places = places
        instrumentation.instrument_every_loop()
        error = asyncio.run(main())
        seen = instrumentation.snapshot()
    assert isinstance(error, RuntimeError)
    assert 0 == sum(entry.live for entry in seen.coroutines)


def test_segments_may_end_in_any_order(implementation: str) -> None:
    """Threads or greenlets that step tasks of one loop by turns break no rule of memory, and the gauges come back to nothing."""
    entered, leave = [threading.Event(), threading.Event()], [threading.Event(), threading.Event()]

    async def works(number: int) -> None:
        entered[number].set()
        leave[number].wait()

    def drive(coro: Any) -> None:
        with pytest.raises(StopIteration):
            coro.send(None)

    with every_loop(implementation) as instrumentation:
        loop = asyncio.new_event_loop()
        tasks: list[Any] = [loop.create_task(works(number)) for number in range(2)]
        threads = [threading.Thread(target=drive, args=(task._coro,)) for task in tasks]
        for thread, event in zip(threads, entered, strict=True):
            thread.start()
            event.wait()
        for task in tasks:
            task._log_destroy_pending = False
        del task
        leave[0].set()
        threads.pop(0).join()
        vars(loop)["_ready"].clear()
        tasks.pop(0)
        gc.collect()
        leave[1].set()
        threads.pop(0).join()
        seen = instrumentation.snapshot()
        vars(loop)["_ready"].clear()
        loop.close()
    assert [None] == [found.running for found in seen.loops]
    assert [(2, 0, 0)] == [
        (entry.created, entry.live, entry.destroyed_pending) for entry in seen.coroutines
    ]


class InterruptedClock(ManualClock):
    """A signal's handler raises while it is read."""

    def __init__(self, error: type[BaseException], readings: int) -> None:
        super().__init__()
        self.error = error
        self.readings = readings
        self.armed = False

    def __call__(self) -> int:
        """The time, or the exception of the handler, once, after so many readings."""
        if not self.armed:
            return super().__call__()
        self.readings -= 1
        self.armed = self.readings >= 0
        if not self.armed:
            raise self.error(3)
        return super().__call__()


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("readings", range(6))
def test_an_interrupt_that_hits_the_recorder_reaches_the_application(
    implementation: str, error: type[BaseException], readings: int
) -> None:
    """What a signal's handler raises is not ours to keep, whenever Python runs for us; nothing is said to go on from then on."""
    clock = InterruptedClock(error, readings)

    async def main() -> None:
        loop = asyncio.get_running_loop()
        vars(loop)["_selector"].select = select  # the turns have a clock of their own
        clock.armed = True
        loop.call_soon(int)
        await asyncio.sleep(0)
        child = asyncio.sleep(0)
        try:
            await asyncio.create_task(child)
        finally:
            child.close()

    instrumentation = Instrumentation(
        Options(), clock=clock, unix_clock=clock, implementation=IMPLEMENTATIONS[implementation]
    )
    gc.disable()  # a collection is timed by the same clock, and what hits its callback Python itself keeps from the application
    try:
        with asyncio.Runner() as runner:
            select = vars(runner.get_loop())["_selector"].select
            instrumentation.instrument_every_loop()
            with pytest.raises(error) as caught:
                runner.run(main())
            clock.advance(1)
            seen = instrumentation.snapshot()
    finally:
        gc.enable()
        instrumentation.remove()
    assert (3,) == caught.value.args
    assert {"recorder": 1} == seen.errors
    assert [(None, 0, 0)] == [
        (loop.running, loop.heartbeat_ns, loop.blocking_ns) for loop in seen.loops
    ]
    assert 0 == sum(entry.live for entry in seen.coroutines)


def test_an_object_that_cannot_be_asked_is_left_to_asyncio(implementation: str) -> None:
    """Only asyncio says what is wrong with it, and other tasks are traced on."""

    class Odd:
        """Does not tell what it is."""

        @property  # type: ignore[misc]
        def __class__(self) -> type:
            raise ValueError("odd")

    async def main() -> None:
        with pytest.raises(ValueError, match="odd"):
            asyncio.Task(Odd(), loop=asyncio.get_running_loop())  # type: ignore[arg-type, unused-awaitable]
        await asyncio.create_task(asyncio.sleep(0))

    with every_loop(implementation) as instrumentation:
        asyncio.run(main())
        assert 1 == instrumentation.snapshot().coroutine("asyncio.tasks.sleep").created


def test_caches_start_anew_when_they_are_full(
    implementation: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A program that makes code for ever is recorded on, and its code is not kept for ever."""
    monkeypatch.setattr(
        locate, "CACHE_ENTRIES", locate.CACHE_ENTRIES // 10
    )  # those of the Python recorder, which takes its time
    count = 17_000 if implementation == "c" else 1_700
    body = "async def work(sleep):\n    await sleep(0)\n"
    codes: list[weakref.ref[CodeType]] = []

    async def generations(count: int) -> None:
        for _ in range(count):
            namespace: dict[str, Any] = {"__name__": "made"}
            exec(body, namespace)  # noqa: S102 - a template engine would do the same
            codes.append(weakref.ref(namespace["work"].__code__))
            await asyncio.create_task(namespace["work"](asyncio.sleep))

    with traced_loop(implementation=implementation) as traced:
        traced.run(generations(count))
        seen = traced.snapshot()
        gc.collect()
        kept = sum(code() is not None for code in codes)
    assert count == seen.coroutine("made.work").created
    assert {count} == {point.segments.count for point in seen.yield_points_of("made.work")}
    assert kept < count / 17


def test_the_default_of_anext_is_not_what_is_awaited(implementation: str) -> None:
    """The chain goes on to the generator, whatever else the awaitable refers to."""

    async def items() -> AsyncGenerator[int, None]:
        await asyncio.sleep(1)
        yield 1

    async def default() -> None:
        await asyncio.Event().wait()

    async def main() -> None:
        other: Coroutine[Any, Any, None] = default()
        await anext(items(), other)
        other.close()

    with traced_loop(implementation=implementation) as traced:
        traced.run(main())
        points = traced.snapshot().yield_points
    assert {"asyncio.sleep"} == {point.awaits for point in points if point.waits.sum_ns}


def test_tasks_created_by_finalizers_while_a_place_is_named(implementation: str) -> None:
    """Garbage is collected anywhere, and what its finalizers do is recorded too."""
    places, created = Meddling(), []

    class Finalized:
        """Creates a task when it goes."""

        def __init__(self) -> None:
            self.cycle = self

        def __del__(self) -> None:
            created.append(asyncio.create_task(asyncio.sleep(0)))

    def meddle() -> None:
        Finalized()
        gc.collect()

    async def main() -> None:
        places.meddle = meddle
        await asyncio.sleep(0)
        await asyncio.gather(*created)

    with every_loop(implementation) as instrumentation:
        instrumentation._slot_pool._places = places
        asyncio.run(main())
        seen = instrumentation.snapshot()
    assert 1 == len(created)
    assert 1 == seen.coroutine("asyncio.tasks.sleep").created
    assert 0 == sum(entry.live for entry in seen.coroutines)


def test_a_recorder_is_freed_with_what_refers_to_it(implementation: str) -> None:
    """A recorder that its own clock refers to is collected with it."""
    made = page()

    def cycle() -> None:
        def clock() -> int:
            return 1 if recorder else 0

        recorder = IMPLEMENTATIONS[implementation].recorder(
            made, Labels(made, Places(), InternalErrors()), InternalErrors(), clock=clock
        )

        async def works() -> None:
            pass

        coro = works()
        recorder.trace(coro).close()

    def alive() -> int:
        gc.collect()
        return sum(
            type(obj) is IMPLEMENTATIONS[implementation].recorder for obj in gc.get_objects()
        )

    before = alive()
    cycle()
    assert before == alive()


@pytest.fixture(autouse=True)
def _nothing_unraisable(monkeypatch: pytest.MonkeyPatch) -> Generator[None, None, None]:
    """What goes wrong in a finalizer fails the test."""
    unraisable: list[object] = []
    monkeypatch.setattr(sys, "unraisablehook", lambda what: unraisable.append(what.exc_value))
    yield
    assert [] == unraisable
