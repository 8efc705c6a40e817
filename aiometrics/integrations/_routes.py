"""Finds the route of a Starlette or FastAPI application for a connection.

It does so before the application itself looks.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from operator import is_
from typing import Any

UNMATCHED = "(unmatched)"
#: Clients may send any word as a method; only these become part of a type.
_METHODS = frozenset(
    {"CONNECT", "DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT", "TRACE"}
)
_OTHER_METHOD = "_OTHER"
#: The values of ``starlette.routing.Match``, which is not imported for them.
_PARTIAL, _FULL = 1, 2
#: The modules whose routes match exactly by their ``path_regex``. Other classes of routes may
#: decide by a header, for example, and are asked.
_KNOWN = frozenset({"starlette.routing", "fastapi.routing"})

Scope = Mapping[str, Any]


def request_type(method: str, template: str | None) -> str:
    """Return ``GET /orders/{id}``, or ``(unmatched)``.

    The number of types is bounded by the number of routes, whatever clients ask for.
    """
    if template is None:
        return UNMATCHED
    return f"{method if method in _METHODS else _OTHER_METHOD} {template}"


#: A route; the prefix and the pattern of its paths, if they are known without asking it; whether
#: only the path and the method decide; the routes behind a mount or a host.
_Entry = tuple[Any, str, re.Pattern[str] | None, bool, "Routes | None"]


class Routes:
    """The current routes of ``owner``, an application or a router.

    They are asked in order, as the router does it. Most are never asked: comparing path and method
    takes a tenth of the time. The data for that is collected once, and again when a list of routes
    changes.
    """

    def __init__(self, owner: Any) -> None:
        self._owner = owner
        self._entries: list[_Entry] = []
        #: Each owner of a part of the routes, with that part.
        self._seen: list[tuple[Any, tuple[Any, ...]]] = []

    def template(self, scope: Scope) -> str | None:
        """Return the path template of the route for ``scope``; ``None`` for no match.

        Parameters are in it by name, and the paths of mounts before it. The first route that
        matches except for its method is taken if no other matches.
        """
        path, method = _route_path(scope), scope.get("method")
        partial = None
        for route, prefix, regex, plain, inner in self._current():
            if not path.startswith(prefix) or (regex is not None and regex.match(path) is None):
                continue
            if plain and method is not None:
                match, child_scope = (
                    _FULL if not route.methods or method in route.methods else _PARTIAL,
                    scope,
                )
            else:
                asked, child_scope = route.matches(scope)
                match = asked.value
            if match == _FULL:
                return _path(route, inner, scope, child_scope)
            if match == _PARTIAL and partial is None:
                partial = _path(route, inner, scope, child_scope)
        return partial

    def __len__(self) -> int:
        return len(self._current())

    def _current(self) -> list[_Entry]:
        for owner, routes in self._seen:
            now = tuple(owner.routes)
            if len(now) != len(routes) or not all(map(is_, now, routes)):
                break
        else:
            if self._seen:
                return self._entries
        seen = [(owner, tuple(owner.routes)) for owner in _owners(self._owner)]
        self._entries = [_entry(route) for route in _flat(self._owner.routes)]
        self._seen = seen
        return self._entries


def routes_of(*apps: Any) -> Routes | None:
    """Return the routes of the first of these applications that has any; ``None`` if none has.

    Middleware counts as the application that it wraps.
    """
    for outermost in apps:
        app = outermost
        while app is not None:
            if getattr(app, "routes", None) is not None:
                return Routes(app)
            app = getattr(app, "app", None)
    return None


def _owners(owner: Any) -> Iterator[Any]:
    """Yield the owner of the routes, and the routers of FastAPI that were included in it."""
    yield owner
    for route in owner.routes:
        included = getattr(route, "original_router", None)
        if included is not None:
            yield from _owners(included)


def _flat(routes: Iterable[Any]) -> Iterator[Any]:
    """Yield the routes one by one: FastAPI keeps those of an included router behind one entry."""
    for route in routes:
        included = getattr(route, "effective_route_contexts", None)
        if included is None:
            yield route
        else:
            yield from (context.starlette_route or context for context in included())


def _entry(route: Any) -> _Entry:
    regex = getattr(route, "path_regex", None) if type(route).matches.__module__ in _KNOWN else None
    if regex is None:
        return route, "", None, False, _inner(route)
    return route, _prefix(route, regex), regex, hasattr(route, "methods"), _inner(route)


def _prefix(route: Any, regex: re.Pattern[str]) -> str:
    """Return the path before the first parameter; empty if the expression was replaced."""
    prefix: str = route.path_format.partition("{")[0]
    literally = regex.flags == re.UNICODE and regex.pattern.startswith("^" + re.escape(prefix))
    return prefix if literally else ""


def _inner(route: Any) -> Routes | None:
    """Return the routes behind a mount or a host, which do not look through middleware."""
    return routes_of(getattr(route, "app", None), route) if hasattr(route, "routes") else None


def _route_path(scope: Scope) -> str:
    """Return the path that routes are compared with: the rest of it behind the passed mounts."""
    path: str = scope["path"]
    root: str = scope.get("root_path", "")
    if not root:
        return path
    rest = path.removeprefix(root)
    return rest if not rest or rest.startswith("/") else path


def _path(route: Any, inner: Routes | None, scope: Scope, child_scope: Scope) -> str | None:
    """Return the path of a matching route; for a mount or host, with that of its matching route."""
    path: str | None = getattr(route, "path_format", None)
    if not inner:
        return path
    rest = inner.template({**scope, **child_scope})
    # The path of a mount ends with a parameter for the rest of the path; a host has no path.
    return None if rest is None else (path or "").removesuffix("/{path}") + rest
