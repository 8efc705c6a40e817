"""Exceptions that handlers of signals raise while our code runs: they are the application's."""

from __future__ import annotations

import asyncio
import functools
import gc
import inspect
import signal
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any, Self

import pytest
from support.new_code import FILE, new_code
from support.tracing import every_loop

from aiometrics.instrumentation.installed_hooks import InstalledHooks
from aiometrics.instrumentation.traced_loops import TracedLoops
from aiometrics.pages.layout import LOOP
from aiometrics.pages.page import Page
from aiometrics.recorder import callback
from aiometrics.recorder.implementation import IMPLEMENTATIONS
from aiometrics.recorder.places import Places
from aiometrics.requests.exemplars import Exemplars

pytestmark = pytest.mark.skipif(not hasattr(signal, "SIGALRM"), reason="this system has no SIGALRM")

#: The places in our code where the signal arrives, in the thread of the loop.
PLACES: list[tuple[Any, str]] = [
    (Places, "coroutine"),
    (Places, "transparent"),
    (Places, "origin"),
    (Places, "yield_point"),
    (Places, "awaits"),
    (callback, "names"),
    (Page, "add_coroutine"),
    (Page, "add_yield_point"),
    (Page, "add_request"),
    (Page, "add_request_wait"),
    (Exemplars, "of_segment"),
]


#: Finalizers of the standard library, in which exceptions are dropped, with us or without.
UNSAFE = {"__del__", "_remove"}


class TooLateError(Exception):
    """An error that a program raises where it is when its time is up."""


@pytest.fixture(params=PLACES, ids=lambda place: place[1])
def arm(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Return a function after which a signal arrives the next time that our code is there."""
    owner, name = request.param
    original = getattr(owner, name)
    armed: list[bool] = []

    @functools.wraps(original)
    def interrupted(*args: Any, **kwargs: Any) -> Any:
        if armed:
            armed.clear()
            signal.raise_signal(signal.SIGALRM)
        return original(*args, **kwargs)

    monkeypatch.setattr(owner, name, interrupted)
    return lambda: armed.append(True)


@pytest.fixture(params=[TooLateError, TimeoutError, KeyboardInterrupt])
def error(request: pytest.FixtureRequest) -> Iterator[BaseException]:
    """The exception that the handler of the signal raises."""
    raised = request.param("too late")

    def too_late(*_: object) -> None:
        raise raised

    before = signal.signal(signal.SIGALRM, too_late)
    yield raised
    signal.signal(signal.SIGALRM, before)


class Program:
    """The program in new code, whose exceptions are kept."""

    def __init__(self) -> None:
        self.errors: list[BaseException] = []
        self.loop = asyncio.new_event_loop()
        self.loop.set_exception_handler(lambda _, context: self.came_out(context.get("exception")))
        self.ends: list[asyncio.TimerHandle] = []
        self.code = new_code(self.loop, [], lambda: sum(range(100_000)))

    def keep(self, error: BaseException | None) -> None:
        """Keep an exception that came out."""
        if error is not None:
            self.errors.append(error)

    def came_out(self, error: BaseException | None) -> None:
        """Keep what came out of a callback, and do not wait for what it was about to wake up.

        asyncio forgets a callback in which a handler of a signal raised, with us or without.
        """
        self.keep(error)
        self.ends.append(self.loop.call_later(0.1, self.loop.stop))

    def run(self, arm: Callable[[bool], object] = bool) -> None:
        """Run it once, whatever it raises; ``arm(True)`` to ``arm(False)``, all of that is kept."""
        main = self.code["main"]()
        try:
            arm(True)  # noqa: FBT003 - on
            self.loop.run_until_complete(main)
            arm(False)  # noqa: FBT003 - off
        except (TooLateError, TimeoutError, KeyboardInterrupt) as error:
            self.keep(error)
        except RuntimeError:  # it was ended
            assert self.ends
        for end in self.ends:
            end.cancel()
        if inspect.getcoroutinestate(main) == inspect.CORO_CREATED:
            main.close()  # the exception came before there was a task

    def close(self) -> None:
        """End the tasks that an exception left behind."""
        for task in asyncio.all_tasks(self.loop):
            task.cancel()
        self.loop.run_until_complete(asyncio.sleep(0.001))
        self.loop.close()


def test_what_a_signal_raises_in_our_code_comes_out_and_changes_nothing_else(
    implementation: str, arm: Callable[[], None], error: BaseException
) -> None:
    """It is neither swallowed nor counted as ours, and the loop is measured as before."""
    with every_loop(implementation, blocking_threshold=1e-6) as traced:
        first, second = Program(), Program()
        arm()
        first.run()
        first.close()
        second.run()
        second.close()
        seen = traced.snapshot()
    assert [error] == [found for found in first.errors if found is error]
    assert [] == second.errors
    work = seen.coroutine("new_code.work")
    assert work.created >= 1
    assert {"new_code.py:8 work", "(return)"} <= {
        point.yield_point for point in seen.yield_points_of("new_code.work")
    }
    assert 0 == sum(entry.live for entry in seen.coroutines)


def test_what_a_signal_raises_while_garbage_is_collected_comes_out_afterwards(
    implementation: str, error: BaseException, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same collection calls finalizers in Python, in which it would be dropped."""

    def collected(loops: TracedLoops, number: int) -> None:
        monkeypatch.undo()
        signal.raise_signal(signal.SIGALRM)
        original(loops, number)

    def collect_and_step() -> None:
        gc.collect()
        asyncio.run(step)

    step = asyncio.sleep(0)
    original = TracedLoops._on_collected
    with every_loop(implementation):
        loop: Any = asyncio.new_event_loop()
        loop.run_until_complete(asyncio.sleep(0))
        loop.close()
        loop.itself = loop
        del loop
        monkeypatch.setattr(TracedLoops, "_on_collected", collected)
        with pytest.raises(type(error)) as raised:
            collect_and_step()
        step.close()
    assert error is raised.value


@pytest.fixture(params=["before", "after"])
def moment(request: pytest.FixtureRequest) -> str:
    """Whether a signal arrives before or after our code has done what it does."""
    return str(request.param)


def interrupt_once(method: str, moment: str, monkeypatch: pytest.MonkeyPatch) -> list[None]:
    """Have a signal arrive in our code where runs begin or end, once there is one in the list."""
    original, due = getattr(InstalledHooks, method), list[None]()

    def interrupted(hooks: InstalledHooks, loop: Any) -> None:
        now = bool(due)
        due.clear()
        if now and moment == "before":
            signal.raise_signal(signal.SIGALRM)
        original(hooks, loop)
        if now and moment == "after":
            signal.raise_signal(signal.SIGALRM)

    monkeypatch.setattr(InstalledHooks, method, interrupted)
    return due


def run_interrupted(loop: asyncio.AbstractEventLoop, due: list[None]) -> BaseException | None:
    """Run a loop, and return what a signal raises in our code meanwhile."""
    coro = asyncio.sleep(0.001)
    due.append(None)
    try:
        loop.run_until_complete(coro)
    except (TooLateError, TimeoutError, KeyboardInterrupt) as error:
        return error
    finally:
        coro.close()
    return None


@pytest.mark.parametrize("method", ["_loop_started", "_loop_stopped"])
def test_what_a_signal_raises_where_a_run_begins_or_ends_leaves_no_loop_running(
    implementation: str,
    method: str,
    moment: str,
    error: BaseException,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It comes out, and the thread can run loops as before. The page shows no turn in progress."""
    due = interrupt_once(method, moment, monkeypatch)
    agen_hooks = sys.get_asyncgen_hooks()
    loop = asyncio.new_event_loop()
    with every_loop(implementation) as traced:
        loop.run_until_complete(asyncio.sleep(0))
        assert error is run_interrupted(loop, due)
        (page,) = [slot.page for slot in traced.slots()]
        assert 0 == page.words[page.layout.loop + LOOP["turn_since_ns"]]
        with pytest.raises(RuntimeError, match="no running event loop"):
            asyncio.get_running_loop()
        asyncio.run(asyncio.sleep(0))
        if implementation == "c":
            assert agen_hooks == sys.get_asyncgen_hooks()
            loop.run_until_complete(asyncio.sleep(0))
            loop.close()
    # Elsewhere asyncio takes it to be running for ever, as after any exception where a run begins.
    loop._thread_id = None  # type: ignore[attr-defined]
    loop.close()
    sys.set_asyncgen_hooks(*agen_hooks)


def is_ours(frame: FrameType | None) -> bool:
    """Whether what runs is our code, or was called by it, where an exception is safe."""
    ours = False
    while frame is not None and frame.f_code.co_filename not in (FILE, __file__):
        if frame.f_code.co_name in UNSAFE:
            return False
        ours = ours or frame.f_globals.get("__name__", "").startswith("aiometrics.")
        frame = frame.f_back
    return ours


class Alarms:
    """Signals that arrive all the time. Where our code runs, their handler raises, once a run.

    A coroutine whose task an exception prevents is never awaited, with us or without.
    """

    def __init__(self) -> None:
        self.armed = False
        self.raised: list[BaseException] = []
        self.dropped: list[BaseException | None] = []

    def __enter__(self) -> Self:
        self._hook, sys.unraisablehook = sys.unraisablehook, self._drop
        self._warnings = warnings.catch_warnings(action="ignore", category=RuntimeWarning)
        self._warnings.__enter__()
        self._handler = signal.signal(signal.SIGALRM, self._too_late)
        self._threshold = gc.get_threshold()
        gc.set_threshold(20)  # the collector calls our code
        # A machine for which that is too often would come to nothing else.
        signal.setitimer(signal.ITIMER_REAL, 100e-6, 100e-6)
        return self

    def __exit__(self, *_: object) -> None:
        signal.setitimer(signal.ITIMER_REAL, 0)
        gc.set_threshold(*self._threshold)
        time.sleep(0.1)  # Python complains if a signal comes late and finds no handler
        for error in self.raised:
            error.__traceback__ = None
        gc.collect()
        self._warnings.__exit__(None, None, None)
        signal.signal(signal.SIGALRM, self._handler)
        sys.unraisablehook = self._hook

    def arm(self, on: bool) -> None:  # noqa: FBT001 - a switch
        """Raise in our code from now on, once, or no more."""
        self.armed = on

    def _drop(self, what: Any) -> None:
        self.dropped.append(what.exc_value)

    def _too_late(self, _: int, frame: FrameType | None) -> None:
        if self.armed and is_ours(frame):
            self.armed = False
            self.raised.append(TooLateError(len(self.raised)))
            raise self.raised[-1]


#: How many exceptions handlers raise at moments that nobody chose.
MANY = 100


@pytest.fixture
def _no_other_callbacks() -> Iterator[None]:
    """No collection calls what is of other tools and tests, such as Hypothesis's callback.

    Without us, too, what a signal raises in one is dropped.
    """
    others = list(gc.callbacks)
    gc.collect()
    gc.freeze()
    gc.callbacks.clear()
    yield
    gc.callbacks[:] = others
    gc.unfreeze()


@pytest.mark.usefixtures("_no_other_callbacks")
@pytest.mark.skipif("c" not in IMPLEMENTATIONS, reason="the recorder in Python is interrupted too")
def test_nothing_that_a_signal_raises_is_lost_wherever_it_arrives() -> None:
    """It comes out in the program, once, and recording goes on."""
    found: list[BaseException] = []
    with every_loop("c"), Alarms() as alarms:
        while len(alarms.raised) < MANY:
            program = Program()
            program.run(alarms.arm)
            program.close()
            found += program.errors
        assert [] == alarms.dropped
        assert alarms.raised == found
