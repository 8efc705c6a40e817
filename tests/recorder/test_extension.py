"""The C core as an extension module, and what must not break either recorder.

This covers when the core is used, which arguments it refuses, and interruptions at bad moments.
"""

from __future__ import annotations

import asyncio
import gc
import importlib
import importlib.util
import os
import runpy
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import AsyncGenerator, Coroutine, Generator
from pathlib import Path
from types import CodeType
from typing import Any

import pytest
from support.tracing import every_loop

from aiometrics import current_request, request
from aiometrics.base.internal_errors import InternalErrors
from aiometrics.base.options import RecordingOptions
from aiometrics.instrumentation.instrumentation import Instrumentation
from aiometrics.pages import layout
from aiometrics.pages.layout import COROUTINE, HEADER, YIELD_POINT, from_seconds
from aiometrics.pages.page import Page
from aiometrics.recorder import c_constants, c_header, table
from aiometrics.recorder.implementation import IMPLEMENTATIONS, _reason_against_core
from aiometrics.recorder.labels import Labels
from aiometrics.recorder.places import Places
from aiometrics.recorder.scope import current_scope
from aiometrics.testing import ManualClock, traced_loop

CHECKOUT = Path(__file__).parents[2]
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
lines = text.splitlines()
(info,) = (line for line in lines if line.startswith("aiometrics_build_info"))
print(aiometrics.IMPLEMENTATION, info)
core = sys.modules.get("aiometrics.recorder._core")
print("the core was loaded" if core else "the core was not loaded")
"""
#: The module that gives the core samples to look at, before the package is imported: one is wrong.
UNLIKE = """
import importlib.util, pathlib, sys
(package,) = importlib.util.find_spec("aiometrics").submodule_search_locations
spec = importlib.util.spec_from_file_location(
    "aiometrics.recorder.await_chain", pathlib.Path(package, "recorder/await_chain.py")
)
chain = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(chain)
in_every_state = chain.in_every_state
chain.in_every_state = lambda: [*in_every_state(), object()]
"""
FRAMES = """
exec({arrangement!r})
import asyncio, re
import aiometrics
from aiometrics.testing import traced_loop
from prometheus_client import generate_latest, CollectorRegistry

async def inner(depth):
    if depth:
        return (depth, await inner(depth - 1))
    await asyncio.sleep(0)

async def numbers():
    for number in range(2):
        await asyncio.sleep(0)
        yield number

async def outer():
    await inner(5)
    async for _ in numbers():
        pass
    await asyncio.wait_for(asyncio.gather(inner(1), inner(2)), 1)

registry = CollectorRegistry()
registry.register(aiometrics.Collector())
print(*re.findall('frames="[^"]*"', generate_latest(registry).decode()))
with traced_loop() as traced:
    traced.run(outer())
    for point in traced.snapshot().yield_points:
        print(point.yield_point, "awaits", point.awaits)
"""
IN_A_SUBINTERPRETER = """
import sys
{interpreters}
def run(code):
    {run}
run("import aiometrics; print(aiometrics.IMPLEMENTATION, flush=True)")
run("import asyncio; asyncio.run(asyncio.sleep(0))")
import aiometrics
print(aiometrics.IMPLEMENTATION, flush=True)
from aiometrics.testing import traced_loop
with traced_loop() as traced:
    run("import asyncio; asyncio.run(asyncio.wait_for(asyncio.sleep(0), 1))")
    run("print('runs', flush=True)")
    print(len(traced.snapshot().coroutines), flush=True)
"""


def python(code: str) -> list[str]:
    """Run code in a new interpreter and return the lines that it prints."""
    env = {name: value for name, value in os.environ.items() if name != "AIOMETRICS_NO_EXTENSIONS"}
    return subprocess.run(
        [sys.executable, "-c", code], env=env, check=True, capture_output=True, text=True
    ).stdout.splitlines()


@pytest.fixture(scope="module")
def core() -> Any:
    """The extension module."""
    return pytest.importorskip(
        "aiometrics.recorder._core", reason="the C core is not built here", exc_type=ImportError
    )


def test_the_checked_in_header_is_what_the_generator_writes() -> None:
    """When a constant changes, ``python -m aiometrics.recorder.c_header`` writes a new header."""
    checked_in = CHECKOUT / "aiometrics/recorder/csrc/constants.h"
    assert checked_in.read_text(encoding="ascii") == c_header.header()


def test_the_core_was_compiled_with_the_constants_of_python(core: Any) -> None:
    """The digest covers all offsets in a page, and all else on which both recorders must agree."""
    assert core.CONSTANTS_DIGEST == c_constants.DIGEST


@pytest.mark.parametrize(
    "change",
    [
        ("aiometrics.pages.layout", "LOOP", {**layout.LOOP, "finished": 7}),
        ("aiometrics.pages.layout", "HEADER", {**layout.HEADER, "more": len(layout.HEADER)}),
        ("aiometrics.pages.layout", "STATUSES", ("failed", "completed", "cancelled")),
        ("aiometrics.recorder.scope", "MAX_POINTS", 65),
        ("aiometrics.pages.snapshot", "RETURN", "(returns)"),
    ],
)
def test_any_change_of_a_shared_constant_changes_the_digest(
    change: tuple[str, str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Offsets, their number, their order, limits and names."""
    module, name, value = change
    monkeypatch.setattr(importlib.import_module(module), name, value)
    changed = runpy.run_path(str(c_constants.__file__))
    assert c_constants.DIGEST != changed["DIGEST"]


@pytest.mark.parametrize("because", WITHOUT_THE_CORE)
def test_python_records_when_the_core_cannot_and_logs_why_once(because: str) -> None:
    """A log line gives the reason, a metric shows it, and the extension is not even loaded."""
    arrangement, reason = WITHOUT_THE_CORE[because]
    message, info, loaded = python(FALLBACK.format(arrangement=arrangement))
    assert message.startswith("[aiometrics] aiometrics: the recorder runs in Python")
    assert message.endswith(reason)
    assert info.startswith("python aiometrics_build_info{")
    assert 'implementation="python"' in info
    assert "the core was not loaded" == loaded


def test_frames_of_every_version_that_is_known_are_read(core: Any) -> None:
    """Else each step costs more, and nobody notices."""
    assert ("direct" if sys.version_info < (3, 16) else "descriptors") == core.FRAMES


def test_frames_that_are_not_as_expected_are_not_read(core: Any) -> None:
    """Then the getters are asked, which find the same, and the metric tells which it is."""
    direct, asked = (python(FRAMES.format(arrangement=arrangement)) for arrangement in ("", UNLIKE))
    assert (f'frames="{core.FRAMES}"', 'frames="descriptors"') == (direct.pop(0), asked.pop(0))
    assert {"inner", "numbers", "outer"} <= {line.split()[1] for line in asked}
    assert direct == asked


@pytest.mark.parametrize(
    "attributes", [{}, {"CONSTANTS_DIGEST": None}, {"CONSTANTS_DIGEST": "0" * 16}]
)
def test_a_core_built_from_other_sources_is_not_used(attributes: dict[str, object]) -> None:
    """It would write pages that readers misread."""
    arrangement = (
        "import types; stale = types.ModuleType('stale'); "
        f"vars(stale).update({attributes}); sys.modules['aiometrics.recorder._core'] = stale"
    )
    message, info, _ = python(FALLBACK.format(arrangement=arrangement))
    assert message.endswith("the C core was built from other sources. Build it again")
    assert 'implementation="python"' in info


def test_a_core_that_was_built_is_used() -> None:
    """Otherwise all tests of the C recorder would be skipped silently."""
    built = importlib.util.find_spec("aiometrics.recorder._core") is not None
    assert (built and _reason_against_core() is None) == ("c" in IMPLEMENTATIONS)


def test_subinterpreters_use_the_python_recorder(core: Any) -> None:
    """The core runs only in the main interpreter and leaves the tasks of others alone.

    The types that it hooks may belong to all interpreters.
    """
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
    """Return a small page, with words of its header changed."""
    made = Page(from_seconds((0.1,), (1.0, 2.0), 2, 3, 4), blocking_threshold_ns=1)
    for name, value in header.items():
        made.words[HEADER[name]] = value
    return made


class Forged:
    """Passes for a page, with any memory and layout."""

    def __init__(self, memory: Any, **parts: Any) -> None:
        self.memory = memory
        self.layout = type(
            "Parts", (), {name: getattr(page().layout, name) for name in PARTS} | parts
        )


PARTS = (
    "segment_pieces_ns",
    "wait_pieces_ns",
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
    """Nothing is written outside of a page, whatever its layout says."""
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
def test_a_page_with_an_invalid_header_is_refused(core: Any, field: str, value: int) -> None:
    """The error names the word of the header, its limits and its value."""
    with pytest.raises(
        ValueError, match=f"word {HEADER[field]} of a page is 1 to [0-9]+, not {value}"
    ):
        core.Recorder(page(**{field: value}), None, None)


def test_a_page_that_is_too_small_or_read_only_is_refused(core: Any) -> None:
    """So is one with fewer records than its header says, and so are wrong arguments."""
    memory = page().memory
    for short in (b"", memory[: 8 * len(HEADER) - 8], memory[: 8 * page().layout.yield_points]):
        with pytest.raises(ValueError, match=r"not enough|do not fit"):
            core.Recorder(Forged(bytearray(short)), None, None)
    with pytest.raises(BufferError):
        core.Recorder(Forged(bytes(memory)), None, None)
    for wrong in ((), (page(),), (page(), None), (None, None, None), (page(), None, None, None)):
        with pytest.raises((TypeError, AttributeError)):
            core.Recorder(*wrong)


def test_the_clock_of_the_core_agrees_with_the_system(core: Any) -> None:
    """It never goes back, and is within a microsecond of the system's clock.

    The anchor changes many times meanwhile.
    """
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


def test_traced_coroutines_cannot_be_made_directly(core: Any) -> None:
    """One without a recorder would have nowhere to write."""
    with pytest.raises(TypeError):
        core.TracedCoroutine()


def test_a_scope_checks_its_arguments_and_its_state(
    implementation: str,
) -> None:
    """It accepts existing records and statuses only, and ignores calls at the wrong time."""
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
    """Calls ``meddle`` when it is first asked for the record of a wait."""

    meddle: Any

    def request_wait(self, request: int, point: int) -> int:
        """Return the record."""
        meddle, self.meddle = self.meddle, lambda: None
        meddle()
        return super().request_wait(request, point)


class MeddlingClock(ManualClock):
    """Calls ``meddle`` once when it is next read."""

    def __init__(self) -> None:
        super().__init__()
        self.meddle: Any = lambda: None

    def __call__(self) -> int:
        """Return the time."""
        meddle, self.meddle = self.meddle, lambda: None
        meddle()
        return super().__call__()


@pytest.mark.skipif(not EAGERLY, reason="eager tasks came with Python 3.12")
def test_a_wait_that_is_added_while_a_request_ends_goes_to_other(implementation: str) -> None:
    """Its record is not known, because the waits were named before."""

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
def test_interruptions_while_the_waits_of_a_request_are_named(
    implementation: str, what: str
) -> None:
    """Each wait is counted once, or never if the recorder was retired.

    Naming may retire the recorder, leave the scope, or charge new places.
    """

    async def eager() -> None:
        await asyncio.sleep(0)

    async def main() -> None:
        with request("GET /"):
            await asyncio.sleep(0.25)
            await asyncio.sleep(0.5)
            scope: Any = current_request()
            labels: Any = traced.instrumentation.slots()[0].labels
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


def test_a_task_that_is_given_no_loop_belongs_to_the_running_one(implementation: str) -> None:
    """It does so also after tasks of another loop."""

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


class MeddlingPlaces(Places):
    """Calls ``meddle`` when it next names a yield point, as a garbage collection might."""

    def __init__(self) -> None:
        super().__init__()
        self.meddle: Any = lambda: None

    def yield_point(self, owner: Any) -> str:
        """Return the name."""
        meddle, self.meddle = self.meddle, lambda: None
        meddle()
        return super().yield_point(owner)


async def waits() -> None:
    """Wait for a future that is never done."""
    await asyncio.get_running_loop().create_future()


def test_a_recorder_that_is_retired_while_it_names_a_place_writes_no_more(
    implementation: str,
) -> None:
    """It writes neither to its page nor to tasks that were freed meanwhile."""
    places = MeddlingPlaces()
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
    """Links of the await chain may be freed while it is being named."""
    places = MeddlingPlaces()

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
    """Threads or greenlets may step tasks of one loop by turns.

    No memory is used after it was freed, and gauges return to zero.
    """
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
    """Raises once while it is read, as the handler of a signal may."""

    def __init__(self, error: type[BaseException], readings: int) -> None:
        super().__init__()
        self.error = error
        self.readings = readings
        self.armed = False

    def __call__(self) -> int:
        """Return the time, or raise the exception after so many readings."""
        if not self.armed:
            return super().__call__()
        self.readings -= 1
        self.armed = self.readings >= 0
        if not self.armed:
            raise self.error(3)
        return super().__call__()


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("readings", range(6))
def test_an_interrupt_in_the_recorder_reaches_the_application(
    implementation: str, error: type[BaseException], readings: int
) -> None:
    """An exception of a signal's handler is never swallowed, wherever Python runs for the recorder.

    The recorder is retired, and nothing is shown as in progress.
    """
    clock = InterruptedClock(error, readings)

    async def main() -> None:
        loop = asyncio.get_running_loop()
        vars(loop)["_selector"].select = select  # turns have a clock of their own
        clock.armed = True
        loop.call_soon(int)
        await asyncio.sleep(0)
        child = asyncio.sleep(0)
        try:
            await asyncio.create_task(child)
        finally:
            child.close()

    instrumentation = Instrumentation(
        RecordingOptions(),
        clock=clock,
        unix_clock=clock,
        implementation=IMPLEMENTATIONS[implementation],
    )
    # A collection is timed by the same clock, and Python swallows what is raised in its callback.
    gc.disable()
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


def test_an_object_whose_class_cannot_be_read_is_left_to_asyncio(implementation: str) -> None:
    """Only asyncio reports the error, and other tasks are still traced."""

    class Odd:
        """Raises when asked for its class."""

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


def test_full_caches_are_emptied(implementation: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A program that generates code without end is still recorded, and its code is freed."""
    # Only the Python recorder, which is slower, has a smaller cache here.
    monkeypatch.setattr(table, "LIMIT", table.LIMIT // 10)
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
    """The chain continues at the generator, whatever else the awaitable refers to."""

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


def test_tasks_created_by_finalizers_while_a_place_is_named_are_recorded(
    implementation: str,
) -> None:
    """Garbage may be collected anywhere, and its finalizers may create tasks."""
    places, created = MeddlingPlaces(), []

    class Finalized:
        """Creates a task when it is collected."""

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


def test_a_recorder_in_a_reference_cycle_is_freed(implementation: str) -> None:
    """A recorder and a clock that refers to it are collected together."""
    made = page()

    def cycle() -> None:
        def clock() -> int:
            return 1 if recorder else 0

        recorder = IMPLEMENTATIONS[implementation].recorder(
            made, Labels(made, Places(), InternalErrors()), InternalErrors(), clock=clock
        )

        async def works() -> None:
            pass

        core = IMPLEMENTATIONS[implementation].core
        if core is None:
            recorder.trace(works()).close()
            return
        core.hook(lambda _: recorder, print)
        asyncio.run(works())
        assert [] == core.unhook()

    def alive() -> list[object]:
        gc.collect()
        return [
            obj for obj in gc.get_objects() if type(obj) is IMPLEMENTATIONS[implementation].recorder
        ]

    before = alive()  # of other tests, which may still go
    cycle()
    assert [] == [obj for obj in alive() if not any(obj is old for old in before)]


@pytest.fixture(autouse=True)
def _no_unraisable_exceptions(monkeypatch: pytest.MonkeyPatch) -> Generator[None, None, None]:
    """Fail the test if an exception was raised in a finalizer."""
    unraisable: list[object] = []
    monkeypatch.setattr(sys, "unraisablehook", lambda what: unraisable.append(what.exc_value))
    yield
    assert [] == unraisable


@pytest.mark.parametrize("error", [RecursionError, MemoryError])
def test_a_task_made_where_the_stack_is_used_up_costs_only_itself(
    error: type[Exception], implementation: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The recorder goes on, and nothing is counted as its error."""

    async def early() -> str:
        return "early"

    async def late() -> str:
        return "late"

    def fail(*_: object) -> None:
        raise error

    async def main() -> list[str]:
        loop = asyncio.get_running_loop()
        with monkeypatch.context() as patched:
            patched.setattr(Labels, "coroutine", fail)
            first = loop.create_task(early())
        return [await first, await loop.create_task(late())]

    with traced_loop(implementation=implementation) as traced:
        assert ["early", "late"] == traced.run(main())
        snapshot = traced.snapshot()
    created = {entry.coroutine.rpartition(".")[2]: entry.created for entry in snapshot.coroutines}
    assert 1 == created["late"]
    assert {} == snapshot.errors
