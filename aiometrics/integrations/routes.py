"""Which route of a Starlette or FastAPI application a connection is for, told before the application itself looks."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

UNMATCHED = "(unmatched)"
#: Anybody may send any word as a method; these are the ones that are written out.
_METHODS = frozenset({"CONNECT", "DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT", "TRACE"})
_OTHER_METHOD = "_OTHER"
#: The values of ``starlette.routing.Match``, which is not imported for them.
_PARTIAL, _FULL = 1, 2

Scope = Mapping[str, Any]


def request_type(method: str, template: str | None) -> str:
    """``GET /orders/{id}``, or ``(unmatched)``: bounded by the routes that there are, whatever is asked for."""
    if template is None:
        return UNMATCHED
    return f"{method if method in _METHODS else _OTHER_METHOD} {template}"


def template(routes: Iterable[Any], scope: Scope) -> str | None:
    """The path of the route that ``scope`` is for, with parameters by name and the paths of mounts before it; ``None`` if none matches.

    Routes are asked in order and as the router does it: the first that matches but for its method is taken where no other does.
    """
    partial = None
    for route in _candidates(routes, _route_path(scope)):
        match, child_scope = route.matches(scope)
        if match.value == _FULL:
            return _path(route, scope, child_scope)
        if match.value == _PARTIAL and partial is None:
            partial = _path(route, scope, child_scope)
    return partial


def _candidates(routes: Iterable[Any], path: str) -> Iterator[Any]:
    """The routes that are worth being asked: to compare the path alone takes a tenth of the time.

    FastAPI keeps the routes of a router that was included behind one entry.
    """
    for route in routes:
        regex = getattr(route, "path_regex", None)
        if regex is not None:
            if regex.match(path) is not None:
                yield route
            continue
        included = getattr(route, "effective_route_contexts", None)
        if included is None:
            yield route
        else:
            yield from _candidates((context.starlette_route or context for context in included()), path)


def _route_path(scope: Scope) -> str:
    """The path that routes are compared with: what is left of it behind the mounts that were passed."""
    path: str = scope["path"]
    root: str = scope.get("root_path", "")
    rest = path.removeprefix(root)
    return rest if not rest or rest.startswith("/") else path


def _path(route: Any, scope: Scope, child_scope: Scope) -> str | None:
    """The path of a route that matched; of a mount or host with routes, that of theirs which does."""
    path: str | None = getattr(route, "path_format", None)
    inner = getattr(route, "routes", None)
    if not inner:
        return path
    rest = template(inner, {**scope, **child_scope})
    # What a mount matches ends with the rest of the path; a host has no path.
    return None if rest is None else (path or "").removesuffix("/{path}") + rest


def routes_of(app: Any) -> Iterable[Any] | None:
    """The routes of an application, or of the one that it is the middleware of; ``None`` if it has none that can be asked."""
    while app is not None:
        routes = getattr(app, "routes", None)
        if routes is not None:
            found: Iterable[Any] = routes
            return found
        app = getattr(app, "app", None)
    return None
