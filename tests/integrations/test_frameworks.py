"""Real servers and ways to run a program: handlers have their names, and the main task shows."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Callable, Coroutine
from typing import Any

import anyio
import pytest
import uvicorn
import uvloop
from aiohttp import ClientSession, web
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from support.tracing import every_loop

from aiometrics.pages.snapshot import Snapshot

HERE = __name__.replace(".", "/") + ".py"
LOCAL = "127.0.0.1"
LOOPS = pytest.mark.parametrize(
    "make_loop", [asyncio.SelectorEventLoop, uvloop.new_event_loop], ids=["asyncio", "uvloop"]
)


async def query() -> str:
    """Stands for what handlers await."""
    await asyncio.sleep(0)
    return "found"


async def aiohttp_handler(_: web.Request) -> web.Response:
    """A handler of aiohttp."""
    return web.Response(text=await query())


async def starlette_handler(_: Request) -> PlainTextResponse:
    """A handler of Starlette."""
    return PlainTextResponse(await query())


def places(seen: Snapshot) -> dict[str, tuple[str, str, int]]:
    """Return coroutine, awaited object and count of our own code's yield points."""
    found = [point for point in seen.yield_points if point.yield_point.startswith(HERE)]
    return {
        point.yield_point.partition(" ")[2]: (point.coroutine, point.awaits, point.waits.count)
        for point in found
    }


@LOOPS
def test_requests_of_aiohttp_are_seen(
    implementation: str, make_loop: Callable[[], asyncio.AbstractEventLoop]
) -> None:
    """Its handler tasks are made by the constructor, eagerly where possible; each await shows."""

    async def main() -> None:
        app = web.Application()
        app.router.add_get("/", aiohttp_handler)
        runner = web.AppRunner(app)
        await runner.setup()
        site = web.TCPSite(runner, LOCAL, 0)
        await site.start()
        host, port = runner.addresses[0][:2]
        async with ClientSession() as session:
            for _ in range(3):
                async with session.get(f"http://{host}:{port}/") as answer:
                    assert "found" == await answer.text()
        await runner.cleanup()

    with every_loop(implementation) as instrumentation:
        with asyncio.Runner(loop_factory=make_loop) as runner:
            runner.run(main())
        seen = instrumentation.snapshot()
    coroutine, awaited, count = places(seen)["query"]
    assert ("asyncio.sleep", 3) == (awaited, count)
    assert coroutine.startswith("aiohttp.web_protocol.RequestHandler.")
    assert 0 == sum(entry.live for entry in seen.coroutines)


@LOOPS
def test_requests_of_starlette_on_uvicorn_are_seen(
    implementation: str, make_loop: Callable[[], asyncio.AbstractEventLoop]
) -> None:
    """Each await of a handler shows under the task that uvicorn made for the request."""

    async def request(port: int) -> bytes:
        reader, writer = await asyncio.open_connection(LOCAL, port)
        writer.write(b"GET / HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n")
        answer = await reader.read()
        writer.close()
        await writer.wait_closed()
        return answer

    async def main() -> None:
        app = Starlette(routes=[Route("/", starlette_handler)])
        server = uvicorn.Server(
            uvicorn.Config(app, host=LOCAL, port=0, log_config=None, lifespan="off")
        )
        serving = asyncio.create_task(server.serve())
        while not server.started:  # noqa: ASYNC110 - uvicorn has no event for that
            await asyncio.sleep(0)
        (port,) = (socket.getsockname()[1] for one in server.servers for socket in one.sockets)
        for _ in range(3):
            assert (await request(port)).endswith(b"found")
        server.should_exit = True
        await serving

    with every_loop(implementation) as instrumentation:
        with asyncio.Runner(loop_factory=make_loop) as runner:
            runner.run(main())
        seen = instrumentation.snapshot()
    coroutine, awaited, count = places(seen)["query"]
    assert ("asyncio.sleep", 3) == (awaited, count)
    assert coroutine.startswith("uvicorn.protocols.http.")
    assert coroutine.endswith(".RequestResponseCycle.run_asgi")


def by_runner(main: Callable[[], Coroutine[Any, Any, str]]) -> None:
    """Run it with asyncio.Runner."""
    with asyncio.Runner() as runner:
        runner.run(main())


def by_runner_on_uvloop(main: Callable[[], Coroutine[Any, Any, str]]) -> None:
    """Run it with asyncio.Runner, on a loop of uvloop."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main())


RUNS: dict[str, Callable[[Callable[[], Coroutine[Any, Any, str]]], Any]] = {
    "asyncio.run": lambda main: asyncio.run(main()),
    "Runner": by_runner,
    "Runner on uvloop": by_runner_on_uvloop,
    "uvloop.run": lambda main: uvloop.run(main()),
    "anyio.run": anyio.run,
    "anyio.run on uvloop": lambda main: anyio.run(main, backend_options={"use_uvloop": True}),
}


@pytest.mark.parametrize("run", RUNS.values(), ids=RUNS)
def test_the_main_task_is_included(implementation: str, run: Callable[..., Any]) -> None:
    """However the program is run, its first coroutine is traced under its own name."""
    with every_loop(implementation) as instrumentation:
        run(query)
        seen = instrumentation.snapshot()
    assert 1 == seen.coroutine(f"{__name__}.query").wall["completed"].count


def test_tasks_of_groups_of_anyio_are_named(implementation: str) -> None:
    """Starlette and httpx use them: the task is named after its function, not anyio's handle."""

    async def main() -> None:
        async with anyio.create_task_group() as group:
            group.start_soon(query)
            group.start_soon(query)

    with every_loop(implementation) as instrumentation:
        anyio.run(main)
        seen = instrumentation.snapshot()
    assert 2 == seen.coroutine(f"{__name__}.query").wall["completed"].count
    assert ("asyncio.sleep", 2) == places(seen)["query"][1:]


def test_an_application_of_aiohttp_is_run_with_its_main_task(implementation: str) -> None:
    """web.run_app makes its own loop and main task."""

    async def stop(_: web.Application) -> None:
        await query()
        raise web.GracefulExit

    app = web.Application()
    app.on_startup.append(stop)
    with every_loop(implementation) as instrumentation:
        web.run_app(app, host=LOCAL, port=0, print=None, loop=asyncio.new_event_loop())
        seen = instrumentation.snapshot()
    ((place, (coroutine, _, count)),) = places(seen).items()
    assert ("query", "aiohttp.web._run_app", 1) == (place, coroutine, count)


LATE = """
import asyncio, sys
{first}
import aiometrics
from aiometrics.recorder.implementation import IMPLEMENTATION
exporter = aiometrics.start_exporter(0, "127.0.0.1", registry=None)
import uvloop

async def works():
    await asyncio.sleep(0)

async def main():
    loop = asyncio.get_running_loop()
    loop.set_task_factory(lambda loop, coro, **_: asyncio.Task(coro, loop=loop))
    created = asyncio.create_task(works()), loop.create_task(works())
    await asyncio.gather(*created, asyncio.Task(works(), loop=loop))

def counts(snapshot):
    names = ("__main__.main", "__main__.works")
    return [snapshot.coroutine(name).wall["completed"].count for name in names]

uvloop.run(main())
first = counts(exporter.snapshot())
exporter.stop()
exporter = aiometrics.start_exporter(0, "127.0.0.1", registry=None)
uvloop.run(main())
second = counts(exporter.snapshot())
exporter.stop()
print(IMPLEMENTATION, *first, *second)
"""


@pytest.mark.parametrize("first", ["import uvloop", ""], ids=["before", "after"])
def test_uvloop_may_be_imported_before_or_after(implementation: str, first: str) -> None:
    """Its tasks are traced either way, also by a second exporter."""
    environ = {**os.environ, "AIOMETRICS_NO_EXTENSIONS": "" if implementation == "c" else "1"}
    done = subprocess.run(
        [sys.executable, "-c", LATE.format(first=first)],
        check=False,
        capture_output=True,
        text=True,
        env=environ,
        timeout=300,
    )
    assert (f"{implementation} 1 3 1 3\n", "") == (done.stdout, done.stderr)
