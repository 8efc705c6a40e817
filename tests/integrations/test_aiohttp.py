"""The middleware for aiohttp's server: the metrics of each request, exact to the nanosecond."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest
from aiohttp import ClientSession, ClientWebSocketResponse, web
from prometheus_client import CollectorRegistry, Gauge
from support.services import AiohttpService, request_totals, run_scenario
from support.tracing import every_loop
from support.web_servers import Answer, Client, aiohttp_serves

import aiometrics
from aiometrics import current_request
from aiometrics.exporter.session import process
from aiometrics.exposition.idle_waits import of_no_library
from aiometrics.exposition.stuck import Judge
from aiometrics.instrumentation.instrumentation import Instrumentation
from aiometrics.integrations.aiohttp import exporter_context, metrics_handler, request_middleware
from aiometrics.testing import TracedLoop


class Service(AiohttpService):
    """Handlers that only aiohttp has."""

    def __init__(self, traced: TracedLoop) -> None:
        super().__init__(traced)
        self.reached = asyncio.Event()
        self.go_on = asyncio.Event()

    async def hang(self, request: web.Request) -> web.Response:
        """Wait until the test lets it go on."""
        self.connection = request.protocol
        self.reached.set()
        await self.go_on.wait()
        return web.Response(text="at last")

    async def stream(self, request: web.Request) -> web.StreamResponse:
        """Send one part, and another when the test lets it go on."""
        response = web.StreamResponse()
        await response.prepare(request)
        await response.write(b"first")
        self.connection = request.protocol
        self.reached.set()
        await self.go_on.wait()
        await response.write(b"last")
        return response

    async def redirect(self, _: web.Request) -> web.Response:
        """Raise a response that is not an error."""
        raise web.HTTPSeeOther("/")

    async def forgetful(self, _: web.Request) -> web.Response:
        """Return nothing."""
        return None  # type: ignore[return-value]  # that is the point

    async def unavailable(self, _: web.Request) -> web.Response:
        """Raise a response that is an error."""
        raise web.HTTPServiceUnavailable

    async def socket(self, request: web.Request) -> web.WebSocketResponse:
        """Open a websocket and close it at once."""
        assert current_request() is None
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        await socket.close()
        return socket

    def application(self) -> web.Application:
        """Return the application with the middleware."""
        app = super().application()
        for handler in (
            self.hang,
            self.stream,
            self.redirect,
            self.unavailable,
            self.forgetful,
            self.socket,
        ):
            app.router.add_get(f"/{handler.__name__}", handler)
        inner = web.Application(
            middlewares=[request_middleware()]
        )  # the outer one has counted already
        inner.router.add_get("/items/{id}", self.order)
        app.add_subapp("/shop", inner)
        return app


def test_sub_applications_have_their_prefix(implementation: str) -> None:
    """A path whose routes have other methods has no route."""

    async def scenario(_: Service, client: Client) -> None:
        assert Answer(200, "x") == await client.get("/shop/items/x")
        assert [404, 405] == [
            (await client.get(path, "PUT")).status for path in ("/nothing/7", "/outlived")
        ]

    _, snapshot = run_scenario(Service, implementation, scenario)
    assert {
        "GET /shop/items/{id}": ({"completed": 1}, 50, 0),
        "(unmatched)": ({"completed": 2}, 0, 0),
    } == request_totals(snapshot)
    assert not any(snapshot.scope_errors.values())


def test_an_unknown_method_does_not_become_a_label(implementation: str) -> None:
    """Routes of any method accept whatever a client sends."""

    async def scenario(_: Service, client: Client) -> None:
        assert 200 == (await client.get("/orders/1", "PROPFIND")).status

    _, snapshot = run_scenario(Service, implementation, scenario)
    assert ["_OTHER /orders/{id}"] == [entry.request for entry in snapshot.requests]


@pytest.mark.parametrize("handler", ["hang", "stream"])
@pytest.mark.parametrize("handler_cancellation", [True, False])
def test_a_client_that_disconnects_cancels_its_request(
    implementation: str, handler: str, *, handler_cancellation: bool
) -> None:
    """The server may cancel the handler, let it finish, or raise when it writes."""

    async def scenario(service: Service, client: Client) -> None:
        await client.ask(f"/{handler}")
        await service.reached.wait()
        await client.__aexit__(None, None, None)
        while service.connection.transport is not None:  # noqa: ASYNC110 - it has no event for that
            await asyncio.sleep(0)
        service.go_on.set()
        await service.over.wait()

    _, snapshot = run_scenario(
        Service, implementation, scenario, config={"handler_cancellation": handler_cancellation}
    )
    assert {f"GET /{handler}": ({"cancelled": 1}, 0, 0)} == request_totals(snapshot)


def test_raised_responses_count_by_their_status(implementation: str) -> None:
    """A redirect is not a failure, 503 is one."""

    async def scenario(_: Service, client: Client) -> None:
        assert [303, 503] == [
            (await client.get(path)).status for path in ("/redirect", "/unavailable")
        ]

    _, snapshot = run_scenario(Service, implementation, scenario)
    assert {
        "GET /redirect": ({"completed": 1}, 0, 0),
        "GET /unavailable": ({"failed": 1}, 0, 0),
    } == request_totals(snapshot)


def test_a_handler_that_returns_nothing_has_failed(
    implementation: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The server's error is the same as without the middleware."""

    async def scenario(_: Service, client: Client) -> None:
        assert 500 == (await client.get("/forgetful")).status

    _, snapshot = run_scenario(Service, implementation, scenario)
    assert {"GET /forgetful": ({"failed": 1}, 0, 0)} == request_totals(snapshot)
    assert ["Missing return statement on request handler"] == [
        record.message for record in caplog.records if record.exc_info
    ]


def test_websockets_are_not_requests(implementation: str) -> None:
    """A connection that lasts for hours is not a request."""

    async def scenario(_: Service, client: Client) -> None:
        key = "dGhlIHNhbXBsZSBub25jZQ=="
        await client.ask(
            "/socket",
            Upgrade="WebSocket",
            Connection="Upgrade",
            Sec_WebSocket_Key=key,
            Sec_WebSocket_Version="13",
        )
        assert 101 == (await client.head())[0]

    service, snapshot = run_scenario(Service, implementation, scenario)
    assert ([], {}) == (service.finished, request_totals(snapshot))


def test_metrics_handler_and_exporter_context() -> None:
    """The handler shows what the context's exporter traces, with the application's registry.

    The exporter is stopped at the end.
    """
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
            session = process.session
            assert session is not None
            assert "aiohttp" not in session.recording.application
            assert __name__.partition(".")[0] in session.recording.application
            assert Answer(200, "hello") == await client.get("/")
            status, text = await client.get("/metrics")
            assert (200, True) == (status, text.endswith("stock 3.0\n"))
            assert (
                'asyncio_request_wall_seconds_count{request="GET /",status="completed"} 1\n' in text
            )
            await client.ask(
                "/metrics", "HEAD", Accept="application/openmetrics-text;version=1.0.0"
            )
            status, headers = await client.head()
            assert (200, "application/openmetrics-text") == (
                status,
                headers["content-type"].partition(";")[0],
            )

    asyncio.run(main())
    with pytest.raises(RuntimeError, match="nothing is instrumented"):
        aiometrics.snapshot()


async def page(_: web.Request) -> web.Response:
    """One of the requests whose coroutine is that of the websocket."""
    await asyncio.sleep(0)
    return web.Response()


async def chat(request: web.Request) -> web.WebSocketResponse:
    """Answer each message of a client."""
    socket = web.WebSocketResponse()
    await socket.prepare(request)
    async for message in socket:
        await socket.send_str(message.data)
    return socket


async def talked(session: ClientSession, messages: int) -> ClientWebSocketResponse:
    """Return a websocket on which so many messages were answered."""
    socket = await session.ws_connect("/chat")
    for _ in range(messages):
        await socket.send_str("hello")
        await socket.receive()
    return socket


@pytest.mark.parametrize(("clients", "stuck"), [(1, False), (101, True)])
def test_a_websocket_is_compared_with_websockets(
    implementation: str,
    clients: int,
    stuck: bool,  # noqa: FBT001 - parameters
) -> None:
    """One that sent 150 messages and went quiet is odd only if others have come and gone."""

    async def main(instrumentation: Instrumentation) -> list[bool]:
        app = web.Application()
        app.router.add_get("/", page)
        app.router.add_get("/chat", chat)
        runner = web.AppRunner(app)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        async with ClientSession(f"http://127.0.0.1:{runner.addresses[0][1]}") as session:
            for _ in range(120):
                await (await session.get("/")).read()
            for _ in range(clients - 1):
                await (await talked(session, 150 // clients + 1)).close()
            quiet = await talked(session, 150 // clients + 1)
            seen = instrumentation.snapshot()
            await quiet.close()
        await runner.cleanup()
        judge = Judge(replace(seen, taken_ns=seen.taken_ns + 3600 * 10**9), of_no_library)
        waits = [point for point in seen.yield_points if point.yield_point.endswith(" chat")]
        return [judge.is_stuck(point) for point in waits if point.suspended]

    with every_loop(implementation) as instrumentation:
        assert [stuck] == asyncio.run(main(instrumentation))
