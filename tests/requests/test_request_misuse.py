"""Misused request scopes are counted, measured as far as possible, and harmless."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import threading
from typing import Any

import pytest
from support.scopes import request_totals, scope_errors_of

from aiometrics import Request, current_request, request
from aiometrics.recorder.scope import current_scope
from aiometrics.testing import ManualClock, TracedLoop, VirtualLoop, traced_loop


def test_scope_left_before_an_inner_one(implementation: str) -> None:
    """Both are measured, and no time counts for both."""

    async def handler(traced: TracedLoop) -> None:
        outer, inner = request("outer"), request("inner")
        outer.__enter__()
        traced.clock.advance(0.5)
        inner.__enter__()
        traced.clock.advance(0.25)
        outer.__exit__(None, None, None)
        assert "inner" == getattr(current_request(), "type", None)
        traced.clock.advance(0.125)
        await asyncio.sleep(1)
        inner.__exit__(None, None, None)
        assert current_request() is None
        traced.clock.advance(9)

    with traced_loop(implementation=implementation) as traced:
        traced.run(handler(traced))
        assert {"out_of_order": 1} == scope_errors_of(traced)
        assert (1, 0.5, 0, 0) == request_totals(traced, "outer")
        assert (1, 0.375, 0, 0) == request_totals(traced, "inner")


def test_scope_left_in_another_task(implementation: str) -> None:
    """It is measured. The task that entered it leaves it, and may enter another one."""

    async def enters(traced: TracedLoop, scope: request) -> None:
        scope.__enter__()
        traced.clock.advance(0.5)
        await asyncio.sleep(2)
        traced.clock.advance(9)
        with request("GET /"):
            traced.clock.advance(0.25)
        traced.clock.advance(9)

    async def main(traced: TracedLoop) -> None:
        scope = request("GET /")
        task = asyncio.create_task(enters(traced, scope))
        await asyncio.sleep(1)
        scope.__exit__(None, None, None)
        assert current_request() is None
        await task

    with traced_loop(implementation=implementation) as traced:
        traced.run(main(traced))
        assert {"foreign_task": 1} == scope_errors_of(traced)
        assert (2, 0.75, 0, 0) == request_totals(traced)


def test_scope_left_after_its_task_was_over(implementation: str) -> None:
    """The time of the task counts."""

    async def enters(traced: TracedLoop, scope: request) -> None:
        scope.__enter__()
        traced.clock.advance(0.5)

    async def main(traced: TracedLoop) -> None:
        scope = request("GET /")
        await asyncio.create_task(enters(traced, scope))
        gc.collect()
        scope.__exit__(None, None, None)

    with traced_loop(implementation=implementation) as traced:
        traced.run(main(traced))
        assert {"foreign_task": 1} == scope_errors_of(traced)
        assert (1, 0.5, 0, 0) == request_totals(traced)


def test_scope_that_is_never_left(implementation: str) -> None:
    """Once collected it is not in progress, and its active time is background: no time is lost."""

    async def enters(traced: TracedLoop) -> None:
        request("GET /", objective=0.25).__enter__()
        traced.clock.advance(0.5)
        await asyncio.sleep(1)

    async def main(traced: TracedLoop) -> None:
        await asyncio.create_task(enters(traced))
        gc.collect()

    with traced_loop(implementation=implementation) as traced:
        traced.run(main(traced))
        traced.clock.advance(9)
        assert {"abandoned": 1} == scope_errors_of(traced)
        assert (0, 0, 0.5, 0) == request_totals(traced)
        assert 0 == traced.snapshot().request("GET /").violations


def test_scopes_that_one_task_never_leaves(implementation: str) -> None:
    """A task that enters scope after scope and leaves none has bounded memory."""

    async def main(traced: TracedLoop) -> None:
        for _ in range(100):
            request("GET /").__enter__()
            traced.clock.advance(1)
            await asyncio.sleep(0)

    with traced_loop(implementation=implementation) as traced:
        traced.loop.run_until_complete(
            traced.loop.create_task(main(traced), context=(context := contextvars.copy_context()))
        )
        assert (0, 0, 35, 65) == request_totals(traced)
        assert {"abandoned": 35} == scope_errors_of(traced)
        del context
        gc.collect()
        assert {"abandoned": 100} == scope_errors_of(traced)
        assert (0, 0, 100, 0) == request_totals(traced)


def test_scope_left_twice_or_never_entered(implementation: str) -> None:
    """The second time is counted, and changes nothing."""

    async def main() -> None:
        scope = request("GET /")
        with scope:
            pass
        scope.__exit__(None, None, None)

    with traced_loop(implementation=implementation) as traced:
        traced.run(main())
        assert {"outside_loop": 1} == scope_errors_of(traced)
        assert (1, 0, 0, 0) == request_totals(traced)


def test_one_scope_for_several_tasks(implementation: str) -> None:
    """An object that is entered several times at once is as many requests."""
    scope = request("GET /")

    async def visits(traced: TracedLoop, seconds: float) -> None:
        with scope:
            await asyncio.sleep(seconds)
            traced.clock.advance(seconds)
            with scope:
                traced.clock.advance(seconds)

    async def main(traced: TracedLoop) -> None:
        await asyncio.gather(visits(traced, 0.5), visits(traced, 0.25))

    with traced_loop(implementation=implementation) as traced:
        traced.run(main(traced))
        assert {} == scope_errors_of(traced)
        assert (4, 1.5, 0, 0) == request_totals(traced)


def test_a_task_on_another_loop(implementation: str) -> None:
    """Tasks of a loop in a thread that inherits the context belong to no request."""
    clock = ManualClock()

    async def elsewhere() -> Request | None:
        clock.advance(0.25)
        return current_request()

    def in_thread(found: list[Any]) -> None:
        loop = VirtualLoop(clock)
        traced.instrumentation.instrument(loop)
        found.append(loop.run_until_complete(elsewhere()))
        loop.close()

    async def main() -> list[Any]:
        found: list[Any] = []
        with request("GET /"):
            thread = threading.Thread(
                target=contextvars.copy_context().run, args=(in_thread, found)
            )
            thread.start()
            thread.join()
        return found

    with traced_loop(clock=clock, implementation=implementation) as traced:
        (inherited,) = traced.run(main())
        assert ("GET /", {"foreign_loop": 1}) == (inherited.type, scope_errors_of(traced))
        assert (1, 0.25, 0, 0) == request_totals(traced)


def test_scope_entered_where_no_traced_loop_runs() -> None:
    """The block runs with a request that measures nothing, which is counted."""
    with traced_loop() as traced:
        with request("nightly", id=7) as current:
            assert (current, "nightly", "7") == (current_request(), current.type, current.id)
        assert current_request() is None
        with request("x" * 200) as current:
            assert 128 == len(current.type)

        async def main() -> str:
            with request("GET /"):
                return getattr(current_scope.get().outer, "type", "")

        with request("batch"):
            assert "batch" == traced.loop.run_until_complete(main())
        traced.run(asyncio.sleep(0))
        assert {"outside_loop": 3} == scope_errors_of(traced)


def test_scope_left_in_a_thread(implementation: str) -> None:
    """Only the thread that runs the loop writes its numbers."""

    async def enters() -> None:
        scope = request("GET /")
        scope.__enter__()
        thread = threading.Thread(target=scope.__exit__, args=(None, None, None))
        thread.start()
        thread.join()

    async def main() -> None:
        await asyncio.create_task(enters())

    with traced_loop(implementation=implementation) as traced:
        traced.run(main())
        gc.collect()
        assert {"outside_loop": 1, "abandoned": 1} == scope_errors_of(traced)
        assert (0, 0, 0, 0) == request_totals(traced)


def test_a_loop_that_is_gone_takes_its_scopes_along(implementation: str) -> None:
    """Leaving them later changes no number, not even of the loop that reuses the page."""
    scopes = [request("GET /") for _ in range(2)]
    tasks = []

    async def enters(scope: request) -> None:
        scope.__enter__()
        await asyncio.sleep(9)

    async def main() -> None:
        tasks.extend([asyncio.create_task(enters(scope)) for scope in scopes])
        await asyncio.sleep(1)

    with traced_loop(implementation=implementation) as traced:
        traced.loop.run_until_complete(main())
        assert (0, 0, 0, 2) == request_totals(traced)
        traced.instrumentation.uninstrument(traced.loop)
        assert (0, 0, 0, 0) == request_totals(traced)
        scopes.pop().__exit__(None, None, None)
        for task in tasks:
            task.cancel()
        traced.run(asyncio.sleep(0))
        tasks.clear()
        scopes.clear()
        gc.collect()
        assert (0, 0, 0, 0) == request_totals(traced)
        assert {} == scope_errors_of(traced)


def test_a_scope_does_not_look_for_a_task_that_is_gone(implementation: str) -> None:
    """It was left open, and its inner one was left, both after tracing had stopped."""
    outer, inner = request("outer"), request("inner")

    async def main(traced: TracedLoop) -> Request:
        current = outer.__enter__()
        inner.__enter__()
        traced.instrumentation.uninstrument(traced.loop)
        inner.__exit__(None, None, None)
        return current

    with traced_loop(implementation=implementation) as traced:
        current = traced.loop.run_until_complete(main(traced))
        gc.collect()
        current.keep_timeline()
        assert ([], [], 0) == current.timeline()


def test_what_the_application_raises_goes_through(implementation: str) -> None:
    """The same exception is raised, and no other."""
    raised = KeyError("ours")

    async def main() -> None:
        with request("GET /"):
            raise raised

    with traced_loop(implementation=implementation) as traced:
        with pytest.raises(KeyError) as caught:
            traced.run(main())
        assert raised is caught.value
        assert 1 == traced.snapshot().request("GET /").wall["failed"].count


def test_a_destroyed_task_leaves_its_scope(implementation: str) -> None:
    """A task that is collected before it is done closes its coroutine: the request is cancelled.

    No other collection may come before, since it would decide on the order of the finalizers: the
    Python recorder counts a request as abandoned whose scope is finalized before the coroutine.
    """

    async def visits(traced: TracedLoop) -> None:
        with request("GET /"):
            traced.clock.advance(0.5)
            await asyncio.Future()

    async def main(traced: TracedLoop) -> None:
        gc.disable()
        try:
            task = asyncio.create_task(visits(traced))
            await asyncio.sleep(1)
            task._log_destroy_pending = False  # type: ignore[attr-defined]
            del task
            gc.collect()
        finally:
            gc.enable()

    with traced_loop(implementation=implementation) as traced:
        traced.run(main(traced))
        assert (1, 0.5, 0, 0) == request_totals(traced)
        assert 1 == traced.snapshot().request("GET /").wall["cancelled"].count


class BrokenClock(ManualClock):
    """A clock that raises once it was told to."""

    broken = False

    def __call__(self) -> int:
        if self.broken:
            raise OSError
        return super().__call__()


def run_with_a_clock_that_breaks(implementation: str, *, inside: bool) -> None:
    """One request; the clock breaks before it is entered, or before it is left."""
    clock = BrokenClock()

    async def main() -> None:
        clock.broken = not inside
        with request("GET /"):
            clock.broken = True
        clock.broken = False

    gc.disable()  # a collection is timed by the same clock
    try:
        with traced_loop(clock=clock, implementation=implementation) as traced:
            traced.run(main())
            assert (0, 0, 0, 0) == request_totals(traced)
    finally:
        gc.enable()


@pytest.mark.parametrize("inside", [False, True])
def test_a_clock_that_fails_is_an_internal_error(implementation: str, *, inside: bool) -> None:
    """The block runs on, unmeasured; the loop's recorder is off."""
    with pytest.raises(AssertionError, match=r"internal errors, by probe: {'recorder': 1}"):
        run_with_a_clock_that_breaks(implementation, inside=inside)
