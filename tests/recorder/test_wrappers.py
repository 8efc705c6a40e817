"""Tools that wrap coroutines or set task factories do not hide the application's names.

Each tool runs for real, in a process of its own.
"""

from __future__ import annotations

import asyncio
import importlib.util
import os
import subprocess
import sys
import types
from collections.abc import Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

import anyio
import pytest
from opentelemetry import trace

from aiometrics.testing import TracedLoop, traced_loop

PROGRAM = """
import asyncio
import aiometrics

async def works():
    await asyncio.sleep(0)
    return 1

async def fails():
    await works()
    raise ValueError

async def main():
{setup}
    if {late}:
        exporter = aiometrics.start_exporter(0, "127.0.0.1", registry=None, watchdog=False)
    loop = asyncio.get_running_loop()
    tasks = [asyncio.create_task(works()), loop.create_task(works())]
    tasks += [asyncio.ensure_future(works()), asyncio.create_task(fails())]
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert [1, 1, 1, ValueError] == [found if found == 1 else type(found) for found in results]
    seen = aiometrics.snapshot()
{teardown}
    return seen

if not {late}:
    exporter = aiometrics.start_exporter(0, "127.0.0.1", registry=None, watchdog=False)
seen = asyncio.run(main())
exporter = aiometrics.exporter.session.process.session
exporter.stop()
names = {{entry.coroutine: entry for entry in seen.coroutines if entry.created}}
for name in ("works", "fails"):
    entry = names["__main__." + name]
    ended = (entry.wall[status].count for status in ("completed", "failed"))
    print(name, entry.created, entry.live, entry.destroyed_pending, *ended)
print(aiometrics.IMPLEMENTATION, sorted(name for name in names if {wrapper!r} in name), seen.errors)
"""

OPENTELEMETRY = """
    import os
    os.environ["OTEL_PYTHON_ASYNCIO_COROUTINE_NAMES_TO_TRACE"] = "works,fails"
    from opentelemetry.instrumentation.asyncio import AsyncioInstrumentor
    AsyncioInstrumentor().instrument()
"""
SENTRY = """
    import sentry_sdk
    from sentry_sdk.integrations.asyncio import AsyncioIntegration
    sentry_sdk.init("https://key@localhost/1", transport=lambda _: None, traces_sample_rate=1.0,
                    default_integrations=False, integrations=[AsyncioIntegration()])
    assert "sentry" in repr(asyncio.get_running_loop().get_task_factory())
"""
AIOMONITOR = """
    import aiomonitor
    monitor = aiomonitor.Monitor(asyncio.get_running_loop(), termui_port=0, webui_port=0,
                                 console_enabled=False, hook_task_factory=True)
    monitor.start()
"""
TOOLS = {
    "opentelemetry": (
        "opentelemetry.instrumentation.asyncio",
        OPENTELEMETRY,
        "    AsyncioInstrumentor().uninstrument()",
        "trace_coroutine",
    ),
    "sentry": ("sentry_sdk", SENTRY, "", "sentry"),
    "aiomonitor": ("aiomonitor", AIOMONITOR, "    monitor.close()", "_coro_wrapper"),
}


def installed(module: str) -> bool:
    """Return whether a module can be imported."""
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:
        return False


@pytest.mark.parametrize("late", [False, True], ids=["traced before", "traced after"])
@pytest.mark.parametrize("tool", TOOLS)
def test_the_wrapped_coroutine_is_named(implementation: str, tool: str, *, late: bool) -> None:
    """The task is counted once, under the application's name, whichever was started first."""
    module, setup, teardown, wrapper = TOOLS[tool]
    if not installed(module):
        pytest.skip(f"{module} is not installed: install it to run this test")
    if late and implementation == "python" and tool in ("sentry", "aiomonitor"):
        pytest.skip(
            "only the C recorder sees a task type that was taken from asyncio before it started"
        )
    environ = {**os.environ, "AIOMETRICS_NO_EXTENSIONS": "" if implementation == "c" else "1"}
    program = PROGRAM.format(setup=setup, teardown=teardown, late=late, wrapper=wrapper)
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program],
        check=False,
        capture_output=True,
        text=True,
        env=environ,
        timeout=300,
    )
    assert "" == done.stderr
    assert f"works 3 0 0 3 0\nfails 1 0 0 0 1\n{implementation} [] {{}}\n" == done.stdout


async def works() -> None:
    """Stands for a task of the application."""
    await asyncio.sleep(0)


class Worker:
    """Has a method that is a task."""

    async def work(self) -> None:
        """The task."""
        await asyncio.sleep(0)


@asynccontextmanager
async def _limited() -> Any:
    yield


async def in_group(function: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Start a task by anyio."""
    async with anyio.create_task_group() as group:
        group.start_soon(function)


WRAPPED: dict[str, tuple[Callable[[], Coroutine[Any, Any, Any]], Callable[..., Any]]] = {
    "a span of OpenTelemetry": (
        trace.get_tracer("test").start_as_current_span("work")(works),
        works,
    ),
    "a context of the standard library": (_limited()(works), works),
    "a function in anyio": (lambda: in_group(works), works),
    "a method in anyio": (lambda: in_group(Worker().work), Worker.work),
}


@pytest.mark.parametrize("wrapped", WRAPPED)
def test_what_only_awaits_the_application_is_looked_through(
    implementation: str, wrapped: str
) -> None:
    """The coroutine is the application's function, whatever tool is around it."""
    make, function = WRAPPED[wrapped]

    async def main(traced: TracedLoop) -> None:
        await traced.loop.create_task(make())

    with traced_loop(implementation=implementation) as traced:
        traced.run(main(traced))
        names = {entry.coroutine for entry in traced.snapshot().coroutines if entry.created}
    assert f"{__name__}.{function.__qualname__}" in names
    assert not {name for name in names if not name.startswith(f"{__name__}.")}


async def awaits_twice(coro: Coroutine[Any, Any, None]) -> None:
    """Does more than await what it was given."""
    await coro
    await asyncio.sleep(0)


async def awaits_given(coro: Coroutine[Any, Any, None]) -> None:
    """Only awaits what it was given."""
    await coro


@pytest.mark.parametrize(
    ("function", "origin", "expected"),
    [
        (awaits_given, "library", "works"),
        (awaits_twice, "library", "awaits_twice"),
        (awaits_given, "application", "awaits_given"),
    ],
)
def test_other_coroutines_keep_their_name(
    implementation: str, function: Callable[..., Any], origin: str, expected: str
) -> None:
    """As do the application's own wrappers, which it may want to see."""
    module = "installed.wrapper" if origin == "library" else "shop.wrapper"
    wrapper = types.FunctionType(
        function.__code__, {"__name__": module, "asyncio": asyncio}, function.__name__
    )
    with traced_loop(implementation=implementation, library=["installed"]) as traced:
        traced.run(wrapper(works()))
        names = {entry.coroutine for entry in traced.snapshot().coroutines if entry.created}
    assert {f"{__name__ if expected == 'works' else module}.{expected}"} == names
