"""The same service in every framework.

It runs on a loop in virtual time, and its handlers take a known time of it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterator, Mapping
from contextlib import AbstractAsyncContextManager, contextmanager
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
from aiometrics.testing import TracedLoop, VirtualLoop, traced_loop
from support.web_servers import Client, aiohttp_serves, uvicorn_serves

MS = 1_000_000


class Service:
    """Handlers, and their finished requests.

    Each handler is a route of its own name, ``order`` is ``/orders/{id}``.
    """

    def __init__(self, traced: TracedLoop) -> None:
        self.traced = traced
        self.finished: list[FinishedRequest] = []
        self.over = asyncio.Event()
        self.background: list[asyncio.Task[None]] = []
        traced.instrumentation.request_observers.every.append(self.see)

    def serve(self, **config: Any) -> AbstractAsyncContextManager[int]:
        """Serve the handlers, with the middleware, at a port of its own."""
        raise NotImplementedError

    def order_of(self, request: Any) -> str:
        """The id of the order that a request asks for."""
        raise NotImplementedError

    def text(self, body: str) -> Any:
        """A response."""
        raise NotImplementedError

    def see(self, finished: FinishedRequest) -> None:
        """Keep a finished request."""
        self.finished.append(finished)
        self.over.set()

    async def work(self, ms: float) -> None:
        """Occupy the loop for that many ms."""
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
        """Runs a task group: one task takes 5 ms and fails, another is cancelled."""
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
    """The service on Starlette and uvicorn."""

    @property
    def routes(self) -> list[Route]:
        """The routes of the handlers."""
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
        """Serve the handlers with uvicorn."""
        return uvicorn_serves(self.application(), **config)

    def order_of(self, request: Request) -> str:
        """The id of the order that a request asks for."""
        return str(request.path_params["id"])

    def text(self, body: str) -> PlainTextResponse:
        """A response."""
        return PlainTextResponse(body)


class AiohttpService(Service):
    """The service on aiohttp and its server."""

    def application(self) -> web.Application:
        """The application with the middleware."""
        app = web.Application(middlewares=[request_middleware()])
        app.router.add_route("*", "/orders/{id:[0-9]+}", self.order)
        app.router.add_get("/outlived", self.outlived)
        app.router.add_get("/group", self.group)
        return app

    def serve(self, **config: Any) -> AbstractAsyncContextManager[int]:
        """Serve the handlers with aiohttp's server."""
        return aiohttp_serves(self.application(), **config)

    def order_of(self, request: web.Request) -> str:
        """The id of the order that a request asks for."""
        return request.match_info["id"]

    def text(self, body: str) -> web.Response:
        """A response."""
        return web.Response(text=body)


@contextmanager
def no_time_passing(loop: VirtualLoop) -> Iterator[None]:
    """Let virtual time stand still, as it does while a thread works.

    The kernel takes real time to deliver what was sent, in which no server may time out.
    """
    loop._virtual.threaded += 1
    try:
        yield
    finally:
        loop._virtual.threaded -= 1


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
    """Run a scenario with one client, and return the service and what was measured.

    ``config`` is passed to the server, ``options`` to tracing.
    """

    async def main(service: S) -> None:
        async with service.serve(**(config or {})) as port, Client(port) as client:
            with no_time_passing(traced.loop):
                await scenario(service, client)

    with traced_loop(implementation=implementation, **options) as traced:
        service = service_class(traced)
        traced.run(main(service))
        return service, traced.snapshot()


def request_totals(snapshot: Snapshot) -> dict[str, tuple[dict[str, int], int, int]]:
    """By type: how many requests ended with each status, and their active and background ms."""
    return {
        entry.request: (
            {status: wall.count for status, wall in entry.wall.items() if wall.count},
            entry.active.sum_ns // MS,
            entry.background_ns // MS,
        )
        for entry in snapshot.requests
    }
