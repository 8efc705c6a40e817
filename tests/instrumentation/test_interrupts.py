"""Exceptions that handlers of signals raise while our code runs: they are the application's."""

from __future__ import annotations

import asyncio
import functools
import inspect
import signal
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from support.tracing import every_loop

from aiometrics import request
from aiometrics.pages.page import Page
from aiometrics.recorder import callback
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
    """A program that uses every kind of step once, in code that was never met before."""

    def __init__(self) -> None:
        self.errors: list[BaseException] = []
        source = """
async def main():
    loop.call_soon(called)
    with request("GET /"):
        await loop.create_task(work())

async def work():
    await sleep(0)
    spend()

def called():
    pass
"""
        self.loop = asyncio.new_event_loop()
        self.loop.set_exception_handler(lambda _, context: self.keep(context.get("exception")))
        self.code: dict[str, Any] = {
            "__name__": "new_code",
            "loop": self.loop,
            "request": request,
            "sleep": asyncio.sleep,
            "spend": lambda: sum(range(100_000)),
        }
        exec(compile(source, "/srv/new_code.py", "exec"), self.code)  # noqa: S102 - the source is above

    def keep(self, error: BaseException | None) -> None:
        """Keep an exception that came out."""
        if error is not None:
            self.errors.append(error)

    def run(self) -> None:
        """Run it once, whatever it raises."""
        main = self.code["main"]()
        try:
            self.loop.run_until_complete(main)
        except (TooLateError, TimeoutError, KeyboardInterrupt) as error:
            self.keep(error)
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
