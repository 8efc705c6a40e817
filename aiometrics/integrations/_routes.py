"""Which route of a Starlette or FastAPI application a connection is for, told before the application itself looks."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

UNMATCHED = "(unmatched)"
#: Anybody may send any word as a method; these are the ones that are written out.
_METHODS = frozenset(
    {"CONNECT", "DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT", "TRACE"}
)
_OTHER_METHOD = "_OTHER"
#: The values of ``starlette.routing.Match``, which is not imported for them.
_PARTIAL, _FULL = 1, 2
#: Whose routes match what their ``path_regex`` does. Who writes others decides otherwise, by a header say, and is asked.
_KNOWN = frozenset({"starlette.routing", "fastapi.routing"})

Scope = Mapping[str, Any]


def request_type(method: str, template: str | None) -> str:
    """``GET /orders/{id}``, or ``(unmatched)``: bounded by the routes that there are, whatever is asked for."""
    if template is None:
        return UNMATCHED
    return f"{method if method in _METHODS else _OTHER_METHOD} {template}"


#: A route; how each of its paths begins, and what they look like, where that is known without asking it; whether besides the path only the
#: method decides; what is behind a mount or a host.
_Entry = tuple[Any, str, re.Pattern[str] | None, bool, "Routes | None"]


class Routes:
    """The routes of ``owner``, an application or a router, whichever they are now: they are asked in order and as the router does it.

    Most are never asked: to compare path and method takes a tenth of the time. What is needed for that is collected once, and again when
    the list of routes is another one.
    """

    def __init__(self, owner: Any) -> None:
        self._owner = owner
        self._entries: list[_Entry] = []
        #: Who has a part of the routes, and which.
        self._seen: list[tuple[Any, tuple[Any, ...]]] = []

    def template(self, scope: Scope) -> str | None:
        """The path of the route that ``scope`` is for, with parameters by name and the paths of mounts before it; ``None`` for no match.

        The first route that matches but for its method is taken where no other does.
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
            if tuple(owner.routes) != routes:
                break
        else:
            if self._seen:
                return self._entries
        seen = [(owner, tuple(owner.routes)) for owner in _owners(self._owner)]
        self._entries = [_entry(route) for route in _flat(self._owner.routes)]
        self._seen = seen
        return self._entries


def routes_of(*apps: Any) -> Routes | None:
    """The routes of the first of these applications that has any, or is middleware of one that does; ``None`` if none can be asked."""
    for outermost in apps:
        app = outermost
        while app is not None:
            if getattr(app, "routes", None) is not None:
                return Routes(app)
            app = getattr(app, "app", None)
    return None


def _owners(owner: Any) -> Iterator[Any]:
    """Who has the routes, and the routers of FastAPI that were included in it."""
    yield owner
    for route in owner.routes:
        included = getattr(route, "original_router", None)
        if included is not None:
            yield from _owners(included)


def _flat(routes: Iterable[Any]) -> Iterator[Any]:
    """The routes one by one: FastAPI keeps those of a router that was included behind one entry."""
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
    """What comes before the first parameter; nothing if the expression was replaced by one that says otherwise."""
    prefix: str = route.path_format.partition("{")[0]
    literally = regex.flags == re.UNICODE and regex.pattern.startswith("^" + re.escape(prefix))
    return prefix if literally else ""


def _inner(route: Any) -> Routes | None:
    """What is behind a mount or a host, which do not look through middleware."""
    return routes_of(getattr(route, "app", None), route) if hasattr(route, "routes") else None


def _route_path(scope: Scope) -> str:
    """The path that routes are compared with: what is left of it behind the mounts that were passed."""
    path: str = scope["path"]
    root: str = scope.get("root_path", "")
    if not root:
        return path
    rest = path.removeprefix(root)
    return rest if not rest or rest.startswith("/") else path


def _path(route: Any, inner: Routes | None, scope: Scope, child_scope: Scope) -> str | None:
    """The path of a route that matched; of a mount or host with routes, that of theirs which does."""
    path: str | None = getattr(route, "path_format", None)
    if not inner:
        return path
    rest = inner.template({**scope, **child_scope})
    # What a mount matches ends with the rest of the path; a host has no path.
    return None if rest is None else (path or "").removesuffix("/{path}") + rest
