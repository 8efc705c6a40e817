"""ASGI applications, such as Starlette and FastAPI: requests, the exporter, mounted metrics."""

from __future__ import annotations

from asyncio import CancelledError
from collections.abc import AsyncIterator, Awaitable, Callable, MutableMapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

from prometheus_client import REGISTRY, CollectorRegistry

from aiometrics.base.http.messages import Response
from aiometrics.exporter.exporter import starter
from aiometrics.exporter.session import report
from aiometrics.integrations._mounted import Mounted
from aiometrics.integrations._routes import Routes, request_type, routes_of
from aiometrics.requests.request import Request, enter, leave

Message = MutableMapping[str, Any]
Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]
Lifespan = Callable[[Any], AbstractAsyncContextManager[Any]]

#: Marks a connection for which outer middleware has entered a scope already.
_ENTERED = "aiometrics.request"
_BODIES = frozenset({"http.response.body", "http.response.pathsend", "http.response.zerocopysend"})


class RequestMiddleware:
    """Makes each HTTP request a request scope.

    The type is method and route, as ``GET /orders/{id}``, or ``(unmatched)``. The scope ends when
    the last byte of the response was sent; later work of its tasks, including background tasks,
    counts as background. Its status is ``failed`` after an exception or a status code of 500 or
    more, and ``cancelled`` if the client disconnected first. Its id is the value of the header
    ``id_header``. ``route(scope)`` returns the path template, or ``None`` for no match; give it for
    applications that have no ``routes``, or that route in another way. Lifespan and websockets are
    not scopes: put a scope around the handling of each message of a websocket.
    """

    def __init__(
        self,
        app: App,
        *,
        route: Callable[[Scope], str | None] | None = None,
        id_header: str = "x-request-id",
    ) -> None:
        self.app = app
        self._route = route
        self._id_header = id_header.lower().encode("latin-1")
        self._routes: Routes | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one connection."""
        if scope["type"] != "http" or _ENTERED in scope:
            await self.app(scope, receive, send)
            return
        scope[_ENTERED] = True
        current = enter(
            request_type(scope["method"], self._template(scope)), header(scope, self._id_header)
        )
        current.attributes = {"http.request.method": scope["method"], "url.path": scope["path"]}
        exchange = _Exchange(current, receive, send)
        try:
            await self.app(scope, exchange.receive, exchange.send)
        except BaseException as error:
            exchange.done(error)
            raise
        else:
            exchange.done(None)
        finally:
            leave(current)

    def _template(self, scope: Scope) -> str | None:
        try:
            return self._matched(scope) if self._route is None else self._route(scope)
        except Exception as error:  # noqa: BLE001 - code of a framework or the application ran
            report("route", error)
            return None

    def _matched(self, scope: Scope) -> str | None:
        if self._routes is None:
            self._routes = routes_of(self.app, scope.get("app"))
        return None if self._routes is None else self._routes.template(scope)


class _Exchange:
    """Passes messages between server and application, and finishes the request as they say."""

    def __init__(self, current: Request, receive: Receive, send: Send) -> None:
        self._current = current
        self._receive = receive
        self._send = send
        self._status_code: int | None = None
        self._complete = False
        self._disconnected = False

    async def receive(self) -> Message:
        message = await self._receive()
        if message["type"] == "http.disconnect" and not self._complete:
            self._disconnected = True
        return message

    async def send(self, message: Message) -> None:
        try:
            await self._send(message)
        except OSError:  # servers raise it if the client is gone
            self._disconnected = True
            raise
        if message["type"] == "http.response.start":
            self._status_code = message["status"]
        elif message["type"] in _BODIES and not message.get("more_body", False):
            self._complete = True
            self._end(
                "completed"
                if self._status_code is not None and self._status_code < 500
                else "failed"
            )

    def done(self, error: BaseException | None) -> None:
        """End the request after the application: without a complete response it has failed."""
        if not self._complete:
            self._end("cancelled" if isinstance(error, CancelledError) else "failed")

    def _end(self, status: str) -> None:
        if self._status_code is not None:
            self._current.attributes["http.response.status_code"] = self._status_code
        self._current.finish("cancelled" if self._disconnected else status)


def exporter_lifespan(inner: Lifespan | None = None, /, **options: Any) -> Lifespan:
    """Return a lifespan that runs an exporter: ``FastAPI(lifespan=exporter_lifespan())``.

    For Starlette and FastAPI. ``options`` are those of ``start_exporter``; ``inner`` is the
    application's own lifespan, which runs inside.
    """
    start = starter(**options)

    @asynccontextmanager
    async def lifespan(app: Any) -> AsyncIterator[Any]:
        with start():
            if inner is None:
                yield
                return
            async with inner(app) as state:
                yield state

    return lifespan


def make_asgi_app(registry: CollectorRegistry | None = REGISTRY) -> App:
    """Return an application that serves the metrics, to be mounted as ``/metrics``, for example.

    It shows what is traced at the time of each scrape, then the application's ``prometheus_client``
    registry. While the loop is blocked it does not answer, so that a block longer than the scrape
    timeout is in no scrape: ``start_exporter`` serves a separate port for that.
    """
    mounted = Mounted(registry)

    async def app(scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG001 - as servers call it
        if scope["type"] != "http":
            raise RuntimeError(
                f"the metrics are served over http, not over {scope['type']!r}: "
                "mount them under a path of their own"
            )
        if scope["method"] not in ("GET", "HEAD"):
            answer = Response(405, b"Method Not Allowed\n", headers=(("allow", "GET, HEAD"),))
        else:
            answer = await mounted.answer(header(scope, b"accept"))
        headers = [
            ("content-type", answer.content_type),
            ("content-length", str(len(answer.body))),
            *answer.headers,
        ]
        encoded = [(name.encode(), value.encode()) for name, value in headers]
        await send({"type": "http.response.start", "status": answer.status, "headers": encoded})
        await send(
            {
                "type": "http.response.body",
                "body": b"" if scope["method"] == "HEAD" else answer.body,
            }
        )

    return app


def header(scope: Scope, name: bytes) -> str | None:
    """Return the first value of a header, whose name is given in lower case."""
    for found, value in scope.get("headers", ()):
        if found == name:
            text: str = value.decode("latin-1")
            return text
    return None
