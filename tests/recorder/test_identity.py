"""What is equal is not the same: code of copied modules, and types that call themselves equal."""

from __future__ import annotations

import asyncio
import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from aiometrics.launch import frameworks
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
