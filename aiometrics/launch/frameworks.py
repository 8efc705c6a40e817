"""Gives the applications of web frameworks the request middleware when they begin to serve."""

from __future__ import annotations

from functools import wraps
from types import ModuleType
from typing import Any

from aiometrics.launch.path._aiometrics_imports import when_imported


def add_middleware() -> None:
    """Let each application of Starlette, FastAPI and aiohttp have the middleware once."""
    when_imported("starlette.applications", _patch_starlette)
    when_imported("aiohttp.web_app", _patch_aiohttp)


def _patch_starlette(module: ModuleType) -> None:
    """Wrap ``Starlette.__call__``, through which FastAPI's applications go too."""
    from aiometrics.integrations.asgi import RequestMiddleware  # noqa: PLC0415 - only if needed

    original = module.Starlette.__call__

    class Unwrapped:
        """The application without our middleware; its routes are found behind ``app``."""

        def __init__(self, app: Any) -> None:
            self.app = app

        async def __call__(self, *connection: Any) -> None:
            await original(self.app, *connection)

    def with_middleware(app: Any) -> Any:
        has_it = any(each.cls is RequestMiddleware for each in app.user_middleware)
        return Unwrapped(app) if has_it else RequestMiddleware(Unwrapped(app))

    @wraps(original)
    async def call(self: Any, scope: Any, receive: Any, send: Any) -> None:
        try:
            served = self._aiometrics
        except AttributeError:
            served = self._aiometrics = with_middleware(self)
        await served(scope, receive, send)

    module.Starlette.__call__ = call


def _patch_aiohttp(module: ModuleType) -> None:
    """Wrap ``Application.pre_freeze``, after which the list of middleware is fixed."""
    original = module.Application.pre_freeze

    @wraps(original)
    def pre_freeze(self: Any) -> None:
        from aiometrics.integrations.aiohttp import request_middleware  # noqa: PLC0415 - see above

        ours: Any = request_middleware()
        has_it = any(getattr(each, "__code__", None) is ours.__code__ for each in self.middlewares)
        if not self.pre_frozen and not has_it:
            self.middlewares.insert(0, ours)
        original(self)

    module.Application.pre_freeze = pre_freeze
