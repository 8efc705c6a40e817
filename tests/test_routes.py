"""Which route a connection is for, held to what Starlette and FastAPI themselves then do with it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from fastapi import APIRouter, FastAPI
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Host, Mount, Route, Router, WebSocketRoute
from starlette.websockets import WebSocket

from aiometrics.integrations.routes import request_type, routes_of, template


async def endpoint(_: Request) -> PlainTextResponse:
    """Any handler."""
    return PlainTextResponse("found")


async def chat(_: WebSocket) -> None:
    """Any handler of a websocket."""


async def opaque(scope: Any, receive: Any, send: Any) -> None:
    """An application that does not tell its routes."""


USERS = Starlette(routes=[Route("/", endpoint), Route("/users/{name}", endpoint)])
STARLETTE = Starlette(
    routes=[
        Route("/orders/{id:int}", endpoint, methods=["GET"]),
        Route("/orders/{id:int}", endpoint, methods=["DELETE"]),
        Route("/orders/{rest:path}", endpoint, methods=["PATCH"]),
        WebSocketRoute("/chat/{room}", chat),
        Mount("/api/{tenant}", app=USERS),
        Mount("/deep", routes=[Mount("/er", routes=[Route("/here", endpoint)])]),
        Mount("/static", app=opaque),
        Host("admin.example.org", app=Router([Route("/audit", endpoint)])),
    ]
)


def connection(path: str, method: str = "GET", host: str = "example.org", kind: str = "http", root_path: str = "") -> dict[str, Any]:
    """An ASGI scope."""
    return {"type": kind, "method": method, "path": path, "root_path": root_path, "headers": [(b"host", host.encode())]}


@pytest.mark.parametrize(
    ("scope", "expected"),
    [
        (connection("/orders/7"), "/orders/{id}"),
        (connection("/orders/7", "DELETE"), "/orders/{id}"),
        (connection("/orders/7", "PATCH"), "/orders/{rest}"),
        (connection("/orders/seven"), "/orders/{rest}"),
        (connection("/chat/lobby", kind="websocket"), "/chat/{room}"),
        (connection("/chat/lobby"), None),
        (connection("/api/acme/users/bob"), "/api/{tenant}/users/{name}"),
        (connection("/api/acme/"), "/api/{tenant}/"),
        (connection("/api/acme/nothing"), None),
        (connection("/deep/er/here"), "/deep/er/here"),
        (connection("/deep/er"), None),
        (connection("/static/css/site.css"), "/static/{path}"),
        (connection("/audit", host="admin.example.org"), "/audit"),
        (connection("/audit"), None),
        (connection("/proxied/orders/7", root_path="/proxied"), "/orders/{id}"),
        (connection("/proxiedorders/7", root_path="/proxied"), None),
        (connection("/nothing"), None),
    ],
)
def test_templates_of_starlette(scope: dict[str, Any], expected: str | None) -> None:
    """Parameters by name and without their types, mounts and hosts looked into, order and methods as the router has them."""
    assert expected == template(STARLETTE.routes, scope)


def fastapi() -> FastAPI:
    """An application whose routers are included, one in the other, each with a prefix."""
    app = FastAPI()
    items, versioned = APIRouter(prefix="/shop/{shop}"), APIRouter(prefix="/v1")
    items.get("/items/{item_id}")(lambda item_id: item_id)
    versioned.include_router(items)
    versioned.mount("/mounted", USERS)
    app.include_router(versioned, prefix="/api")
    app.get("/health")(lambda: "well")
    app.mount("/sub", USERS)
    return app


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/health", "/health"),
        ("/docs", "/docs"),
        ("/api/v1/shop/main/items/7", "/api/v1/shop/{shop}/items/{item_id}"),
        ("/sub/users/bob", "/sub/users/{name}"),
        ("/api/v1/nothing", None),
    ],
)
def test_templates_of_fastapi(path: str, expected: str | None) -> None:
    """Prefixes of routers that were included are part of it."""
    assert expected == template(fastapi().routes, connection(path))


@pytest.mark.parametrize("wrap", [lambda app: app, lambda app: Wrapper(Wrapper(app))], ids=["itself", "behind two"])
def test_routes_are_found_behind_middleware(wrap: Callable[[Any], Any]) -> None:
    """Whoever keeps the application that it wraps under the usual name can be looked through."""
    assert STARLETTE.routes == routes_of(wrap(STARLETTE))


def test_an_application_without_routes_has_none() -> None:
    """Nor has middleware around it."""
    assert (None, None) == (routes_of(opaque), routes_of(Wrapper(opaque)))


class Wrapper:
    """Middleware of any kind."""

    def __init__(self, app: Any) -> None:
        self.app = app


@pytest.mark.parametrize(
    ("method", "path", "expected"),
    [
        ("GET", "/orders/{id}", "GET /orders/{id}"),
        ("BREW", "/pot", "_OTHER /pot"),
        ("GET", None, "(unmatched)"),
        ("BREW", None, "(unmatched)"),
    ],
)
def test_types_are_bounded(method: str, path: str | None, expected: str) -> None:
    """Neither a path nor a method that a client makes up becomes a label."""
    assert expected == request_type(method, path)
