"""What requests do, the same in every framework: services on a loop in virtual time, whose handlers take as much of it as is known."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Mapping
from contextlib import AbstractAsyncContextManager
from typing import Any, TypeVar

from aiohttp import web
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from aiometrics.integrations.aiohttp import request_middleware
from aiometrics.integrations.asgi import RequestMiddleware
from aiometrics.pages.snapshot import Snapshot
from aiometrics.requests.finished import FinishedRequest
from aiometrics.testing import TracedLoop, traced_loop
from support.web_servers import Client, aiohttp_serves, uvicorn_serves

MS = 1_000_000


class Service:
    """Handlers, each of which is a route under its own name, ``order`` under ``/orders/{id}``; and what was seen of their requests."""

    def __init__(self, traced: TracedLoop) -> None:
        self.traced = traced
        self.finished: list[FinishedRequest] = []
        self.over = asyncio.Event()
        self.background: list[asyncio.Task[None]] = []
        traced.instrumentation.request_observers.every.append(self.see)

    def serve(self, **config: Any) -> AbstractAsyncContextManager[int]:
        """Serves them, with the middleware, at a port of its own."""
        raise NotImplementedError

    def order_of(self, request: Any) -> str:
        """Which order a request is for."""
        raise NotImplementedError

    def text(self, body: str) -> Any:
        """A response."""
        raise NotImplementedError

    def see(self, finished: FinishedRequest) -> None:
        """A request is over."""
        self.finished.append(finished)
        self.over.set()

    async def work(self, ms: float) -> None:
        """Take the loop for so long."""
        self.traced.clock.advance(ms / 1000)

    async def order(self, request: Any) -> Any:
        """Takes 20 ms, and a child of it 30 ms."""
        await self.work(20)
        await asyncio.create_task(self.work(30))
        return self.text(self.order_of(request))

    async def outlived(self, _: Any) -> Any:
        """Takes 1 ms; a task that it leaves behind goes on for 40 ms."""
        await self.work(1)
        self.background.append(asyncio.create_task(self._late()))
        return self.text("soon")

    async def group(self, _: Any) -> Any:
        """A group of which one task takes 5 ms and fails, another waits and is cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._fail())
            group.create_task(asyncio.sleep(3600))
        raise AssertionError

    async def _late(self) -> None:
        await self.over.wait()
        await self.work(40)

    async def _fail(self) -> None:
        await self.work(5)
        raise ZeroDivisionError


class StarletteService(Service):
    """On Starlette and uvicorn."""

    @property
    def routes(self) -> list[Route]:
        """Each handler's."""
        return [
            Route("/orders/{id:int}", self.order),
            Route("/outlived", self.outlived),
            Route("/group", self.group),
        ]

    def application(self) -> Starlette:
        """The application with the middleware."""
        app = Starlette(routes=self.routes)
        app.add_middleware(RequestMiddleware)
        return app

    def serve(self, **config: Any) -> AbstractAsyncContextManager[int]:
        """Serves them on uvicorn."""
        return uvicorn_serves(self.application(), **config)

    def order_of(self, request: Request) -> str:
        """Which order a request is for."""
        return str(request.path_params["id"])

    def text(self, body: str) -> PlainTextResponse:
        """A response."""
        return PlainTextResponse(body)


class AiohttpService(Service):
    """On aiohttp and its server."""

    def application(self) -> web.Application:
        """The application with the middleware."""
        app = web.Application(middlewares=[request_middleware()])
        app.router.add_route("*", "/orders/{id:[0-9]+}", self.order)
        app.router.add_get("/outlived", self.outlived)
        app.router.add_get("/group", self.group)
        return app

    def serve(self, **config: Any) -> AbstractAsyncContextManager[int]:
        """Serves them on aiohttp's own server."""
        return aiohttp_serves(self.application(), **config)

    def order_of(self, request: web.Request) -> str:
        """Which order a request is for."""
        return request.match_info["id"]

    def text(self, body: str) -> web.Response:
        """A response."""
        return web.Response(text=body)


S = TypeVar("S", bound=Service)
Scenario = Callable[[S, Client], Coroutine[Any, Any, Any]]


def run_scenario(
    service_class: type[S],
    implementation: str,
    scenario: Scenario[S],
    *,
    config: Mapping[str, Any] | None = None,
    **options: Any,
) -> tuple[S, Snapshot]:
    """What was measured while one client did its part; ``config`` is the server's, ``options`` are those of tracing."""

    async def main(service: S) -> None:
        async with service.serve(**(config or {})) as port, Client(port) as client:
            await scenario(service, client)

    with traced_loop(implementation=implementation, **options) as traced:
        service = service_class(traced)
        traced.run(main(service))
        return service, traced.snapshot()


def request_totals(snapshot: Snapshot) -> dict[str, tuple[dict[str, int], int, int]]:
    """Of each type: how many of each status, active and background ms."""
    return {
        entry.request: (
            {status: wall.count for status, wall in entry.wall.items() if wall.count},
            entry.active.sum_ns // MS,
            entry.background_ns // MS,
        )
        for entry in snapshot.requests
    }
