"""Tools that wrap coroutines or set task factories do not hide the application's names.

Each tool runs for real, in a process of its own.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys

import pytest

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
