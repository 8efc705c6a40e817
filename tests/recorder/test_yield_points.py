"""The labels ``coroutine``, ``yield_point`` and ``awaits``, and what counts as the application."""

from __future__ import annotations

import asyncio
import collections.abc
import functools
import importlib
import importlib.util
import os
import subprocess
import sys
import sysconfig
import time
import types
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Coroutine, Generator
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from aiometrics.pages.snapshot import Snapshot
from aiometrics.recorder.implementation import IMPLEMENTATIONS
from aiometrics.recorder.places import Places, main_package
from aiometrics.testing import TracedLoop, traced_loop

HERE = __name__.replace(".", "/") + ".py"
TOP = __name__.partition(".")[0]
SITE = sysconfig.get_path("purelib")


def library(name: str, source: str, site: str = SITE) -> SimpleNamespace:
    """Return a module that seems to be installed, without a file."""
    namespace: dict[str, Any] = {"__name__": name, "asyncio": asyncio}
    exec(compile(source, f"{site}/{name.replace('.', '/')}.py", "exec"), namespace)  # noqa: S102 - the source is above
    return SimpleNamespace(**namespace)


def line(function: Callable[..., Any], offset: int = 1) -> int:
    """Return the number of a line of a function, counted from its first."""
    return function.__code__.co_firstlineno + offset


def name(function: Callable[..., Any]) -> str:
    """Return the coroutine label of a function of this file."""
    return f"{__name__}.{function.__qualname__}"


def record(implementation: str, *coros: Any, **options: Any) -> Snapshot:
    """Run ``coros`` as tasks of one loop and return the snapshot."""

    async def gather(traced: TracedLoop) -> None:
        tasks = [traced.loop.create_task(coro) for coro in coros]
        await asyncio.gather(*tasks, return_exceptions=True)

    with traced_loop(implementation=implementation, **options) as traced:
        traced.run(gather(traced))
        return traced.snapshot()


def awaits(snapshot: Snapshot, coroutine: str) -> list[tuple[str, str]]:
    """Return ``yield_point`` and ``awaits`` of each place, in the order in which they were met.

    Places where a task ends are left out.
    """
    found = [(point.yield_point, point.awaits) for point in snapshot.yield_points_of(coroutine)]
    return [labels for labels in found if labels[0] not in ("(return)", "(raise)")]


async def nap() -> None:
    """Await something of the standard library."""
    await asyncio.sleep(1)


async def call(function: Callable[[], Awaitable[Any]]) -> None:
    """Await what ``function`` returns."""
    await function()


ASYNCPG = library(
    "asyncpg.connection",
    """
class Connection:
    async def fetch(self):
        await self._protocol()
    async def _protocol(self):
        await asyncio.sleep(1)

async def retry(function):
    await function()
""",
)


def test_the_application_is_named_not_the_library_that_it_calls(implementation: str) -> None:
    """In a chain through a driver into asyncio, the application's frame is the yield point.

    The driver is what it awaits.
    """
    seen = record(implementation, call(ASYNCPG.Connection().fetch))
    assert [(f"{HERE}:{line(call, 2)} call", "asyncpg.Connection.fetch")] == awaits(
        seen, name(call)
    )


def test_the_innermost_application_frame_is_named(implementation: str) -> None:
    """A library that calls the application back does not hide it."""
    seen = record(implementation, call(functools.partial(ASYNCPG.retry, nap)))
    assert [(f"{HERE}:{line(nap, 2)} nap", "asyncio.sleep")] == awaits(seen, name(call))


def test_without_application_code_the_innermost_library_frame_is_named(implementation: str) -> None:
    """A task that a library runs for itself has its yield points in that library."""
    seen = record(implementation, ASYNCPG.retry(ASYNCPG.Connection().fetch))
    assert [("asyncpg/connection.py:6 Connection._protocol", "asyncio.sleep")] == awaits(
        seen, "asyncpg.connection.retry"
    )


def test_with_nothing_but_the_standard_library_its_innermost_frame_is_named(
    implementation: str,
) -> None:
    """A bare asyncio.sleep() as a task shows a line of asyncio."""
    ((place, awaited),) = awaits(record(implementation, asyncio.sleep(1)), "asyncio.tasks.sleep")
    assert ("asyncio/tasks.py", "sleep", "Future") == (
        place.partition(":")[0],
        place.partition(" ")[2],
        awaited,
    )


def test_dist_packages_are_libraries_too(implementation: str) -> None:
    """Debian's Python installs packages into dist-packages."""
    driver = library(
        "apt_driver",
        "async def fetch():\n    await asyncio.sleep(1)\n",
        "/usr/lib/python3/dist-packages",
    )
    assert [(f"{HERE}:{line(call, 2)} call", "apt_driver.fetch")] == awaits(
        record(implementation, call(driver.fetch)), name(call)
    )


def test_options_name_what_counts_as_application_and_as_library(implementation: str) -> None:
    """Prefixes of modules override the location of the file, and ``library`` wins."""
    fetch = ASYNCPG.Connection().fetch
    assert [("asyncpg/connection.py:6 Connection._protocol", "asyncio.sleep")] == awaits(
        record(implementation, call(fetch), application=["asyncpg"]), name(call)
    )
    both = record(
        implementation, call(fetch), application=["asyncpg"], library=["asyncpg.connection"]
    )
    assert [(f"{HERE}:{line(call, 2)} call", "asyncpg.Connection.fetch")] == awaits(
        both, name(call)
    )
    # A prefix consists of whole parts of a module's name.
    other = record(implementation, call(fetch), application=["async"])
    assert [(f"{HERE}:{line(call, 2)} call", "asyncpg.Connection.fetch")] == awaits(
        other, name(call)
    )


def test_a_task_that_cancels_itself_and_returns_has_completed(implementation: str) -> None:
    """The end of the coroutine counts, although asyncio calls the task cancelled."""

    async def cancels() -> None:
        task = asyncio.current_task()
        assert task is not None
        task.cancel()
        tasks.append(task)

    tasks: list[asyncio.Task[Any]] = []
    seen = record(implementation, cancels())
    assert [True] == [task.cancelled() for task in tasks]
    assert {"completed": 1, "failed": 0, "cancelled": 0} == {
        status: histogram.count for status, histogram in seen.coroutine(name(cancels)).wall.items()
    }


def test_a_task_ends_at_return_or_raise(implementation: str) -> None:
    """The last segment ends at a pseudo point, also in a coroutine that never awaits."""

    async def returns() -> None:
        pass

    async def raises() -> None:
        raise ValueError

    seen = record(implementation, returns(), raises())
    (ended,), (failed,) = (seen.yield_points_of(name(function)) for function in (returns, raises))
    assert ("(return)", "(return)", 1) == (ended.yield_point, ended.awaits, ended.segments.count)
    assert ("(raise)", "(raise)", 1) == (failed.yield_point, failed.awaits, failed.segments.count)


class OwnFuture(asyncio.Future[None]):
    """A type of futures that the application defines."""


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (asyncio.Future, "Future"),
        (OwnFuture, f"{TOP}.OwnFuture"),
        (lambda: asyncio.ensure_future(nap()), "Task"),
        (lambda: asyncio.Event().wait(), "asyncio.Event.wait"),
        (lambda: asyncio.Queue[int]().get(), "asyncio.Queue.get"),
        (lambda: asyncio.sleep(0), "asyncio.sleep"),
        (lambda: asyncio.to_thread(time.sleep, 0.05), "asyncio.to_thread"),
        (lambda: asyncio.wait_for(asyncio.Event().wait(), 1), "asyncio.wait_for"),
        (lambda: asyncio.shield(asyncio.ensure_future(nap())), "Future"),
        (lambda: asyncio.gather(nap()), "asyncio._GatheringFuture"),
    ],
    ids=[
        "future",
        "own future",
        "task",
        "event",
        "queue",
        "sleep",
        "thread",
        "wait_for",
        "shield",
        "gather",
    ],
)
def test_awaits_names_what_is_below(
    implementation: str, make: Callable[[], Awaitable[None]], expected: str
) -> None:
    """The callee below the yield point names a wait; a future is named by its type."""

    async def waits() -> None:
        await make()

    async def limited() -> None:
        task = asyncio.ensure_future(waits())
        await asyncio.wait([task], timeout=5)
        task.cancel()

    assert [(f"{HERE}:{line(waits)} {waits.__qualname__}", expected)] == awaits(
        record(implementation, limited()), name(waits)
    )


def test_one_line_that_awaits_different_things_is_several_yield_points(implementation: str) -> None:
    """The only await of a dispatcher is told apart by what it awaits."""

    async def other() -> None:
        await asyncio.sleep(1)

    driver = library("redis.client", "async def get():\n    await asyncio.sleep(1)\n")

    async def dispatch() -> None:
        for function in functions:
            await function()

    functions = (driver.get, ASYNCPG.Connection().fetch, functools.partial(asyncio.sleep, 1))
    place = f"{HERE}:{line(dispatch, 2)} {dispatch.__qualname__}"
    expected = [
        (place, awaited) for awaited in ("redis.get", "asyncpg.Connection.fetch", "asyncio.sleep")
    ]
    assert expected == awaits(record(implementation, dispatch()), name(dispatch))


@types.coroutine
def bare() -> Generator[None, None, None]:
    """Yield to the loop once."""
    yield


def test_a_bare_yield_awaits_nothing_that_has_a_name(implementation: str) -> None:
    """A generator-based coroutine that yields itself is the yield point."""
    assert [(f"{HERE}:{line(bare, 3)} bare", "(yield)")] == awaits(
        record(implementation, call(bare)), name(call)
    )


async def countdown() -> AsyncGenerator[int, None]:
    """Await before the only item."""
    await asyncio.sleep(1)
    yield 1


@pytest.mark.parametrize("how", ["async for", "anext", "anext with default", "asend", "aclose"])
def test_asynchronous_generators_are_followed(implementation: str, how: str) -> None:
    """The await in an asynchronous generator is the yield point, however it is driven."""

    @asynccontextmanager
    async def cleanup() -> AsyncIterator[None]:
        yield
        await asyncio.sleep(1)

    async def consume() -> None:
        if how == "async for":
            async for _ in countdown():
                pass
        elif how == "anext":
            await anext(countdown())
        elif how == "anext with default":
            await anext(countdown(), None)
        elif how == "asend":
            await countdown().asend(None)
        else:
            async with cleanup():
                pass

    inner, offset = (cleanup.__wrapped__, 3) if how == "aclose" else (countdown, 2)  # type: ignore[attr-defined]
    expected = [(f"{HERE}:{line(inner, offset)} {inner.__qualname__}", "asyncio.sleep")]
    assert expected == awaits(record(implementation, consume()), name(consume))


def test_an_asynchronous_generator_of_a_library_is_what_is_awaited(implementation: str) -> None:
    """An object that only drives a generator has no name of its own.

    Neither ``async for`` nor an awaitable that returns its coroutine is shown.
    """
    rows = "async def rows():\n    await asyncio.sleep(1)\n    yield 1\n"
    query = "class Query:\n    def __await__(self):\n        return nap().__await__()\n"
    driver = library("psycopg.rows", f"{rows}{query}async def nap():\n    await asyncio.sleep(1)\n")

    async def consume() -> None:
        async for _ in driver.rows():
            await driver.Query()

    places = [f"{HERE}:{line(consume, offset)} {consume.__qualname__}" for offset in (1, 2)]
    assert list(zip(places, ["psycopg.rows", "psycopg.nap"], strict=True)) == awaits(
        record(implementation, consume()), name(consume)
    )


def test_entering_a_context_is_an_await_like_any_other(implementation: str) -> None:
    """``async with`` shows its line and the method that it calls."""
    pool = library(
        "pool",
        """
class Pool:
    async def __aenter__(self):
        await asyncio.sleep(1)
    async def __aexit__(self, *_):
        pass
""",
    )

    async def borrow() -> None:
        async with pool.Pool():
            pass

    expected = [(f"{HERE}:{line(borrow)} {borrow.__qualname__}", "pool.Pool.__aenter__")]
    assert expected == awaits(record(implementation, borrow()), name(borrow))


def test_a_decorated_function_is_named_by_the_code_that_runs(implementation: str) -> None:
    """The decorated function is the yield point, and its wrapper the coroutine."""

    def logged(
        function: Callable[[], Coroutine[Any, Any, None]],
    ) -> Callable[[], Coroutine[Any, Any, None]]:
        @functools.wraps(function)
        async def wrapper() -> None:
            await function()

        return wrapper

    place = f"{logged.__qualname__}.<locals>.wrapper"
    expected = [(f"{HERE}:{line(nap, 2)} nap", "asyncio.sleep")]
    assert expected == awaits(record(implementation, logged(nap)()), f"{__name__}.{place}")


def test_an_awaitable_of_a_library_is_what_is_awaited(implementation: str) -> None:
    """An object whose ``__await__`` is a generator is named by that generator."""
    driver = library(
        "motor.core",
        """
class Cursor:
    def __await__(self):
        yield from asyncio.sleep(1).__await__()
""",
    )
    assert [(f"{HERE}:{line(call, 2)} call", "motor.Cursor.__await__")] == awaits(
        record(implementation, call(driver.Cursor)), name(call)
    )


class JobCoroutine(collections.abc.Coroutine[Any, Any, Any]):
    """A coroutine without code, as in extension modules; it does not show what it awaits."""

    def __init__(self, inner: Coroutine[Any, Any, Any]) -> None:
        self._inner = inner

    def send(self, value: Any) -> Any:
        return self._inner.send(value)

    def throw(self, *exc_info: Any) -> Any:
        return self._inner.throw(*exc_info)

    def close(self) -> None:
        self._inner.close()

    def __await__(self) -> Generator[Any, Any, Any]:
        return (yield from self._inner.__await__())


def test_a_coroutine_without_code_is_named_by_its_type(implementation: str) -> None:
    """The type stands for the coroutine and for the yield point."""
    seen = record(implementation, JobCoroutine(nap()))
    assert [(f"{TOP}.JobCoroutine", "(yield)")] == awaits(seen, f"{TOP}.JobCoroutine")
    assert (1, 1) == (
        seen.coroutine(f"{TOP}.JobCoroutine").created,
        seen.coroutine(f"{TOP}.JobCoroutine").wall["completed"].count,
    )


ASKED: list[str] = []


class AnswersEverything(JobCoroutine):
    """Answers to every attribute, and records that it was asked."""

    def __getattr__(self, asked: str) -> Any:
        ASKED.append(asked)
        return self

    @property
    def cr_code(self) -> Any:
        ASKED.append("cr_code")
        raise RuntimeError("not here")

    cr_frame = gi_code = gi_frame = cr_await = gi_yieldfrom = cr_code


class WithoutModule(JobCoroutine):
    """Has a module that is a property."""

    __module__ = property(lambda _: ASKED.append("__module__"))


class AwaitsItself(JobCoroutine):
    """Waits for itself, in a slot like those of types in C."""

    __slots__ = ("cr_await", "cr_code")

    def __init__(self, inner: Coroutine[Any, Any, Any]) -> None:
        super().__init__(inner)
        self.cr_await = self


class EmptySlots(JobCoroutine):
    """Has the slots of a coroutine, without values."""

    __slots__ = ("cr_await", "cr_code", "cr_frame")


@pytest.mark.parametrize("kind", [AnswersEverything, WithoutModule, AwaitsItself, EmptySlots])
def test_no_python_code_of_an_awaitable_runs_in_the_recorder(
    implementation: str, kind: type[JobCoroutine]
) -> None:
    """It does not run for a root, a callee or a link in between, and the task runs as usual."""
    ASKED.clear()

    async def between() -> None:
        await kind(nap())

    with traced_loop(implementation=implementation) as traced:
        ran = traced.run(run_both(kind, between))
        assert {} == traced.snapshot().errors
    asked = [attribute for attribute in ASKED if not attribute.startswith("_")]
    assert (2, []) == (ran, asked)


async def run_both(
    kind: type[JobCoroutine], between: Callable[[], Coroutine[Any, Any, None]]
) -> int:
    """Run one as a task and one in the middle of a chain; return how many."""
    await asyncio.create_task(kind(nap()))
    await asyncio.create_task(between())
    return 2


def test_closing_an_asynchronous_generator_may_be_a_task(implementation: str) -> None:
    """Everything that asyncio accepts as a coroutine is traced."""

    async def generator() -> AsyncGenerator[None, None]:
        try:
            yield
        finally:
            await asyncio.sleep(1)

    async def closes() -> None:
        source = generator()
        await anext(source)
        await asyncio.create_task(source.aclose())

    seen = record(implementation, closes())
    place = [(f"{HERE}:{line(generator, 4)} {generator.__qualname__}", "asyncio.sleep")]
    assert place == awaits(seen, "async_generator_athrow")


def test_asyncio_itself_rejects_what_is_no_coroutine(implementation: str) -> None:
    """Its error reaches the caller, and no task is counted."""

    async def mistaken() -> None:
        with pytest.raises(TypeError, match="a coroutine was expected, got 42"):
            await asyncio.create_task(42)  # type: ignore[arg-type]
        with pytest.raises(TypeError, match="a coroutine was expected, got"):
            await asyncio.Task(object())  # type: ignore[arg-type]

    seen = record(implementation, mistaken())
    assert [name(mistaken)] == [
        entry.coroutine for entry in seen.coroutines if entry.coroutine.startswith(name(mistaken))
    ]
    assert not [entry for entry in seen.coroutines if entry.coroutine in ("int", "object")]


CYTHON = """
import asyncio

async def inner():
    await asyncio.sleep(1)

async def fast():
    await inner()

async def other():
    await asyncio.sleep(1)
"""


@pytest.fixture(scope="session")
def cython_module(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """An extension module with coroutines that Cython compiled."""
    pytest.importorskip("Cython.Build", reason="Cython is not installed")
    folder = tmp_path_factory.mktemp("cython")
    (folder / "quick.py").write_text(CYTHON)
    build = """
from Cython.Build import cythonize
from setuptools import setup
setup(ext_modules=cythonize("quick.py", quiet=True))
"""
    command = [sys.executable, "-W", "ignore", "-c", build, "-q", "build_ext", "--inplace"]
    subprocess.run(
        command, cwd=folder, check=True, capture_output=True, env={**os.environ, "CFLAGS": "-O0"}
    )
    sys.path.insert(0, str(folder))
    try:
        import quick  # type: ignore[import-not-found]
    finally:
        sys.path.remove(str(folder))
    return quick


def test_coroutines_of_cython_are_traced(implementation: str, cython_module: Any) -> None:
    """A coroutine compiled by Cython is named, as a task and as what a task awaits."""

    async def dispatch() -> None:
        for function in (cython_module.fast, cython_module.other):
            await function()

    seen = record(implementation, cython_module.fast(), dispatch())
    assert 1 == seen.coroutine("quick.fast").wall["completed"].count
    assert [("quick.py:4 inner", "asyncio.sleep")] == awaits(seen, "quick.fast")
    assert [
        ("quick.py:4 inner", "asyncio.sleep"),
        ("quick.py:10 other", "asyncio.sleep"),
    ] == awaits(seen, name(dispatch))


def test_cython_coroutines_of_one_await_are_told_apart(
    implementation: str, cython_module: Any
) -> None:
    """As are those of Python, where one line awaits several."""

    async def dispatch() -> None:
        for function in (cython_module.fast, cython_module.other):
            await function()

    place = f"{HERE}:{line(dispatch, 2)} {dispatch.__qualname__}"
    assert [(place, "quick.fast"), (place, "quick.other")] == awaits(
        record(implementation, dispatch(), library=["quick"]), name(dispatch)
    )


def test_equal_code_of_two_files_is_two_places(implementation: str) -> None:
    """Plugins made from one template have the same lines, and Python calls their code equal."""
    source = "async def handle():\n    await asyncio.sleep(1)\n"
    first, second = (library(f"plugins.{plugin}", source, "/srv/app") for plugin in "ab")
    assert first.handle.__code__ == second.handle.__code__
    seen = record(implementation, first.handle(), second.handle())
    assert {
        f"plugins.{plugin}.handle": [(f"plugins/{plugin}.py:2 handle", "asyncio.sleep")]
        for plugin in "ab"
    } == {f"plugins.{plugin}.handle": awaits(seen, f"plugins.{plugin}.handle") for plugin in "ab"}


def test_reloaded_code_has_its_new_lines(
    implementation: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A module that was edited and loaded again is the application at its new lines."""
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "edited", raising=False)
    path = tmp_path / "edited.py"
    path.write_text("import asyncio\nasync def handle():\n    await asyncio.sleep(1)\n")
    edited = importlib.import_module("edited")

    async def both() -> None:
        await asyncio.create_task(edited.handle())
        path.write_text("import asyncio\n\n\nasync def handle():\n    await asyncio.sleep(1)\n")
        importlib.invalidate_caches()
        await asyncio.create_task(importlib.reload(edited).handle())

    assert [(f"edited.py:{number} handle", "asyncio.sleep") for number in (3, 5)] == awaits(
        record(implementation, both()), "edited.handle"
    )


SCRIPT = """
import asyncio
from aiometrics.testing import traced_loop

async def handler():
    await asyncio.sleep(1)

with traced_loop(implementation={implementation!r}) as traced:
    traced.run(handler())
    point = traced.snapshot().yield_points_of("__main__.handler")[0]
    print(point.coroutine, point.yield_point)
"""


@pytest.mark.parametrize(
    ("file", "arguments", "place"),
    [
        ("serve.py", ["serve.py"], "serve.py"),
        ("shop/serve.py", ["shop/serve.py"], "serve.py"),
        ("shop/serve.py", ["-m", "shop.serve"], "shop/serve.py"),
        ("shop/__main__.py", ["-m", "shop"], "shop/__main__.py"),
    ],
)
def test_the_path_of_the_main_program_begins_where_imports_do(
    implementation: str, tmp_path: Path, file: str, arguments: list[str], place: str
) -> None:
    """A label has no absolute path, whether a script or a module was started."""
    path = tmp_path / file
    path.parent.mkdir(exist_ok=True)
    path.write_text(SCRIPT.format(implementation=implementation))
    done = subprocess.run(
        [sys.executable, *arguments], cwd=tmp_path, check=True, capture_output=True, text=True
    )
    assert f"__main__.handler {place}:6 handler\n" == done.stdout


def test_a_package_is_shown_by_its_init_file(implementation: str) -> None:
    """Its path has one part more than its name."""
    namespace: dict[str, Any] = {"__name__": "shop.db", "asyncio": asyncio}
    exec(  # noqa: S102
        compile(
            "async def fetch():\n    await asyncio.sleep(1)\n",
            "/srv/app/shop/db/__init__.py",
            "exec",
        ),
        namespace,
    )
    assert [("shop/db/__init__.py:2 fetch", "asyncio.sleep")] == awaits(
        record(implementation, namespace["fetch"]()), "shop.db.fetch"
    )


def test_a_path_of_another_system_is_not_shown_whole(implementation: str) -> None:
    """Code can be compiled on Windows and run elsewhere."""
    namespace: dict[str, Any] = {"__name__": "shop.db", "asyncio": asyncio}
    source = "async def fetch():\n    await asyncio.sleep(1)\n"
    exec(compile(source, r"C:\srv\app\shop\db.py", "exec"), namespace)  # noqa: S102
    assert [("shop/db.py:2 fetch", "asyncio.sleep")] == awaits(
        record(implementation, namespace["fetch"]()), "shop.db.fetch"
    )


@pytest.mark.parametrize(
    ("module", "path"),
    [
        ("plugins.vendor.customer.name.v1.more.deep", "plugin.py"),
        ("customers.plugin", "customers/plugin.py"),
        ("{folder}/plugin.py", "plugin.py"),
        ("{dotted}.plugin", "plugin.py"),
    ],
)
def test_a_file_loaded_under_any_name_shows_no_absolute_path(
    implementation: str, tmp_path: Path, module: str, path: str
) -> None:
    """Plug-ins are loaded from their files, often under long names or by the path itself."""
    file = tmp_path / "customers" / "plugin.py"
    file.parent.mkdir()
    file.write_text(
        "import asyncio\n"
        "class Waits:\n"
        "    def __await__(self):\n"
        "        yield from asyncio.sleep(1).__await__()\n"
        "async def fetch():\n"
        "    asyncio.get_running_loop().call_soon(print)\n"
        "    asyncio.get_running_loop().call_soon(lambda: None)\n"
        "    await Waits()\n"
    )
    name = module.format(folder=file.parent, dotted=str(file.parent).replace("/", "."))
    spec = importlib.util.spec_from_file_location(name, file)
    assert spec is not None
    assert spec.loader is not None
    loaded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    seen = record(implementation, loaded.fetch())
    labels = {
        label
        for point in seen.yield_points
        for label in (point.coroutine, point.yield_point, point.awaits)
    }
    folders = (str(tmp_path), str(tmp_path)[1:], str(tmp_path)[1:].replace("/", "."))
    assert [] == [label for label in labels if any(each in label for each in folders)]
    assert [] == [label for label in labels if label.startswith(("/", "."))]
    assert f"{path}:7 fetch.<locals>.<lambda>" in labels
    assert f"{path}:4 Waits.__await__" in labels


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ("shop.__main__", "shop"),
        ("shop", "shop"),
        ("uvicorn.__main__", None),
        ("pytest", None),
        (None, None),
    ],
)
def test_launchers_are_not_the_application(
    monkeypatch: pytest.MonkeyPatch, spec: str | None, expected: str | None
) -> None:
    """``python -m shop`` makes shop the application.

    ``python -m uvicorn shop:app`` does not make uvicorn the application.
    """
    program = types.ModuleType("__main__")
    program.__spec__ = SimpleNamespace(name=spec) if spec else None  # type: ignore[assignment]
    monkeypatch.setitem(sys.modules, "__main__", program)
    assert expected == main_package()


def test_the_python_implementation_is_always_tested() -> None:
    """The fixture ``implementation`` covers at least the Python recorder."""
    assert "python" in IMPLEMENTATIONS


@pytest.mark.parametrize(
    ("label", "options", "expected"),
    [
        ("pytest/__init__.py:1 main", {}, True),
        ("asyncio/tasks.py:1 sleep", {}, True),
        ("asyncio/tasks.py:1 sleep", {"application": ["asyncio"]}, False),
        ("_pytest/main.py:1 main", {"application": ["_pytest.main"]}, False),
        ("_pytest/config/argparsing.py:1 f", {"application": ["_pytest.config"]}, False),
        ("_pytest/python.py:1 f", {"application": ["_pytest.config"]}, True),
        ("shop/db.py:1 query", {}, False),
        ("shop/db.py:1 query", {"library": ["shop"]}, True),
        ("(eager child)", {}, False),
    ],
)
def test_labels_tell_libraries(
    label: str, options: dict[str, list[str]], *, expected: bool
) -> None:
    """So do the names of yield points of another process, as far as the modules are known."""
    assert expected == Places(**options).of_library(label)


async def visits(times: int) -> None:
    """Wait here so often, then at another place, then here again."""
    for _ in range(times):
        await asyncio.sleep(1)
    await nap()
    await asyncio.sleep(1)


def test_each_task_is_counted_once_where_it_waited(implementation: str) -> None:
    """However often it did, and only when its wait is over."""

    async def main() -> dict[int, tuple[int, int]]:
        waiting = [asyncio.create_task(visits(times)) for times in (0, 1, 5)]
        await asyncio.sleep(2.5)
        early = traced.snapshot()
        await asyncio.wait(waiting)
        lines = visits.__code__.co_firstlineno + 3, visits.__code__.co_firstlineno + 5
        return {
            line: (_wait_tasks(early, line), _wait_tasks(traced.snapshot(), line)) for line in lines
        }

    with traced_loop(implementation=implementation) as traced:
        first, last = traced.run(main()).values()
    assert ((2, 2), (1, 3)) == (first, last)


def _wait_tasks(seen: Snapshot, line: int) -> int:
    here = f":{line} visits"
    return sum(point.wait_tasks for point in seen.yield_points if point.yield_point.endswith(here))


def test_a_task_tells_63_places_apart(implementation: str) -> None:
    """It is missing where it comes to more, and never counted twice."""
    count = 100
    lines = "".join(f"    await sleep(1)  # {number}\n" for number in range(count))
    namespace: dict[str, Any] = {"sleep": asyncio.sleep, "__name__": __name__}
    exec(compile(f"async def walk():\n{lines}", __file__, "exec"), namespace)  # noqa: S102 - ours
    walk = namespace["walk"]

    async def main() -> None:
        await asyncio.gather(walk(), walk())

    with traced_loop(implementation=implementation) as traced:
        traced.run(main())
        points = traced.snapshot().yield_points_of(f"{__name__}.walk")
    counts = [point.wait_tasks for point in points if point.waits.count]
    assert {0: count - 63, 2: 63} == {tasks: counts.count(tasks) for tasks in (0, 2)}


def test_places_of_other_tasks_hide_none(implementation: str) -> None:
    """However many a loop has met between two places of one coroutine."""
    lines = "".join(f"    await sleep(1)  # {number}\n" for number in range(50))
    choices = "".join(f"    if way == {number}: await sleep(1)\n" for number in range(20))
    source = f"async def walk():\n{lines}\nasync def go(way):\n    await sleep(1)\n{choices}"
    namespace: dict[str, Any] = {"sleep": asyncio.sleep, "__name__": __name__}
    exec(compile(source, __file__, "exec"), namespace)  # noqa: S102 - ours
    walk, go = namespace["walk"], namespace["go"]

    async def main() -> None:
        await asyncio.create_task(go(-1))
        await asyncio.create_task(walk())
        await asyncio.gather(*map(go, range(20)))

    with traced_loop(implementation=implementation) as traced:
        traced.run(main())
        points = traced.snapshot().yield_points_of(f"{__name__}.go")
    assert [21] + 20 * [1] == [point.wait_tasks for point in points if point.waits.count]
