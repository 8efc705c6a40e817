"""Real servers and a client on one loop.

The loop may run in virtual time: nothing here sets a timer or needs a thread.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from types import TracebackType
from typing import Any, NamedTuple, Self

import uvicorn
from aiohttp import web

LOCAL = "127.0.0.1"


class Answer(NamedTuple):
    """An HTTP response."""

    status: int
    body: str


class Client:
    """One connection, kept alive: ``async with Client(port) as client``."""

    def __init__(self, port: int) -> None:
        self._port = port

    async def __aenter__(self) -> Self:
        self._reader, self._writer = await asyncio.open_connection(LOCAL, self._port)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._writer.close()
        await self._writer.wait_closed()

    async def ask(self, path: str, method: str = "GET", **headers: str) -> None:
        """Send a request without waiting; ``_`` in names of headers stands for ``-``."""
        lines = [
            f"{method} {path} HTTP/1.1",
            "Host: test",
            *(f"{name.replace('_', '-')}: {value}" for name, value in headers.items()),
        ]
        self._writer.write("\r\n".join([*lines, "", ""]).encode())
        await self._writer.drain()

    async def head(self) -> tuple[int, Mapping[str, str]]:
        """Status and headers of the response."""
        first, *lines = (await self._reader.readuntil(b"\r\n\r\n")).decode().strip().split("\r\n")
        return int(first.split()[1]), {
            name.lower(): value for name, _, value in (line.partition(": ") for line in lines)
        }

    async def get(self, path: str, method: str = "GET", **headers: str) -> Answer:
        """Send a request and read the response."""
        await self.ask(path, method, **headers)
        status, answered = await self.head()
        if "chunked" in answered.get("transfer-encoding", ""):
            return Answer(status, await self._chunks())
        return Answer(
            status,
            (await self._reader.readexactly(int(answered.get("content-length", 0)))).decode(),
        )

    async def chunk(self) -> str:
        """The next chunk of a chunked body."""
        size = int(await self._reader.readline(), 16)
        return (await self._reader.readexactly(size + 2)).decode().removesuffix("\r\n")

    async def _chunks(self) -> str:
        body = ""
        while part := await self.chunk():
            body += part
        return body


@asynccontextmanager
async def uvicorn_serves(app: Any, **config: Any) -> AsyncIterator[int]:
    """Serve an application with uvicorn, and give the port."""
    server = uvicorn.Server(uvicorn.Config(app, host=LOCAL, port=0, log_config=None, **config))
    serving = asyncio.create_task(server.serve())
    while not server.started:  # noqa: ASYNC110 - it has no event for that
        await asyncio.sleep(0)
    try:
        (port,) = (socket.getsockname()[1] for one in server.servers for socket in one.sockets)
        yield port
    finally:
        server.should_exit = True
        await serving


@asynccontextmanager
async def aiohttp_serves(app: web.Application, **config: Any) -> AsyncIterator[int]:
    """Serve an application with aiohttp's server, and give the port."""
    runner = web.AppRunner(app, **config)
    await runner.setup()
    try:
        await web.TCPSite(runner, LOCAL, 0).start()
        yield runner.addresses[0][1]
    finally:
        await runner.cleanup()
