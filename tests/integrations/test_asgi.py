"""The ASGI middleware on real servers and frameworks: the metrics of each request, exactly."""

from __future__ import annotations

import asyncio
import gc
import weakref
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from fastapi import APIRouter, BackgroundTasks, FastAPI, HTTPException
from prometheus_client import CollectorRegistry, Gauge
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.routing import Mount, Route, WebSocketRoute
from starlette.websockets import WebSocket
from support.services import StarletteService, request_totals, run_scenario
from support.web_servers import Answer, Client, uvicorn_serves

import aiometrics
from aiometrics import current_request
from aiometrics.base.internal_errors import InternalErrors
from aiometrics.exporter.session import process
from aiometrics.integrations.asgi import RequestMiddleware, exporter_lifespan, make_asgi_app
from aiometrics.recorder.places import main_package
from aiometrics.requests.request import FinishedRequest
from aiometrics.testing import TracedLoop, traced_loop


class Service(StarletteService):
    """Handlers that only ASGI has."""

    def __init__(self, traced: TracedLoop) -> None:
        super().__init__(traced)
        self.gone = asyncio.Event()

    async def after(self, _: Request) -> Response:
        """Answer, then take 50 ms in a background task."""
        return PlainTextResponse("done", background=BackgroundTask(self.work, 50))

    async def stream(self, _: Request) -> Response:
        """Send one chunk, then nothing more while the client listens."""

        async def chunks() -> AsyncIterator[str]:
            try:
                yield "first"
                await asyncio.Event().wait()
            finally:
                self.gone.set()

        return StreamingResponse(chunks())

    async def unavailable(self, _: Request) -> Response:
        """Answer with 503."""
        return PlainTextResponse("later", status_code=503)

    @property
    def routes(self) -> list[Route]:
        """Return a route for each scene."""
        return [
            *super().routes,
            *(
                Route(f"/{handler.__name__}", handler)
                for handler in (self.after, self.stream, self.unavailable)
            ),
        ]


def test_background_tasks_of_the_framework_are_background(implementation: str) -> None:
    """They run in the task of the request, after the response has ended it."""

    async def scenario(_: Service, client: Client) -> None:
        assert Answer(200, "done") == await client.get("/after")

    service, snapshot = run_scenario(
        Service, implementation, scenario, objectives={"GET /after": 0.04}
    )
    assert {"GET /after": ({"completed": 1}, 0, 50)} == request_totals(snapshot)
    assert 0 == snapshot.request("GET /after").violations
    assert not any(snapshot.scope_errors.values())
    assert 1 == len(service.finished)


def test_a_client_that_disconnects_cancels_its_request(implementation: str) -> None:
    """It disconnects in the middle of a streamed response."""

    async def scenario(service: Service, client: Client) -> None:
        await client.ask("/stream")
        await client.head()
        assert "first" == await client.chunk()
        assert 1 == service.traced.snapshot().request("GET /stream").in_progress
        await client.__aexit__(None, None, None)
        await service.gone.wait()
        await service.over.wait()

    _, snapshot = run_scenario(Service, implementation, scenario)
    assert {"GET /stream": ({"cancelled": 1}, 0, 0)} == request_totals(snapshot)
    assert 0 == snapshot.request("GET /stream").in_progress


def test_a_response_of_500_or_more_is_a_failure(implementation: str) -> None:
    """It may come from an exception or not; status codes below are not failures."""

    async def scenario(_: Service, client: Client) -> None:
        asked = ("/unavailable", "GET"), ("/orders/x", "GET"), ("/orders/1", "PUT")
        assert [503, 404, 405] == [(await client.get(*each)).status for each in asked]

    _, snapshot = run_scenario(Service, implementation, scenario)
    assert {
        "GET /unavailable": ({"failed": 1}, 0, 0),
        "(unmatched)": ({"completed": 1}, 0, 0),
        "PUT /orders/{id}": ({"completed": 1}, 0, 0),
    } == request_totals(snapshot)


class Calls:
    """Applications that are called without a server, on a traced loop in virtual time."""

    def __init__(self, traced: TracedLoop) -> None:
        self.traced = traced
        self.finished: list[FinishedRequest] = []
        traced.instrumentation.request_observers.every.append(self.finished.append)

    def __call__(
        self,
        app: Any,
        path: str = "/",
        *,
        method: str = "GET",
        kind: str = "http",
        send: Any = None,
    ) -> list[Any]:
        """Return what an application sends in response to a request without a body."""
        sent: list[Any] = []

        async def receive() -> dict[str, Any]:
            return {"type": "http.request", "body": b"", "more_body": False}

        async def keep(message: dict[str, Any]) -> None:
            sent.append(message)

        scope = {
            "type": kind,
            "method": method,
            "path": path,
            "query_string": b"",
            "root_path": "",
            "headers": [],
        }
        self.traced.run(app(scope, receive, send or keep))
        return sent

    @property
    def types(self) -> list[tuple[str, str]]:
        """Return type and status of each request."""
        return [(finished.request, finished.status) for finished in self.finished]


@pytest.fixture
def calls(implementation: str) -> Iterator[Calls]:
    """A traced loop to call applications on."""
    with traced_loop(implementation=implementation) as traced:
        yield Calls(traced)


def answering(**start: Any) -> Callable[..., Coroutine[Any, Any, None]]:
    """Return an application that sends a response at once."""

    async def app(scope: Any, receive: Any, send: Any) -> None:  # noqa: ARG001 - as it is called
        await send({"type": "http.response.start", "status": 200, "headers": [], **start})
        await send({"type": "http.response.body", "body": b"found"})

    return app


def test_routes_of_fastapi_are_types_with_the_prefixes_of_their_routers(calls: Calls) -> None:
    """They are as in OpenAPI; raised HTTP errors count by their status."""
    items, app = APIRouter(prefix="/items"), FastAPI()

    @items.get("/{item_id}")
    async def item(item_id: int) -> int:
        if item_id == 0:
            raise HTTPException(404)
        if item_id == 1:
            raise HTTPException(502)
        return item_id

    app.include_router(items, prefix="/api")
    app.add_middleware(RequestMiddleware)
    for path in (
        "/api/items/7",
        "/api/items/0",
        "/api/items/1",
        "/api/items/seven",
        "/openapi.json",
    ):
        calls(app, path)
    kind = "GET /api/items/{item_id}"
    expected = [
        (kind, "completed"),
        (kind, "completed"),
        (kind, "failed"),
        (kind, "completed"),
        ("GET /openapi.json", "completed"),
    ]
    assert expected == calls.types


def test_background_tasks_of_fastapi_are_background(calls: Calls) -> None:
    """A handler adds them, to run after its response."""
    app = FastAPI()

    async def work() -> None:
        calls.traced.clock.advance(0.05)

    @app.post("/mails")
    async def mail(background: BackgroundTasks) -> None:
        background.add_task(work)

    app.add_middleware(RequestMiddleware)
    calls(app, "/mails", method="POST")
    assert {"POST /mails": ({"completed": 1}, 0, 50)} == request_totals(calls.traced.snapshot())


def test_middleware_that_runs_the_application_in_a_child_task_changes_nothing(calls: Calls) -> None:
    """Starlette's BaseHTTPMiddleware may be around ours and inside of it."""

    class Slow(BaseHTTPMiddleware):
        async def dispatch(self, request: Request, call_next: Any) -> Response:
            response: Response = await call_next(request)
            return response

    for middleware in ((RequestMiddleware, Slow), (Slow, RequestMiddleware)):
        service = Service(calls.traced)
        app = Starlette(routes=service.routes)
        for one in middleware:
            app.add_middleware(one)
        calls(app, "/after")
        calls(app, "/orders/1")
    assert {
        "GET /after": ({"completed": 2}, 0, 100),
        "GET /orders/{id}": ({"completed": 2}, 100, 0),
    } == request_totals(calls.traced.snapshot())
    assert not any(calls.traced.snapshot().scope_errors.values())


def test_of_two_middlewares_the_outer_one_counts(calls: Calls) -> None:
    """An application with middleware, mounted in another one with middleware, has one request."""
    service = Service(calls.traced)
    inner = service.application()
    outer = Starlette(routes=[Mount("/shop/{tenant}", app=inner)])
    outer.add_middleware(RequestMiddleware)
    calls(outer, "/shop/acme/orders/1")
    assert {"GET /shop/{tenant}/orders/{id}": ({"completed": 1}, 50, 0)} == request_totals(
        calls.traced.snapshot()
    )


def test_it_may_wrap_the_application(calls: Calls) -> None:
    """An exception is then seen as the response that the framework made of it."""
    service = Service(calls.traced)
    app = RequestMiddleware(Starlette(routes=service.routes))
    calls(app, "/orders/1")
    with pytest.raises(ExceptionGroup):
        calls(app, "/group")
    assert [("GET /orders/{id}", "completed"), ("GET /group", "failed")] == calls.types
    assert 500 == calls.finished[1].attributes["http.response.status_code"]


def test_it_may_wrap_a_mounted_application(calls: Calls) -> None:
    """Its own routes count then, and not those of the outer application, which have other paths."""
    inner = RequestMiddleware(Starlette(routes=Service(calls.traced).routes))
    outer = Starlette(routes=[Mount("/shop", app=inner), Route("/orders/{number}", answering)])
    calls(outer, "/shop/orders/1")
    assert {"GET /orders/{id}": ({"completed": 1}, 50, 0)} == request_totals(
        calls.traced.snapshot()
    )


def test_routes_may_be_added_while_requests_come(calls: Calls) -> None:
    """The application may have had no routes before, and new ones may be between others."""

    async def found(_: Request) -> Response:
        return PlainTextResponse("found")

    app = Starlette()
    app.add_middleware(RequestMiddleware)
    calls(app, "/a")
    for path in ("/a", "/b"):
        app.router.routes.insert(0, Route(path, found))
        calls(app, "/a")
        calls(app, "/b")
    expected = ["(unmatched)", "GET /a", "(unmatched)", "GET /a", "GET /b"]
    assert expected == [kind for kind, _ in calls.types]


def test_middleware_that_hides_the_application_is_skipped(calls: Calls) -> None:
    """The framework's scope names the application itself."""

    class Opaque:
        def __init__(self, app: Any) -> None:
            self._hidden = app

        async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
            await self._hidden(scope, receive, send)

    app = Starlette(routes=Service(calls.traced).routes)
    app.add_middleware(Opaque)
    app.add_middleware(RequestMiddleware)
    calls(app, "/orders/1")
    assert [("GET /orders/{id}", "completed")] == calls.types


def test_websockets_and_lifespan_are_not_requests(calls: Calls) -> None:
    """A connection that lasts for hours is not a request; a scope around one message is."""

    async def chat(websocket: WebSocket) -> None:
        assert current_request() is None
        with aiometrics.request("chat message"):
            calls.traced.clock.advance(0.01)
        await websocket.close()

    app = Starlette(routes=[WebSocketRoute("/chat/{room}", chat)])
    app.add_middleware(RequestMiddleware)
    assert ["websocket.close"] == [
        message["type"] for message in calls(app, "/chat/lobby", kind="websocket")
    ]
    assert {"chat message": ({"completed": 1}, 10, 0)} == request_totals(calls.traced.snapshot())


def test_a_server_that_reports_a_disconnect_cancels_the_request(calls: Calls) -> None:
    """Servers of ASGI 2.4 raise when something is sent to a client that is gone."""

    async def nobody(_: Any) -> None:
        raise BrokenPipeError

    with pytest.raises(BrokenPipeError):
        calls(RequestMiddleware(answering(), route=lambda _: "/"), send=nobody)
    assert [("GET /", "cancelled")] == calls.types


def test_a_server_that_sends_no_headers_is_served(calls: Calls) -> None:
    """A test of an application may do that, and works without the middleware."""
    sent: list[Any] = []

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    scope = {"type": "http", "method": "GET", "path": "/"}
    calls.traced.run(RequestMiddleware(answering(), route=lambda _: "/")(scope, Any, send))  # type: ignore[arg-type]
    assert ([("GET /", "completed")], 2) == (calls.types, len(sent))


def test_an_application_that_does_not_answer_has_failed(calls: Calls) -> None:
    """The server sends 500 in its place."""

    async def silent(scope: Any, receive: Any, send: Any) -> None:
        """Return without a response."""

    calls(RequestMiddleware(silent, route=lambda _: "/"))
    assert [("GET /", "failed")] == calls.types


def test_a_file_sent_by_the_server_ends_the_response(calls: Calls) -> None:
    """An application names a file by an extension of ASGI."""

    async def file(scope: Any, receive: Any, send: Any) -> None:  # noqa: ARG001 - as it is called
        await send({"type": "http.response.start", "status": 200})
        await send({"type": "http.response.pathsend", "path": "/etc/hostname"})
        calls.traced.clock.advance(1)

    calls(RequestMiddleware(file, route=lambda _: "/"))
    assert {"GET /": ({"completed": 1}, 0, 1000)} == request_totals(calls.traced.snapshot())


def test_routes_of_other_frameworks_come_from_a_function(calls: Calls) -> None:
    """Without a function, and without routes to look at, every request is unmatched."""
    calls(RequestMiddleware(answering(), route=lambda scope: scope["path"][:4] + "{id}"), "/ab/7")
    calls(RequestMiddleware(answering()), "/ab/7")
    assert [("GET /ab/{id}", "completed"), ("(unmatched)", "completed")] == calls.types


def test_unknown_routes_do_not_break_requests(
    calls: Calls, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another framework's routes differ; that is logged once, and the requests are answered."""
    monkeypatch.setattr("aiometrics.exporter.session._errors_while_idle", InternalErrors())
    app = answering()
    app.routes = [object()]  # type: ignore[attr-defined]
    for _ in range(2):
        assert b"found" == calls(RequestMiddleware(app))[1]["body"]
    assert [("(unmatched)", "completed")] * 2 == calls.types
    assert [
        (
            "aiometrics: internal error in probe 'route', which stays on; "
            "the application is not affected"
        )
    ] == caplog.messages


def test_outside_of_a_traced_loop_the_application_answers() -> None:
    """The middleware may stay where nothing is measured."""
    sent: list[Any] = []

    async def receive() -> dict[str, Any]:
        raise AssertionError

    async def send(message: Any) -> None:
        sent.append(message)

    app = RequestMiddleware(answering(), route=lambda _: "/")
    asyncio.run(app({"type": "http", "method": "GET", "path": "/", "headers": []}, receive, send))
    assert 2 == len(sent)


def served_packages() -> set[str]:
    """Return the packages that count as application code for the running exporter."""
    session = process.session
    assert session is not None
    return set(session.recording.application)


def own_package() -> set[str]:
    """Return the package of this file, which asked for the exporter, and that of the program.

    The framework that starts the exporter is not among them.
    """
    return {__name__.partition(".")[0], main_package()} - {None, "__main__"}  # type: ignore[return-value]  # without None


def test_mounted_metrics_and_exporter_lifespan() -> None:
    """On uvicorn, the mounted metrics show what the lifespan's exporter traces.

    The application's registry follows, and the exporter is stopped at the end.
    """
    registry = CollectorRegistry()
    Gauge("stock", "Books.", registry=registry).set(3)
    lifespan = exporter_lifespan(port=0, addr="127.0.0.1", registry=None)
    app = Starlette(
        routes=[Mount("/metrics", app=make_asgi_app(registry)), Mount("/", app=answering())],
        lifespan=lifespan,
    )
    app.add_middleware(RequestMiddleware)

    async def main() -> None:
        async with uvicorn_serves(app) as port, Client(port) as client:
            assert own_package() == served_packages()
            assert 200 == (await client.get("/any")).status
            status, text = await client.get("/metrics/")
            assert (200, True) == (status, text.endswith("stock 3.0\n"))
            assert (
                'asyncio_request_wall_seconds_count{request="GET /{path}",status="completed"} 1\n'
                in text
            )
            await client.ask(
                "/metrics/", "HEAD", Accept="application/openmetrics-text;version=1.0.0"
            )
            status, headers = await client.head()
            assert (200, "application/openmetrics-text") == (
                status,
                headers["content-type"].partition(";")[0],
            )
            assert 405 == (await client.get("/metrics/", "DELETE")).status

    asyncio.run(main())
    with pytest.raises(RuntimeError, match="nothing is instrumented"):
        aiometrics.snapshot()


def test_metrics_are_served_over_http_only(calls: Calls) -> None:
    """Mounted over a websocket, they raise an error that says so."""
    with pytest.raises(RuntimeError, match="over http, not over 'websocket'"):
        calls(make_asgi_app(None), kind="websocket")


def test_the_lifespan_of_the_application_runs_inside_the_exporter() -> None:
    """Its state reaches the application, and the exporter outlasts its end."""
    seen: list[object] = []

    @asynccontextmanager
    async def own(app: Any) -> AsyncIterator[dict[str, int]]:
        seen.append(app)
        yield {"books": 3}
        seen.append(aiometrics.snapshot().errors)

    async def main() -> None:
        async with exporter_lifespan(own, port=0, addr="127.0.0.1", registry=None)(
            "the application"
        ) as state:
            seen.append(state)

    asyncio.run(main())
    assert ["the application", {"books": 3}, {}] == seen


def test_the_middleware_is_in_no_cycle(implementation: str) -> None:
    """It is gone with its last user, and with it the application."""

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(_: Any) -> None:
        pass

    class Application:
        routes = (Route("/", send),)

        async def __call__(self, *_: Any) -> None:
            pass

    gc.collect()
    gc.disable()
    try:
        with traced_loop(implementation=implementation) as traced:
            app = Application()
            middleware = RequestMiddleware(app)
            scope = {"type": "http", "method": "GET", "path": "/", "headers": []}
            traced.run(middleware(scope, receive, send))
            left = (weakref.ref(app), weakref.ref(middleware))
            del app, middleware
            assert (None, None) == tuple(each() for each in left)
            assert "GET /" in {entry.request for entry in traced.snapshot().requests}
    finally:
        gc.enable()
