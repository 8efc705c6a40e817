"""What is equal is not the same: code of copied modules, and types that call themselves equal."""

from __future__ import annotations

import asyncio
import gc
import importlib
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from prometheus_client import CollectorRegistry
from support.tracing import every_loop

import aiometrics
from aiometrics.base.options import resolve
from aiometrics.instrumentation.instrumentation import Instrumentation
from aiometrics.launch import frameworks
from aiometrics.launch.path._aiometrics_imports import when_imported
from aiometrics.recorder.implementation import IMPLEMENTATIONS
from aiometrics.testing import traced_loop

#: A handler as people copy it, with nothing in it that tells one module from the other.
HANDLER = """
import asyncio

class Worker:
    async def run(self):
        await self.step()
        asyncio.get_running_loop().call_soon(notify)
        await asyncio.sleep(0.001)

    async def step(self):
        await asyncio.sleep(1)

def notify():
    pass
"""
MODULES = ("copied_orders", "copied_invoices")


@pytest.fixture
def workers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Any]]:
    """The class of each of two modules of equal text."""
    for module in MODULES:
        (tmp_path / f"{module}.py").write_text(HANDLER)
    monkeypatch.syspath_prepend(tmp_path)
    yield [importlib.import_module(module).Worker for module in MODULES]
    for module in MODULES:
        monkeypatch.delitem(sys.modules, module)


def test_modules_of_equal_text_are_told_apart(implementation: str, workers: list[Any]) -> None:
    """Code is equal to a copy of it in another file."""
    first, second = workers
    assert first.run.__code__ == second.run.__code__

    async def main() -> None:
        await asyncio.gather(*(worker().run() for worker in workers for _ in range(3)))

    with traced_loop(implementation=implementation) as traced:
        traced.run(main())
        seen = traced.snapshot()
    for module in MODULES:
        root = f"{module}.Worker.run"
        assert 3 == seen.coroutine(root).created
        steps = {
            point.yield_point: point.segments.count
            for point in seen.yield_points
            if point.yield_point.startswith(module)
        }
        assert {
            f"{module}.py:8 Worker.run": 3,
            f"{module}.py:11 Worker.step": 3,
            f"{module}.py:13 notify": 3,
        } == steps


class Equal(type):
    """A type that runs code of the application when it is compared."""

    def __eq__(cls, other: object) -> bool:
        raise AssertionError("this is code of the application")

    def __hash__(cls) -> int:
        raise AssertionError("this is code of the application")


class Steps(metaclass=Equal):
    """Suspends once."""

    def __init__(self) -> None:
        self._suspended = False

    def __iter__(self) -> Steps:
        return self

    def __next__(self) -> None:
        if self._suspended:
            raise StopIteration
        self._suspended = True


class Awaitable(metaclass=Equal):
    """Is awaited by :class:`Steps`."""

    def __await__(self) -> Any:
        return Steps()


class Callback(metaclass=Equal):
    """A callback that is no function."""

    def __call__(self) -> None:
        pass


def test_types_are_not_compared_by_their_own_code(implementation: str) -> None:
    """A metaclass can define what is equal to its types."""

    async def main() -> None:
        asyncio.get_running_loop().call_soon(Callback())
        await Awaitable()

    with traced_loop(implementation=implementation) as traced:
        traced.run(main())
        seen = traced.snapshot()
    points = seen.yield_points_of(f"{__name__}.{main.__qualname__}")
    assert {"Steps", "(return)"} == {point.awaits.rpartition(".")[2] for point in points}
    assert "Callback" in {
        point.yield_point.rpartition(".")[2] for point in seen.yield_points_of("(callback)")
    }


def test_a_copy_of_our_middleware_is_not_ours() -> None:
    """Its code is equal, and it may do anything else: it is in another module."""
    pytest.importorskip("aiohttp")
    from aiometrics.integrations import aiohttp as ours

    copy: dict[str, Any] = {"__name__": "copied"}
    source = Path(ours.__file__).read_text(encoding="utf-8")
    exec(compile(source, "/srv/copied.py", "exec", dont_inherit=True), copy)  # noqa: S102
    copied = copy["request_middleware"]()
    assert copied.__code__ == ours.request_middleware().__code__  # type: ignore[attr-defined]

    class Application:
        pre_frozen = False

        def __init__(self) -> None:
            self.middlewares = [copied]

        def pre_freeze(self) -> None:
            pass

    frameworks._patch_aiohttp(SimpleNamespace(Application=Application))  # type: ignore[arg-type]
    application = Application()
    application.pre_freeze()
    assert 2 == len(application.middlewares)


class EqualLoop(asyncio.SelectorEventLoop):
    """A loop that is equal to all others of its class."""

    def __eq__(self, other: object) -> bool:
        return isinstance(other, EqualLoop)

    def __hash__(self) -> int:
        return 1


async def step() -> None:
    """Ends at once."""


def test_only_the_loop_that_was_named_is_traced(implementation: str) -> None:
    """Not one that is equal to it."""
    with closing(EqualLoop()) as named, closing(EqualLoop()) as other:
        traced = Instrumentation(
            resolve(environ={}).recording, implementation=IMPLEMENTATIONS[implementation]
        )
        traced.instrument(named)
        try:
            for loop in (named, other):
                loop.run_until_complete(step())
            assert 1 == traced.snapshot().coroutine(f"{__name__}.step").created
            traced.uninstrument(other)
            named.run_until_complete(step())
            assert 2 == traced.snapshot().coroutine(f"{__name__}.step").created
        finally:
            traced.remove()


class EqualToAll:
    """A callback of another tool."""

    def __eq__(self, other: object) -> bool:
        return True

    __hash__ = object.__hash__

    def __call__(self, *_: object) -> None:
        pass


def test_callbacks_of_others_stay_where_they_are(implementation: str) -> None:
    """Ours are removed, not what calls itself equal to them."""
    other = EqualToAll()
    gc.callbacks.insert(0, other)
    try:
        before = list(map(id, gc.callbacks))
        with every_loop(implementation):
            asyncio.run(step())
        assert before == list(map(id, gc.callbacks))
    finally:
        gc.callbacks[:] = [each for each in gc.callbacks if each is not other]


def test_another_registry_is_another_although_it_is_equal(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """An exporter that goes on says that it does so with the registry that it has."""

    class EqualRegistry(CollectorRegistry):
        def __eq__(self, other: object) -> bool:
            return True

        __hash__ = CollectorRegistry.__hash__

    with aiometrics.start_exporter(0, "127.0.0.1", registry=EqualRegistry()):
        aiometrics.start_exporter(0, "127.0.0.1", registry=EqualRegistry()).stop()
    assert "goes on with registry=" in caplog.text


def test_finders_of_others_stay_where_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ours is removed once it has found its module."""

    class EqualFinder:
        def __eq__(self, other: object) -> bool:
            return True

        __hash__ = object.__hash__

        def find_spec(self, *_: object) -> None:
            pass

    finders = [EqualFinder(), *sys.meta_path]
    monkeypatch.setattr(sys, "meta_path", list(finders))
    monkeypatch.delitem(sys.modules, "colorsys", raising=False)
    when_imported("colorsys", lambda _: None)
    sys.meta_path.insert(0, sys.meta_path.pop(1))
    importlib.import_module("colorsys")
    assert list(map(id, finders)) == list(map(id, sys.meta_path))
