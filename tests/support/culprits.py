"""Services with a planted culprit, whose share of the CPU time is known.

``python -m support.culprits [SECONDS]`` in ``tests`` compares that share with the one that samples
find, on both loops. Neither the loop nor the sampling thread must wait for a CPU meanwhile, or the
two are not of the same time: on a machine that is busy, run it under ``chrt --fifo 10``.
"""

from __future__ import annotations

import asyncio
import math
import os
import random
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import Annotated, Any

import uvloop
from aiohttp import web
from fastapi import BackgroundTasks, Depends, FastAPI
from fastapi.responses import StreamingResponse

import aiometrics
from aiometrics.instrumentation.instrumentation import Instrumentation
from aiometrics.instrumentation.sampling import Sampling
from aiometrics.pages.snapshot import Snapshot
from support.databases import connected, postgres, redis
from support.tracing import every_loop
from support.web_servers import LOCAL, Client, aiohttp_serves, uvicorn_serves

#: How often the culprit counts to how many: it takes from 0.1 to 10 ms.
COUNTS = (3_000, 10_000, 30_000, 300_000)
FUNCTION = "crunch"


LOOPS: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {
    "asyncio": asyncio.SelectorEventLoop,
    "uvloop": uvloop.new_event_loop,
}
#: Does one request, or what else the service is for.
Work = Callable[[], Awaitable[None]]
#: Finds a program, as the fixture ``binary`` does.
Find = Callable[..., str]


class Culprit:
    """Computes for a random time, and adds up the CPU time that it takes."""

    def __init__(self, counts: tuple[int, ...] = COUNTS) -> None:
        self.seconds = 0.0
        self._counts = counts
        self._draw = random.Random(7)  # noqa: S311 - no secret

    def __call__(self) -> None:
        began = time.thread_time()
        crunch(self._draw.choice(self._counts))
        self.seconds += time.thread_time() - began


def crunch(count: int) -> None:
    """Compute without a system call, at which a thread on a busy machine is made to wait."""
    for _ in range(count):
        pass


async def database() -> AsyncIterator[str]:
    """A dependency that yields, and cleans up."""
    await asyncio.sleep(0)
    yield "connection"
    await asyncio.sleep(0)


def fastapi_app(culprit: Culprit) -> FastAPI:
    """A culprit in a route, in a background task and in a stream of events."""
    app = FastAPI()

    async def crunch_in_task() -> None:
        culprit()

    async def stream() -> AsyncIterator[str]:
        yield "data: 1\n\n"
        culprit()
        yield "data: 2\n\n"

    @app.get("/route")
    async def route(found: Annotated[str, Depends(database)]) -> str:
        await asyncio.sleep(0)
        culprit()
        return found

    @app.get("/background")
    async def background(tasks: BackgroundTasks) -> str:
        tasks.add_task(crunch_in_task)
        return "soon"

    @app.get("/events")
    async def events() -> StreamingResponse:
        return StreamingResponse(stream(), media_type="text/event-stream")

    return app


@asynccontextmanager
async def _asks(port: int, path: str) -> AsyncIterator[Work]:
    async with Client(port) as client:

        async def ask() -> None:
            assert 200 == (await client.get(path)).status

        yield ask


def _of_fastapi(path: str) -> Callable[[Culprit, Find], AbstractAsyncContextManager[Work]]:
    @asynccontextmanager
    async def serve(culprit: Culprit, _: Find) -> AsyncIterator[Work]:
        async with uvicorn_serves(fastapi_app(culprit)) as port, _asks(port, path) as ask:
            yield ask

    return serve


@asynccontextmanager
async def _of_aiohttp(culprit: Culprit, _: Find) -> AsyncIterator[Work]:
    async def handle(_: web.Request) -> web.Response:
        await asyncio.sleep(0)
        culprit()
        return web.Response(text="done")

    app = web.Application()
    app.router.add_get("/", handle)
    async with aiohttp_serves(app) as port, _asks(port, "/") as ask:
        yield ask


@asynccontextmanager
async def _of_a_queue(culprit: Culprit, _: Find) -> AsyncIterator[Work]:
    queue: asyncio.Queue[int] = asyncio.Queue()

    async def work() -> None:
        while True:
            await queue.get()
            culprit()
            queue.task_done()

    async def produce() -> None:
        for _ in range(20):
            sum(range(1000))
            await asyncio.sleep(0)
        queue.put_nowait(1)
        await queue.join()

    worker = asyncio.create_task(work())
    yield produce
    worker.cancel()


@asynccontextmanager
async def _of_a_protocol(culprit: Culprit, _: Find) -> AsyncIterator[Work]:
    class Crunches(asyncio.Protocol):
        """Crunches what it receives, and echoes it."""

        transport: Any

        def connection_made(self, transport: Any) -> None:
            self.transport = transport

        def data_received(self, data: bytes) -> None:
            """Be called outside of any task, and by uvloop outside of any handle."""
            culprit()
            self.transport.write(data)

    server = await asyncio.get_running_loop().create_server(Crunches, LOCAL, 0)
    async with server:
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())

        async def echo() -> None:
            writer.write(b"x")
            await reader.readexactly(1)
            sum(range(20_000))

        yield echo
        writer.close()


@asynccontextmanager
async def _of_asyncpg(culprit: Culprit, find: Find) -> AsyncIterator[Work]:
    import asyncpg  # type: ignore[import-untyped]

    with postgres(find) as folder:
        options = {"host": folder, "user": "tester", "database": "postgres"}
        async with connected(lambda: asyncpg.connect(**options)) as connection:

            async def query() -> None:
                for _ in range(5):
                    await connection.fetch("select generate_series(1, 200)")
                culprit()

            yield query


@asynccontextmanager
async def _of_redis(culprit: Culprit, find: Find) -> AsyncIterator[Work]:
    from redis.asyncio import Redis

    async def connect(path: str) -> Any:
        client = Redis(unix_socket_path=path)
        await client.ping()
        client.close = client.aclose
        return client

    with redis(find) as path:
        async with connected(lambda: connect(path)) as client:

            async def get() -> None:
                for _ in range(5):
                    await client.get("nothing")
                culprit()

            yield get


@asynccontextmanager
async def _of_grpc(culprit: Culprit, _: Find) -> AsyncIterator[Work]:
    import grpc  # type: ignore[import-untyped]

    async def handle(request: bytes, _: Any) -> bytes:
        await asyncio.sleep(0)
        culprit()
        return request

    server = grpc.aio.server()
    methods = {"Crunch": grpc.unary_unary_rpc_method_handler(handle)}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("shop.Shop", methods),))
    port = server.add_insecure_port(f"{LOCAL}:0")
    await server.start()
    async with grpc.aio.insecure_channel(f"{LOCAL}:{port}") as channel:
        method = channel.unary_unary("/shop.Shop/Crunch")

        async def call() -> None:
            assert b"x" == await method(b"x")

        yield call
    await server.stop(None)


SERVICES: dict[str, Callable[[Culprit, Find], AbstractAsyncContextManager[Work]]] = {
    "a route of FastAPI": _of_fastapi("/route"),
    "a background task of FastAPI": _of_fastapi("/background"),
    "server-sent events": _of_fastapi("/events"),
    "a handler of aiohttp": _of_aiohttp,
    "a queue worker": _of_a_queue,
    "a protocol": _of_a_protocol,
    "asyncpg": _of_asyncpg,
    "redis": _of_redis,
    "grpc.aio": _of_grpc,
}


@contextmanager
def sampled(instrumentation: Instrumentation, interval_ns: int) -> Iterator[None]:
    """Sample all loops while the block lasts."""
    sampling = Sampling(instrumentation.sampler, interval_ns, instrumentation.internal_errors)
    sampling.start()
    try:
        yield
    finally:
        sampling.stop()


@dataclass(frozen=True)
class Shares:
    """Shares of the culprit: of the loop's active time by samples, and of its CPU time."""

    sampled: float
    cpu: float
    samples: int
    #: How much of its active time the thread did not run.
    off_cpu: float

    def __str__(self) -> str:
        error = self.sampled - self.cpu
        # Samples stand for times that are distributed exponentially, which doubles the variance.
        chance = math.sqrt(2 * self.cpu * (1 - self.cpu) / self.samples)
        return (
            f"cpu {self.cpu:6.1%}  sampled {self.sampled:6.1%}  error {100 * error:+5.1f} "
            f"(chance {100 * chance:.1f})  samples {self.samples:5}  off cpu {self.off_cpu:.0%}"
        )


class Idle:
    """Adds up the CPU time of this thread while its loop is not active."""

    def __init__(self, loop: Any) -> None:
        self.seconds = 0.0
        if hasattr(loop, "_selector"):  # not on uvloop, where what it takes counts as active
            self._select, loop._selector.select = loop._selector.select, self

    def __call__(self, timeout: float | None) -> Any:
        """Wait for events."""
        began = time.thread_time()
        try:
            return self._select(timeout)
        finally:
            self.seconds += time.thread_time() - began

    def active_seconds(self) -> float:
        """The other CPU time of the thread so far."""
        return time.thread_time() - self.seconds


def measure(service: str, loop: str, seconds: float, interval_ns: int = 1_000_000) -> Shares:
    """Let a service work for some seconds."""
    culprit = Culprit()
    found: list[Shares] = []

    async def main() -> None:
        idle = Idle(asyncio.get_running_loop())
        async with SERVICES[service](culprit, _find) as work:
            for _ in range(50):
                await work()
            before, culprit.seconds, began = made.snapshot(), 0.0, idle.active_seconds()
            end = time.monotonic() + seconds
            with sampled(made, interval_ns):
                _put_first("aiometrics-sampler")
                while time.monotonic() < end:
                    await work()
            used = idle.active_seconds() - began
            found.append(_shares(culprit.seconds, used, before, made.snapshot()))

    recording = every_loop(aiometrics.IMPLEMENTATION)
    with recording as made, asyncio.Runner(loop_factory=LOOPS[loop]) as runner:
        runner.run(main())
    return found[0]


def _shares(culprit: float, used: float, before: Snapshot, after: Snapshot) -> Shares:
    active = (after.loops[0].active_ns - before.loops[0].active_ns) / 1e9
    mine = sum(held.active_ns for held in after.held if FUNCTION in held.held_at)
    return Shares(
        mine / sum(held.active_ns for held in after.held),
        culprit / used,
        sum(held.samples for held in after.held),
        1 - used / active,
    )


def _put_first(name: str) -> None:
    """Let a thread interrupt those of its process, if that has a priority of real time."""
    if os.sched_getscheduler(0) != os.SCHED_FIFO:
        return
    for thread in threading.enumerate():
        if thread.name == name and thread.native_id is not None:
            os.sched_setscheduler(thread.native_id, os.SCHED_FIFO, os.sched_param(20))


def _find(name: str, directories: str | None = None) -> str:
    found = shutil.which(name, path=directories)
    if found is None:
        raise FileNotFoundError(name)
    return found


def _print_all(seconds: str) -> None:
    for service in SERVICES:
        for loop in LOOPS:
            sys.stdout.write(f"{service:30} {loop:8}")
            sys.stdout.flush()
            command = [sys.executable, "-m", "support.culprits", seconds, service, loop]
            subprocess.run(command, check=False)


if __name__ == "__main__":
    chosen = sys.argv[1:] or ["10"]
    if len(chosen) == 1:
        _print_all(chosen[0])
    else:
        sys.stdout.write(f"{measure(chosen[1], chosen[2], float(chosen[0]))}\n")
