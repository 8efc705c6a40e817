"""Services with a planted culprit: the first row of the hotspots names its line."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from typing import Annotated, Any

import pytest
import uvloop
from aiohttp import web
from fastapi import BackgroundTasks, Depends, FastAPI
from fastapi.responses import StreamingResponse
from support.databases import connected, postgres, redis
from support.tracing import every_loop
from support.web_servers import Client, aiohttp_serves, uvicorn_serves

from aiometrics.exposition.hotspots import find_hotspots
from aiometrics.instrumentation.sampling import Sampling

LOOPS = pytest.mark.parametrize(
    "make_loop", [asyncio.SelectorEventLoop, uvloop.new_event_loop], ids=["asyncio", "uvloop"]
)
#: How often each culprit runs, and the CPU time in seconds that it takes each time.
TIMES, SECONDS = 20, 0.03
#: Between two samples, on average.
INTERVAL_NS = 5_000_000


@pytest.fixture(scope="module")
def postgres_folder(binary: Callable[..., str]) -> Iterator[str]:
    """The folder of the socket of a PostgreSQL."""
    with postgres(binary) as folder:
        yield folder


@pytest.fixture(scope="module")
def redis_path(binary: Callable[..., str]) -> Iterator[str]:
    """The path of the socket of a Redis."""
    with redis(binary) as path:
        yield path


def crunch() -> None:
    """Hold the loop."""
    end = time.thread_time() + SECONDS
    while time.thread_time() < end:
        pass


async def database() -> AsyncIterator[str]:
    """A dependency that yields, and cleans up."""
    await asyncio.sleep(0)
    yield "connection"
    await asyncio.sleep(0)


def fastapi_app() -> FastAPI:
    """A culprit in a route, in a background task and in a stream of events."""
    app = FastAPI()

    @app.get("/route")
    async def route(found: Annotated[str, Depends(database)]) -> str:
        await asyncio.sleep(0)
        crunch()
        return found

    @app.get("/background")
    async def background(tasks: BackgroundTasks) -> str:
        tasks.add_task(crunch_in_task)
        return "soon"

    @app.get("/events")
    async def events() -> StreamingResponse:
        return StreamingResponse(stream(), media_type="text/event-stream")

    return app


async def crunch_in_task() -> None:
    """A background task, which would run in a thread if it were no coroutine."""
    crunch()


async def stream() -> AsyncIterator[str]:
    """Two events, the second of which takes long to make."""
    yield "data: 1\n\n"
    crunch()
    yield "data: 2\n\n"


async def ask(port: int, path: str) -> None:
    """Ask for a path again and again, on one connection."""
    async with Client(port) as client:
        for _ in range(TIMES):
            assert 200 == (await client.get(path)).status


async def of_fastapi(path: str) -> None:
    """Serve the culprits of FastAPI."""
    async with uvicorn_serves(fastapi_app()) as port:
        await ask(port, path)


async def handle(_: web.Request) -> web.Response:
    """A handler of aiohttp."""
    await asyncio.sleep(0)
    crunch()
    return web.Response(text="done")


async def of_aiohttp() -> None:
    """Serve the culprit of aiohttp."""
    app = web.Application()
    app.router.add_get("/", handle)
    async with aiohttp_serves(app) as port:
        await ask(port, "/")


async def of_a_queue() -> None:
    """Let a worker crunch items of a queue."""
    queue: asyncio.Queue[int] = asyncio.Queue()

    async def work() -> None:
        while True:
            await queue.get()
            crunch()
            queue.task_done()

    worker = asyncio.create_task(work())
    for item in range(TIMES):
        queue.put_nowait(item)
    await queue.join()
    worker.cancel()


class Crunches(asyncio.Protocol):
    """Crunches what it receives, and echoes it."""

    transport: Any

    def connection_made(self, transport: Any) -> None:
        """Keep the transport."""
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        """Be called by the transport, outside of any task, and by uvloop outside of any handle."""
        crunch()
        self.transport.write(data)


async def of_a_protocol() -> None:
    """Let a protocol crunch what a client sends."""
    server = await asyncio.get_running_loop().create_server(Crunches, "127.0.0.1", 0)
    async with server:
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        for _ in range(TIMES):
            writer.write(b"x")
            await reader.readexactly(1)
        writer.close()


SERVICES: dict[str, Callable[[], Coroutine[Any, Any, None]]] = {
    "a route of FastAPI": lambda: of_fastapi("/route"),
    "a background task of FastAPI": lambda: of_fastapi("/background"),
    "server-sent events": lambda: of_fastapi("/events"),
    "a handler of aiohttp": of_aiohttp,
    "a queue worker": of_a_queue,
    "a protocol": of_a_protocol,
}


def first_line(
    implementation: str,
    make_loop: Callable[[], asyncio.AbstractEventLoop],
    main: Callable[[], Coroutine[Any, Any, None]],
) -> str:
    """Return the line in the first row of the hotspots of a service, without its number."""
    with every_loop(implementation) as instrumentation:
        sampling = Sampling(instrumentation.sampler, INTERVAL_NS, instrumentation.internal_errors)
        sampling.start()
        try:
            with asyncio.Runner(loop_factory=make_loop) as runner:
                runner.run(main())
        finally:
            sampling.stop()
        held = find_hotspots(instrumentation.snapshot()).holders[0].held_at
    path, _, name = held.partition(" ")
    return f"{path.partition(':')[0]} {name}"


CULPRIT = f"{__name__.replace('.', '/')}.py crunch"


@pytest.mark.once
@LOOPS
@pytest.mark.parametrize("service", SERVICES)
def test_the_first_row_names_the_line(
    implementation: str, make_loop: Callable[[], asyncio.AbstractEventLoop], service: str
) -> None:
    """It is the culprit's, and not that of an await before or after it."""
    if (service, implementation, make_loop) == ("a protocol", "python", uvloop.new_event_loop):
        pytest.skip("what uvloop does outside of tasks is only seen in C")
    assert CULPRIT == first_line(implementation, make_loop, SERVICES[service])


@pytest.mark.once
@LOOPS
def test_the_first_row_beside_asyncpg(
    implementation: str, make_loop: Callable[[], asyncio.AbstractEventLoop], postgres_folder: str
) -> None:
    """A query before the culprit is not blamed for it."""
    asyncpg = pytest.importorskip("asyncpg")

    async def main() -> None:
        options = {"host": postgres_folder, "user": "tester", "database": "postgres"}
        async with connected(lambda: asyncpg.connect(**options)) as connection:
            for _ in range(TIMES):
                await connection.fetchrow("select 1")
                crunch()

    assert CULPRIT == first_line(implementation, make_loop, main)


@pytest.mark.once
@LOOPS
def test_the_first_row_beside_redis(
    implementation: str, make_loop: Callable[[], asyncio.AbstractEventLoop], redis_path: str
) -> None:
    """A command before the culprit is not blamed for it."""
    clients = pytest.importorskip("redis.asyncio")

    async def main() -> None:
        async with clients.Redis(unix_socket_path=redis_path) as client:
            await until_ready(client)
            for _ in range(TIMES):
                await client.get("nothing")
                crunch()

    assert CULPRIT == first_line(implementation, make_loop, main)


async def until_ready(client: Any) -> None:
    """Wait until Redis answers."""
    answered = False
    while not answered:
        try:
            answered = await client.ping()
        except Exception:  # noqa: BLE001 - its own type of error, until the server listens
            await asyncio.sleep(0.05)
