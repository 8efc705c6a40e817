"""The middleware for aiohttp's server: what the metrics say of each request, to the nanosecond."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
from aiohttp import web
from frameworks import Answer, Client, aiohttp_serves
from prometheus_client import CollectorRegistry, Gauge

import aiometrics
from aiometrics import current_request
from aiometrics.integrations.aiohttp import exporter_context, metrics_handler, request_middleware
from aiometrics.request import FinishedRequest
from aiometrics.snapshot import Snapshot
from aiometrics.testing import TracedLoop, traced_loop
from aiometrics.tracing import active

MS = 1_000_000


class Service:
    """An application on a loop in virtual time, whose handlers take as much of it as they are asked to."""

    def __init__(self, traced: TracedLoop) -> None:
        self.traced = traced
        self.finished: list[FinishedRequest] = []
        self.over = asyncio.Event()
        self.background: list[asyncio.Task[None]] = []
        self.reached = asyncio.Event()
        self.go_on = asyncio.Event()
        traced.instrumentation.request_observers.every.append(self.see)

    def see(self, finished: FinishedRequest) -> None:
        """A request is over."""
        self.finished.append(finished)
        self.over.set()

    async def work(self, ms: float) -> None:
        """Take the loop for so long."""
        self.traced.clock.advance(ms / 1000)

    async def order(self, request: web.Request) -> web.Response:
        """Takes 20 ms, and a child of it 30 ms."""
        await self.work(20)
        await asyncio.create_task(self.work(30))
        return web.Response(text=request.match_info["id"])

    async def outlived(self, _: web.Request) -> web.Response:
        """Takes 1 ms; a task that it leaves behind goes on for 40 ms."""
        await self.work(1)
        self.background.append(asyncio.create_task(self.late()))
        return web.Response(text="soon")

    async def late(self) -> None:
        """Goes on once the request is over."""
        await self.over.wait()
        await self.work(40)

    async def group(self, _: web.Request) -> web.Response:
        """A group of which one task takes 5 ms and fails, another waits and is cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self.fail())
            group.create_task(asyncio.sleep(3600))
        raise AssertionError

    async def fail(self) -> None:
        """Takes 5 ms and fails."""
        await self.work(5)
        raise ZeroDivisionError

    async def hang(self, _: web.Request) -> web.Response:
        """Waits until somebody lets it go on."""
        self.reached.set()
        await self.go_on.wait()
        return web.Response(text="at last")

    async def redirect(self, _: web.Request) -> web.Response:
        """Raises what is no error."""
        raise web.HTTPSeeOther("/")

    async def forgetful(self, _: web.Request) -> web.Response:
        """Returns nothing."""
        return None  # type: ignore[return-value]  # that is the point

    async def unavailable(self, _: web.Request) -> web.Response:
        """Raises what is one."""
        raise web.HTTPServiceUnavailable

    async def socket(self, request: web.Request) -> web.WebSocketResponse:
        """A websocket that is closed at once."""
        assert current_request() is None
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        await socket.close()
        return socket

    def application(self) -> web.Application:
        """The application with the middleware."""
        app = web.Application(middlewares=[request_middleware()])
        app.router.add_route("*", "/orders/{id:[0-9]+}", self.order)
        for handler in (self.outlived, self.group, self.hang, self.redirect, self.unavailable, self.forgetful, self.socket):
            app.router.add_get(f"/{handler.__name__}", handler)
        inner = web.Application(middlewares=[request_middleware()])  # the one around it has counted already
        inner.router.add_get("/items/{id}", self.order)
        app.add_subapp("/shop", inner)
        return app


Scenario = Callable[[Service, Client], Coroutine[Any, Any, Any]]


def serve(implementation: str, scenario: Scenario, **config: Any) -> tuple[Service, Snapshot]:
    """What was measured while one client did its part with the application on aiohttp's server."""

    async def main(service: Service) -> None:
        async with aiohttp_serves(service.application(), **config) as port, Client(port) as client:
            await scenario(service, client)

    with traced_loop(implementation=implementation) as traced:
        service = Service(traced)
        traced.run(main(service))
        return service, traced.snapshot()


def told(snapshot: Snapshot) -> dict[str, tuple[dict[str, int], int, int]]:
    """Of each type: how many of each status, active and background ms."""
    return {
        entry.request: (
            {status: wall.count for status, wall in entry.wall.items() if wall.count},
            entry.active.sum_ns // MS,
            entry.background_ns // MS,
        )
        for entry in snapshot.requests
    }


def test_requests_on_one_connection_are_told_apart(implementation: str) -> None:
    """One task serves them all in turn: each has its own time, that of child tasks included."""

    async def scenario(_: Service, client: Client) -> None:
        assert [Answer(200, "1"), Answer(200, "2")] == [await client.get(f"/orders/{number}") for number in (1, 2)]
        assert Answer(200, "x") == await client.get("/shop/items/x")
        assert [404, 405] == [(await client.get(path, "PUT")).status for path in ("/nothing/7", "/outlived")]

    service, snapshot = serve(implementation, scenario)
    assert {
        "GET /orders/{id}": ({"completed": 2}, 100, 0),
        "GET /shop/items/{id}": ({"completed": 1}, 50, 0),
        "(unmatched)": ({"completed": 2}, 0, 0),
    } == told(snapshot)
    assert not any(snapshot.scope_errors.values())
    assert {"http.request.method": "GET", "url.path": "/orders/1", "http.response.status_code": 200} == service.finished[0].attributes
    assert 404 == service.finished[3].attributes["http.response.status_code"]


def test_a_method_that_nobody_knows_is_no_label(implementation: str) -> None:
    """Routes of any method take whatever a client sends."""

    async def scenario(_: Service, client: Client) -> None:
        assert 200 == (await client.get("/orders/1", "PROPFIND")).status

    _, snapshot = serve(implementation, scenario)
    assert ["_OTHER /orders/{id}"] == [entry.request for entry in snapshot.requests]


def test_a_task_that_outlives_its_request_is_background(implementation: str) -> None:
    """What it takes after the response counts for the type, and not as active time of a request."""

    async def scenario(service: Service, client: Client) -> None:
        assert 200 == (await client.get("/outlived")).status
        await asyncio.gather(*service.background)

    _, snapshot = serve(implementation, scenario)
    assert {"GET /outlived": ({"completed": 1}, 1, 40)} == told(snapshot)


def test_a_task_group_that_fails_is_a_failed_request(implementation: str) -> None:
    """The exception of one task cancels the others and ends the request; what they took is its own."""

    async def scenario(_: Service, client: Client) -> None:
        assert 500 == (await client.get("/group")).status

    _, snapshot = serve(implementation, scenario)
    assert {"GET /group": ({"failed": 1}, 5, 0)} == told(snapshot)
    assert 1 == snapshot.coroutine("asyncio.tasks.sleep").wall["cancelled"].count


@pytest.mark.parametrize("handler_cancellation", [True, False])
def test_a_client_that_goes_away_cancels_its_request(implementation: str, *, handler_cancellation: bool) -> None:
    """Whether the server cancels the handler or lets it finish for nobody."""

    async def scenario(service: Service, client: Client) -> None:
        await client.ask("/hang")
        await service.reached.wait()
        await client.__aexit__(None, None, None)
        for _ in range(5):
            await asyncio.sleep(0.01)
        service.go_on.set()
        await service.over.wait()

    _, snapshot = serve(implementation, scenario, handler_cancellation=handler_cancellation)
    assert {"GET /hang": ({"cancelled": 1}, 0, 0)} == told(snapshot)


def test_responses_that_are_raised_count_by_their_status(implementation: str) -> None:
    """A redirect is no failure, 503 is one."""

    async def scenario(_: Service, client: Client) -> None:
        assert [303, 503] == [(await client.get(path)).status for path in ("/redirect", "/unavailable")]

    _, snapshot = serve(implementation, scenario)
    assert {"GET /redirect": ({"completed": 1}, 0, 0), "GET /unavailable": ({"failed": 1}, 0, 0)} == told(snapshot)


def test_a_handler_that_returns_nothing_has_failed(implementation: str, caplog: pytest.LogCaptureFixture) -> None:
    """The error is the one that the server makes of it without us."""

    async def scenario(_: Service, client: Client) -> None:
        assert 500 == (await client.get("/forgetful")).status

    _, snapshot = serve(implementation, scenario)
    assert {"GET /forgetful": ({"failed": 1}, 0, 0)} == told(snapshot)
    assert ["Missing return statement on request handler"] == [record.message for record in caplog.records if record.exc_info]


def test_the_id_is_that_of_the_header(implementation: str) -> None:
    """Without it there is none."""

    async def scenario(_: Service, client: Client) -> None:
        await client.get("/orders/1", X_Request_ID="REQ-001")
        await client.get("/orders/1")

    service, _ = serve(implementation, scenario)
    assert ["REQ-001", None] == [finished.id for finished in service.finished]


def test_websockets_pass(implementation: str) -> None:
    """A connection that lasts for hours is no request."""

    async def scenario(_: Service, client: Client) -> None:
        key = "dGhlIHNhbXBsZSBub25jZQ=="
        await client.ask("/socket", Upgrade="WebSocket", Connection="Upgrade", Sec_WebSocket_Key=key, Sec_WebSocket_Version="13")
        assert 101 == (await client.head())[0]

    service, snapshot = serve(implementation, scenario)
    assert ([], {}) == (service.finished, told(snapshot))


def test_metrics_may_be_routed_to_and_the_exporter_run_in_the_cleanup_context() -> None:
    """What the context starts is what the page shows, with the registry of the application; then it is stopped."""
    registry = CollectorRegistry()
    Gauge("stock", "Books.", registry=registry).set(3)

    async def hello(_: web.Request) -> web.Response:
        return web.Response(text="hello")

    async def main() -> None:
        app = web.Application(middlewares=[request_middleware()])
        app.cleanup_ctx.append(exporter_context(port=0, addr="127.0.0.1", registry=None))
        app.router.add_get("/metrics", metrics_handler(registry))
        app.router.add_get("/", hello)
        async with aiohttp_serves(app) as port, Client(port) as client:
            tracing = active.tracing
            assert tracing is not None
            assert "aiohttp" not in tracing.options.application
            assert __name__.partition(".")[0] in tracing.options.application
            assert Answer(200, "hello") == await client.get("/")
            status, text = await client.get("/metrics")
            assert (200, True) == (status, text.endswith("stock 3.0\n"))
            assert 'asyncio_request_wall_seconds_count{request="GET /",status="completed"} 1\n' in text
            await client.ask("/metrics", "HEAD", Accept="application/openmetrics-text;version=1.0.0")
            status, headers = await client.head()
            assert (200, "application/openmetrics-text") == (status, headers["content-type"].partition(";")[0])

    asyncio.run(main())
    with pytest.raises(RuntimeError, match="nothing is instrumented"):
        aiometrics.snapshot()
