"""The route of a connection, compared with what Starlette and FastAPI then do with it."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
from fastapi import APIRouter, FastAPI
from starlette.applications import Starlette
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Host, Match, Mount, Route, Router, WebSocketRoute
from starlette.websockets import WebSocket

from aiometrics.integrations._routes import Routes, request_type, routes_of


async def endpoint(_: Request) -> PlainTextResponse:
    """A handler."""
    return PlainTextResponse("found")


async def chat(_: WebSocket) -> None:
    """A handler of a websocket."""


async def opaque(scope: Any, receive: Any, send: Any) -> None:
    """An application without visible routes."""


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


def connection(
    path: str,
    method: str = "GET",
    host: str = "example.org",
    kind: str = "http",
    root_path: str = "",
) -> dict[str, Any]:
    """Return an ASGI scope."""
    return {
        "type": kind,
        "method": method,
        "path": path,
        "root_path": root_path,
        "headers": [(b"host", host.encode())],
    }


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
    """Parameters have no types in them; mounts, hosts, order and methods are as in the router."""
    assert expected == Routes(STARLETTE).template(scope)


def fastapi() -> FastAPI:
    """An application with nested routers, each with a prefix."""
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
    """Templates have the prefixes of included routers."""
    assert expected == Routes(fastapi()).template(connection(path))


@pytest.mark.parametrize(
    "wrap", [lambda app: app, lambda app: Wrapper(Wrapper(app))], ids=["itself", "behind two"]
)
def test_routes_are_found_behind_middleware(wrap: Callable[[Any], Any]) -> None:
    """Middleware that keeps the wrapped application under the usual name is looked through."""
    found = routes_of(opaque, wrap(STARLETTE))
    assert found is not None
    assert "/orders/{id}" == found.template(connection("/orders/7"))


@pytest.mark.parametrize(
    "kept", [Router(), FastAPI(), included := APIRouter()], ids=["Starlette", "FastAPI", "included"]
)
def test_changed_routes_are_known_at_once(kept: Any) -> None:
    """The application may add and remove routes at any time, also those of an included router."""
    app = FastAPI()
    app.include_router(included)
    routes = Routes(app if kept is included else kept)
    seen = [routes.template(connection("/late/7"))]
    kept.add_route("/late/{id}", endpoint)
    seen.append(routes.template(connection("/late/7")))
    kept.add_route("/late/{id}/more", endpoint)
    seen.append(routes.template(connection("/late/7/more")))
    kept.routes[:] = []
    if kept is not included:  # FastAPI itself keeps what it has included
        seen.append(routes.template(connection("/late/7")))
    assert [None, "/late/{id}", "/late/{id}/more", None][: len(seen)] == seen


def test_mounted_applications_may_get_routes_later() -> None:
    """They may be behind middleware, too, which a mount itself does not look through."""
    late = Starlette()
    routes = Routes(
        Router(
            [Mount("/late", app=late), Mount("/hidden", app=CORSMiddleware(CORSMiddleware(late)))]
        )
    )
    assert ["/late/{path}", "/hidden/{path}"] == [
        routes.template(connection(path)) for path in ("/late/7", "/hidden/7")
    ]
    late.add_route("/{id}", endpoint)
    assert ["/late/{id}", "/hidden/{id}"] == [
        routes.template(connection(path)) for path in ("/late/7", "/hidden/7")
    ]


def test_a_route_that_decides_by_more_than_the_path_is_asked() -> None:
    """It may decide by a header, so that its path alone is not enough."""

    class OfTenant(Route):
        def matches(self, scope: Any) -> Any:
            return (
                super().matches(scope)
                if (b"host", b"acme.org") in scope["headers"]
                else (Match.NONE, {})
            )

    routes = Routes(Router([OfTenant("/{page}", endpoint), Route("/{anything}", endpoint)]))
    assert ["/{page}", "/{anything}"] == [
        routes.template(connection("/7", host=host)) for host in ("acme.org", "example.org")
    ]


def test_a_replaced_expression_counts() -> None:
    """Applications do that for routes that ignore case."""
    route = Route("/Orders/{id}", endpoint)
    route.path_regex = re.compile(route.path_regex.pattern, re.IGNORECASE)
    assert "/Orders/{id}" == Routes(Router([route])).template(connection("/oRDERS/7"))


def test_unreadable_routes_are_an_error_each_time() -> None:
    """The error comes each time until it is fixed."""
    router = Router([Route("/orders/{id}", endpoint)])
    routes = Routes(router)
    assert "/orders/{id}" == routes.template(connection("/orders/7"))
    router.routes.append(broken := Route("/broken", endpoint))
    broken.path_format = None  # type: ignore[assignment]
    for _ in range(2):
        with pytest.raises(AttributeError):
            routes.template(connection("/orders/7"))
    broken.path_format = "/broken"
    assert "/broken" == routes.template(connection("/broken"))


def test_an_application_without_routes_has_none() -> None:
    """Middleware around it has none either."""
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
    """Paths and methods that a client makes up do not become labels."""
    assert expected == request_type(method, path)
