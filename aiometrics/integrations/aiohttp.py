"""aiohttp's server: requests by route, the exporter in its cleanup context, mounted metrics."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware
from prometheus_client import REGISTRY, CollectorRegistry

from aiometrics.exporter.exporter import starter
from aiometrics.integrations._mounted import Mounted
from aiometrics.integrations._routes import request_type
from aiometrics.requests.request import Request
from aiometrics.requests.request import request as request_scope

#: Marks a request for which middleware of an outer application has entered a scope already.
_TAKEN: Any = (
    web.RequestKey("aiometrics_taken", bool) if hasattr(web, "RequestKey") else "aiometrics_taken"
)


def request_middleware(*, id_header: str = "X-Request-ID") -> Middleware:
    """Return middleware that makes each request a request scope.

    The type is method and route, as ``GET /orders/{id}``, or ``(unmatched)``. The scope ends when
    the handler has returned its response. Its status is ``failed`` after an exception or a status
    code of 500 or more, and ``cancelled`` if its task was, or if the client had disconnected by
    then. Its id is the value of the header ``id_header``. Websockets are not scopes: put a scope
    around the handling of each message.
    """

    @web.middleware
    async def middleware(request: web.Request, handler: Handler) -> web.StreamResponse:
        if request.headers.get("Upgrade", "").lower() == "websocket" or _TAKEN in request:
            return await handler(request)
        request[_TAKEN] = True
        resource = request.match_info.route.resource
        kind = request_type(request.method, None if resource is None else resource.canonical)
        with request_scope(kind, id=request.headers.get(id_header)) as current:
            current.attributes |= {"http.request.method": request.method, "url.path": request.path}
            try:
                response = await handler(request)
            except web.HTTPException as error:
                _finish(current, request, error.status)
                raise
            except Exception:
                # A handler that writes to a client that is gone raises.
                if request.transport is None:
                    current.finish("cancelled")
                raise
            # The server makes an error of a return value that is not a response.
            _finish(current, request, getattr(response, "status", 500))
            return response

    return middleware


def _finish(current: Request, http: web.Request, status_code: int) -> None:
    current.attributes["http.response.status_code"] = status_code
    if http.transport is None:
        current.finish("cancelled")
    else:
        current.finish("failed" if status_code >= 500 else "completed")


def exporter_context(**options: Any) -> Callable[[web.Application], AsyncIterator[None]]:
    """Run an exporter as long as the application: ``app.cleanup_ctx.append(exporter_context())``.

    ``options`` are those of ``start_exporter``.
    """
    start = starter(**options)

    async def context(_: web.Application) -> AsyncIterator[None]:
        with start():
            yield

    return context


def metrics_handler(registry: CollectorRegistry | None = REGISTRY) -> Handler:
    """Return a handler that serves the metrics, to be routed to as ``/metrics``, for example.

    It shows what is traced at the time of each scrape, then the application's ``prometheus_client``
    registry. While the loop is blocked it does not answer, so that a block longer than the scrape
    timeout is in no scrape: ``start_exporter`` serves a separate port for that.
    """
    mounted = Mounted(registry)

    async def handler(http: web.Request) -> web.StreamResponse:
        response = await mounted.answer(http.headers.get("Accept"))
        return web.Response(body=response.body, headers={"Content-Type": response.content_type})

    return handler
