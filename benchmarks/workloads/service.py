"""A small web service to put under load.

``python -m workloads.service SERVER LOOP CONTENDER`` prints its port and serves until it is
terminated.

``/`` says hello; ``/ten`` awaits ten times before it does.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Coroutine
from importlib import import_module
from typing import Any

from contenders.contender import Unavailable
from contenders.registry import CONTENDERS

SERVERS = ("aiohttp", "uvicorn")
HELLO = "Hello, world!"
TEN = range(10)


async def serve_on_aiohttp(application: Any, announce: Callable[[int], None]) -> None:
    """Serve an ``aiohttp.web.Application`` until cancelled; ``announce`` is given the port."""
    web = import_module("aiohttp.web")
    runner = web.AppRunner(application, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    announce(runner.addresses[0][1])
    await asyncio.Event().wait()


async def serve_on_uvicorn(application: Any, announce: Callable[[int], None]) -> None:
    """Serve an ASGI application on uvicorn until cancelled; ``announce`` is given the port."""
    uvicorn = import_module("uvicorn")
    server = uvicorn.Server(
        uvicorn.Config(
            application,
            host="127.0.0.1",
            port=0,
            access_log=False,
            log_level="warning",
            lifespan="off",
        )
    )
    serving = asyncio.create_task(server.serve())
    while not server.started:  # noqa: ASYNC110 - uvicorn has no event to wait for
        await asyncio.sleep(0.01)
    announce(server.servers[0].sockets[0].getsockname()[1])
    await serving


async def aiohttp_service(announce: Callable[[int], None]) -> None:
    """Serve an aiohttp.web application."""
    web = import_module("aiohttp.web")

    async def hello(_: Any) -> Any:
        return web.Response(text=HELLO)

    async def ten(_: Any) -> Any:
        for _ in TEN:
            await asyncio.sleep(0)
        return web.Response(text=HELLO)

    application = web.Application()
    application.add_routes([web.get("/", hello), web.get("/ten", ten)])
    await serve_on_aiohttp(application, announce)


async def uvicorn_service(announce: Callable[[int], None]) -> None:
    """Serve a Starlette application on uvicorn."""
    responses, routing = import_module("starlette.responses"), import_module("starlette.routing")

    async def hello(_: Any) -> Any:
        return responses.PlainTextResponse(HELLO)

    async def ten(_: Any) -> Any:
        for _ in TEN:
            await asyncio.sleep(0)
        return responses.PlainTextResponse(HELLO)

    application = import_module("starlette.applications").Starlette(
        routes=[routing.Route("/", hello), routing.Route("/ten", ten)]
    )
    await serve_on_uvicorn(application, announce)


SERVICES: dict[str, Callable[[Callable[[int], None]], Coroutine[Any, Any, None]]] = {
    "aiohttp": aiohttp_service,
    "uvicorn": uvicorn_service,
}


def main(server: str, loop: str, name: str) -> None:
    """Serve with the contender set up; print why it cannot run here in place of the port."""
    contender = CONTENDERS[name]()

    async def serve() -> None:
        async with contender.inside():
            await SERVICES[server](lambda port: print(port, flush=True))

    try:
        contender.prepare()
        with asyncio.Runner(loop_factory=contender.loop_factory(loop)) as runner:
            runner.run(serve())
    except (Unavailable, ImportError) as error:
        print(error, flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
