"""Types and ids of requests, and functions that are decorated as requests."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any

import pytest
from support.scopes import SECOND, collect_finished, scope_errors_of, work

from aiometrics import Request, request
from aiometrics.testing import TracedLoop, traced_loop


class Lying:
    """An object whose ``__str__`` returns whatever it was given."""

    def __init__(self, answer: Callable[[], Any]) -> None:
        self._answer = answer

    def __str__(self) -> str:
        return self._answer()  # type: ignore[no-any-return]


class Loud(str):
    """A string that cannot be sliced."""

    __slots__ = ()

    def __getitem__(self, _: Any) -> str:
        raise ValueError


def raises() -> Any:
    """Raise an error."""
    raise RuntimeError


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (None, None),
        ("REQ-001", "REQ-001"),
        ("", ""),
        (7, "7"),
        (b"\xff", "b'\\xff'"),
        ("x" * 65, "x" * 64),
        (Lying(raises), "(Lying)"),
        (Lying(lambda: 7), "(Lying)"),
        (Lying(lambda: Loud("loud")), "loud"),
        (Loud("loud"), "loud"),
    ],
)
def test_an_id_is_any_object_as_text(given: object, expected: str | None) -> None:
    """The text has at most 64 characters, and is made when it is asked for."""

    async def handler() -> Request:
        with request("GET /", id=given) as current:
            return current

    with traced_loop() as traced:
        current = traced.run(handler())
    assert expected == current.id
    assert expected is None or type(current.id) is str


def test_an_id_costs_nothing_until_it_is_read() -> None:
    """Its text is not made for requests without observers."""
    asked = []

    def answer() -> str:
        asked.append(1)
        return "id"

    async def handler() -> None:
        with request("GET /", id=Lying(answer)):
            await asyncio.sleep(0)

    with traced_loop() as traced:
        traced.run(handler())
        assert [] == asked
        collect_finished(traced)
        traced.run(handler())
        assert [1] == asked


def test_a_context_variable_of_the_application_is_the_id() -> None:
    """It is set before the scope or inside; an id that is given to the scope goes first."""
    variable: ContextVar[str] = ContextVar("variable")

    async def handler() -> None:
        with request("unset"):
            pass
        variable.set("one")
        with request("before"):
            pass
        with request("inside"):
            variable.set("two")
        with request("given", id="three"):
            pass

    with traced_loop(request_id=variable) as traced:
        found = collect_finished(traced)
        traced.run(handler())
    assert {"unset": None, "before": "one", "inside": "two", "given": "three"} == {
        entry.request: entry.id for entry in found
    }


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (7, "7"),
        (None, "None"),
        ("", "(unnamed)"),
        ("x" * 129, "x" * 128),
        (Lying(raises), "(Lying)"),
        (Loud("loud"), "loud"),
    ],
)
def test_an_invalid_type_is_replaced_and_counted(given: Any, expected: str) -> None:
    """Nothing is raised."""

    async def handler() -> None:
        with request(given):
            pass

    with traced_loop() as traced:
        traced.run(handler())
        assert [expected] == [entry.request for entry in traced.snapshot().requests]
        assert {"invalid": 1} == scope_errors_of(traced)


@pytest.mark.parametrize("given", [0, -1, float("nan"), float("inf"), True, "1", object()])
def test_an_invalid_objective_is_ignored_and_counted(given: Any) -> None:
    """The objective of the options applies."""

    async def handler() -> None:
        with request("GET /", objective=given):
            await asyncio.sleep(1)

    with traced_loop(objectives={"GET /": 0.5}) as traced:
        traced.run(handler())
        assert 1 == traced.snapshot().request("GET /").violations
        assert {"invalid": 1} == scope_errors_of(traced)


class Jobs:
    """A worker with decorated methods."""

    def __init__(self, traced: TracedLoop) -> None:
        self.traced = traced

    @request("report")
    async def report(self, seconds: float) -> str:
        """Do the work of a coroutine."""
        await work(self.traced, seconds, seconds)
        return "done"

    @request("count", objective=0.25)
    def count(self, seconds: float) -> str:
        """Do the work of a function."""
        self.traced.clock.advance(seconds)
        return "counted"


def test_a_decorated_function_has_a_scope_for_each_call(implementation: str) -> None:
    """Functions and coroutine functions keep arguments and results, several calls at a time."""

    async def main(traced: TracedLoop) -> None:
        jobs = Jobs(traced)
        assert ["done", "done"] == list(
            await asyncio.gather(jobs.report(0.5), jobs.report(seconds=0.25))
        )
        assert "counted" == jobs.count(0.5)

    with traced_loop(implementation=implementation) as traced:
        found = collect_finished(traced)
        traced.run(main(traced))
        assert 1 == traced.snapshot().request("count").violations
    assert [("report", 1.0), ("report", 0.5), ("count", 0.5)] == [
        (entry.request, entry.active_ns / SECOND) for entry in found
    ]
    assert ["report", "Do the work of a coroutine."] == [Jobs.report.__name__, Jobs.report.__doc__]


def test_a_task_of_a_decorated_coroutine_has_its_name(implementation: str) -> None:
    """The wrapper around it has no name."""

    async def main(traced: TracedLoop) -> None:
        await asyncio.create_task(Jobs(traced).report(0.5))

    with traced_loop(implementation=implementation) as traced:
        traced.run(main(traced))
        assert [f"{__name__}.Jobs.report"] == [
            entry.coroutine
            for entry in traced.snapshot().coroutines
            if not entry.coroutine.endswith("main")
        ]


def test_generator_functions_are_refused_where_they_are_decorated() -> None:
    """A call of one runs nothing yet, so there would be nothing to measure."""

    def numbers() -> Any:
        yield 1

    async def more() -> Any:
        yield 1

    for function in (numbers, more):
        with pytest.raises(
            TypeError,
            match=r"makes a generator: use `with aiometrics.request\(...\)` inside of it instead",
        ):
            request("GET /")(function)
