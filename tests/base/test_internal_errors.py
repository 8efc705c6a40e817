"""Internal errors are counted, logged once by probe, and never reach the application."""

from __future__ import annotations

import asyncio
import inspect
import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from aiometrics.base.clock import SECOND_NS
from aiometrics.base.internal_errors import OFF, OFF_FOR_LOOP, STAYS_ON, InternalErrors
from aiometrics.base.options import RecordingOptions
from aiometrics.instrumentation.hooks import handles
from aiometrics.instrumentation.instrumentation import Instrumentation
from aiometrics.pages.snapshot import Snapshot
from aiometrics.recorder.implementation import IMPLEMENTATIONS
from aiometrics.recorder.places import Places
from aiometrics.testing import ManualClock, traced_loop


class Broken(Exception):  # noqa: N818 - it stands for any error
    """An error inside of a probe."""


class FailingClock(ManualClock):
    """A clock that raises after a number of readings."""

    def __init__(self, readings: int) -> None:
        super().__init__()
        self.readings = readings

    def __call__(self) -> int:
        """Return the time, or raise."""
        self.readings -= 1
        if self.readings < 0:
            raise Broken("the clock")
        return super().__call__()


async def application() -> list[object]:
    """Run tasks that return, raise and are cancelled, and return how each one ended."""

    async def returns(value: int) -> int:
        await asyncio.sleep(0)
        return value

    async def raises() -> None:
        await asyncio.sleep(0)
        raise ValueError("mine")

    async def waits() -> None:
        await asyncio.Event().wait()

    tasks: list[asyncio.Task[Any]] = [
        asyncio.create_task(coro) for coro in (returns(1), raises(), waits(), returns(2))
    ]
    await asyncio.sleep(0)
    tasks[2].cancel()
    found = await asyncio.gather(*tasks, return_exceptions=True)
    return [
        {ValueError: "mine", asyncio.CancelledError: asyncio.CancelledError}.get(
            type(result), result
        )
        for result in found
    ]


ENDED = [1, "mine", asyncio.CancelledError, 2]


@contextmanager
def tracing(
    implementation: str, *, clock: Any = None, places: Places | None = None
) -> Iterator[Instrumentation]:
    """Trace every loop of the process, with a clock and places that may fail."""
    made = Instrumentation(
        RecordingOptions(),
        clock=ManualClock() if clock is None else clock,
        unix_clock=ManualClock(),
        implementation=IMPLEMENTATIONS[implementation],
    )
    if places is not None:
        made._slot_pool._places = places
    made.instrument_every_loop()
    try:
        yield made
    finally:
        made.remove()


def logged(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Return the messages of the logger ``aiometrics``."""
    return [record.getMessage() for record in caplog.records if record.name == "aiometrics"]


def message(probe: str) -> str:
    """Return the message that is logged once for a probe.

    Recorders are switched off for one loop, naming for all loops.
    """
    outcome = OFF_FOR_LOOP if probe in ("recorder", "instrumentation") else OFF
    return (
        f"aiometrics: internal error in probe '{probe}', {outcome}; the application is not affected"
    )


@pytest.mark.parametrize("readings", range(12))
def test_only_the_recorder_stops_when_its_clock_fails(
    implementation: str, caplog: pytest.LogCaptureFixture, readings: int
) -> None:
    """At whichever reading the clock fails, tasks end as they would without it.

    The error is logged once with its traceback, and nothing is shown as in progress.
    """
    clock = FailingClock(readings)
    with tracing(implementation, clock=clock) as instrumentation:
        assert ENDED == asyncio.run(application())
        clock.readings = 10
        seen = instrumentation.snapshot()
    # The same clock fails the other probes that read it too.
    assert {"recorder"} == seen.errors.keys() - {"turns", "gc"}
    assert 1 == logged(caplog).count(message("recorder"))
    (record,) = (record for record in caplog.records if record.message == message("recorder"))
    assert record.exc_info is not None
    assert isinstance(record.exc_info[1], Broken)
    check_nothing_is_in_progress(seen)


def check_nothing_is_in_progress(seen: Snapshot) -> None:
    """Check that a recorder that is off shows no live task, suspension or segment."""
    assert [(None, 0)] == [(loop.running, loop.heartbeat_ns) for loop in seen.loops]
    assert 0 == sum(entry.live for entry in seen.coroutines)
    assert 0 == sum(point.suspended + point.oldest_suspension_ns for point in seen.yield_points)


def test_counters_stay_when_an_error_stops_the_recorder(
    implementation: str, caplog: pytest.LogCaptureFixture
) -> None:
    """They do not fall even if it stops in the middle of a segment that was already counted."""
    clock = FailingClock(1_000)

    async def main(instrumentation: Instrumentation) -> list[int]:
        clock.advance_ns(SECOND_NS)
        before = instrumentation.snapshot().loops[0].blocking_ns
        clock.readings = 0
        await asyncio.sleep(0)
        clock.readings = 1_000
        return [before, instrumentation.snapshot().loops[0].blocking_ns]

    with tracing(implementation, clock=clock) as instrumentation:
        assert [SECOND_NS, SECOND_NS] == asyncio.run(main(instrumentation))
        seen = instrumentation.snapshot()
    assert 1 == logged(caplog).count(message("recorder"))
    assert [1] == [entry.created for entry in seen.coroutines]


class BrokenPlaces(Places):
    """Places with methods that raise."""

    def __init__(self, *broken: str) -> None:
        super().__init__()
        for method in broken:
            setattr(self, method, self._fail)

    def _fail(self, *_: Any) -> Any:
        raise Broken("naming")


@pytest.mark.parametrize("broken", ["origin", "transparent", "coroutine", "yield_point", "awaits"])
def test_new_names_become_other_when_naming_fails(
    implementation: str, caplog: pytest.LogCaptureFixture, broken: str
) -> None:
    """The error is logged and counted once, and every number is still recorded."""
    with tracing(implementation, places=BrokenPlaces(broken)) as instrumentation:
        assert ENDED == asyncio.run(application())
        assert ENDED == asyncio.run(application())
        seen = instrumentation.snapshot()
    assert ({"naming": 1}, [message("naming")]) == (seen.errors, logged(caplog))
    finished = sum(entry.wall[status].count for entry in seen.coroutines for status in entry.wall)
    assert sum(entry.created for entry in seen.coroutines) == finished
    assert "(other)" in {entry.coroutine for entry in seen.coroutines}


def test_loop_is_left_alone_when_it_cannot_be_examined(
    implementation: str, caplog: pytest.LogCaptureFixture
) -> None:
    """It is examined once; its tasks are not traced, but those of other loops are."""

    class OddLoop(asyncio.SelectorEventLoop):
        """A loop that raises when aiometrics asks whether it is closed."""

        def is_closed(self) -> bool:
            if sys._getframe(1).f_globals["__name__"].startswith("aiometrics"):
                raise Broken("closed")
            return super().is_closed()

    with tracing(implementation) as instrumentation:
        with asyncio.Runner(loop_factory=OddLoop) as runner:
            assert ENDED == runner.run(application())
        assert {} == {
            entry.coroutine: entry.created for entry in instrumentation.snapshot().coroutines
        }
        assert ENDED == asyncio.run(application())
        seen = instrumentation.snapshot()
    assert ({"instrumentation": 1}, [message("instrumentation")]) == (seen.errors, logged(caplog))
    assert 1 == seen.coroutine(f"{__name__}.application").created


def test_only_callbacks_are_untimed_without_the_source_of_asyncio(
    implementation: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Frozen programs lack the source; their tasks are traced all the same.

    That is a limit that the docs name, and no internal error.
    """

    def getsource(_: object) -> str:
        raise OSError("could not get source code")

    monkeypatch.setattr(inspect, "getsource", getsource)
    handles._recompile_run.cache_clear()
    with tracing(implementation) as instrumentation:
        assert ENDED == asyncio.run(application())
        seen = instrumentation.snapshot()
    assert ({}, []) == (seen.errors, logged(caplog))
    assert 1 == seen.coroutine(f"{__name__}.application").created


@pytest.mark.parametrize("name", ["_is_of_asyncio", "_RUNS_CALLBACK"])
def test_only_callbacks_are_untimed_in_an_asyncio_of_another_kind(
    name: str,
    implementation: str,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its function is compiled, as Nuitka does, or of a version to come: a line in the log says so.

    It would be an internal error for as long as the process lives, and so an alert.
    """
    monkeypatch.setattr(handles, name, lambda _: False)
    handles._recompile_run.cache_clear()
    with tracing(implementation) as instrumentation:
        assert ENDED == asyncio.run(application())
        seen = instrumentation.snapshot()
    assert {} == seen.errors
    (line,) = logged(caplog)
    assert line.startswith("aiometrics: callbacks are not timed, because Handle._run ")
    assert line.endswith("; tasks are traced without it")
    assert 1 == seen.coroutine(f"{__name__}.application").created


def test_errors_are_counted_by_probe(caplog: pytest.LogCaptureFixture) -> None:
    """Each probe's first error is logged, and each error is counted."""
    internal_errors = InternalErrors()
    assert not internal_errors.disabled("one")
    for probe in ("one", "two", "one"):
        internal_errors.report(probe, Broken(probe))
    internal_errors.report("three", Broken("three"), STAYS_ON)
    assert internal_errors.disabled("one")
    assert {"one": 2, "two": 1, "three": 1} == internal_errors.counts()
    three = (
        "aiometrics: internal error in probe 'three', which stays on; "
        "the application is not affected"
    )
    assert [message("one"), message("two"), three] == logged(caplog)
    assert {logging.ERROR} == {record.levelno for record in caplog.records}


def test_traced_loop_raises_at_its_end_after_internal_errors() -> None:
    """Tests must not overlook an error that would only be logged in production."""
    clock = FailingClock(3)
    with pytest.raises(  # noqa: PT012, SIM117
        AssertionError, match=r"aiometrics had internal errors, by probe: .*'recorder': 1"
    ):
        with traced_loop(clock=clock) as traced:
            traced.loop.time = ManualClock().__call__  # type: ignore[method-assign]
            traced.run(application())
