"""The cost of the middleware per request.

The same application is called with and without it, in turn, in a traced process.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Callable, Coroutine
from importlib import import_module
from statistics import median
from time import thread_time_ns
from typing import Any

from contenders.contender import Contender, Unavailable
from contenders.ours import CRecorder, PythonRecorder
from harness import child
from harness.plan import Plan
from harness.samples import quartiles
from harness.table import Table

CHUNKS, REQUESTS = 11, 600
#: Headers of a request; real clients send more.
HEADERS = [
    (name, b"x") for name in (b"host", b"user-agent", b"accept", b"accept-encoding", b"connection")
]
App = Callable[[dict[str, Any], Callable[[], Any], Callable[[Any], Any]], Coroutine[Any, Any, None]]


def starlette(routes: int) -> Any:
    """Return a Starlette application with ``routes`` routes."""
    text = import_module("starlette.responses").PlainTextResponse
    route = import_module("starlette.routing").Route

    async def handler(_: Any) -> Any:
        return text("found")

    return import_module("starlette.applications").Starlette(
        routes=[route(f"/{number}/{{id}}", handler) for number in range(routes)]
    )


def fastapi(routes: int) -> Any:
    """Return a FastAPI application with its routes in an included router, as in large ones."""
    package = import_module("fastapi")
    application, router = package.FastAPI(), package.APIRouter()

    async def handler() -> dict[str, str]:
        return {"it": "found"}

    for number in range(routes):
        router.get(f"/{number}/{{id}}")(handler)
    application.include_router(router)
    return application


#: Requests go to the route in the middle.
APPLICATIONS: dict[str, tuple[Callable[[int], Any], int]] = {
    "Starlette, 4 routes": (starlette, 4),
    "Starlette, 100 routes": (starlette, 100),
    "FastAPI, 4 routes": (fastapi, 4),
    "FastAPI, 100 routes": (fastapi, 100),
}


def measure(
    contender: Contender, loop: str, *, scale: float = 1.0
) -> dict[str, tuple[float, float]]:
    """Return CPU nanoseconds per request of each application, alone and with the middleware.

    They are medians of chunks that took turns.
    """
    if not isinstance(contender, CRecorder):
        raise Unavailable("only aiometrics has a middleware to measure")
    contender.prepare()
    middleware = import_module("aiometrics.integrations.asgi").RequestMiddleware

    async def main() -> dict[str, tuple[float, float]]:
        return {
            name: await _pair(make, routes, middleware, scale)
            for name, (make, routes) in APPLICATIONS.items()
        }

    with asyncio.Runner(loop_factory=contender.loop_factory(loop)) as runner:
        return runner.run(main())


async def _pair(
    make: Callable[[int], Any], routes: int, middleware: Any, scale: float
) -> tuple[float, float]:
    alone, measured = make(routes), make(routes)
    measured.add_middleware(middleware)
    path, count = f"/{routes // 2}/7", max(1, int(REQUESTS * scale))
    costs = [
        (await _cost(alone, path, count), await _cost(measured, path, count))
        for _ in range(CHUNKS + 1)
    ][1:]
    return median(cost for cost, _ in costs), median(cost for _, cost in costs)


async def _cost(app: App, path: str, count: int) -> float:
    async def requests() -> None:
        for _ in range(count):
            await app(_connection(path), _receive, _send)

    started = thread_time_ns()
    await asyncio.create_task(requests())
    return (thread_time_ns() - started) / count


def _connection(path: str) -> dict[str, Any]:
    return {
        "type": "http",
        "method": "GET",
        "path": path,
        "root_path": "",
        "query_string": b"",
        "headers": HEADERS,
    }


async def _receive() -> dict[str, Any]:
    return {"type": "http.request", "body": b"", "more_body": False}


async def _send(message: Any) -> None:
    """Discard the message."""


def run(plan: Plan) -> Table:
    """Measure both recorders once per round, each in its own process."""
    pairs: dict[str, dict[str, list[tuple[float, float]]]] = defaultdict(lambda: defaultdict(list))
    table = Table(
        f"CPU time of a request without a server in µs, median (quartiles) of {plan.rounds} rounds",
        ["application", "recorder", "alone", "the middleware adds", "ratio"],
        data=pairs,
    )
    absent: dict[str, str] = {}
    for number in range(plan.rounds):
        for name in (CRecorder.name, PythonRecorder.name):
            plan.progress(f"middleware, round {number + 1} of {plan.rounds}: {name}")
            try:
                answer = child.run("middleware", name, "asyncio", scale=plan.scale)
            except Unavailable as error:
                absent[name] = str(error)
                continue
            for application, pair in answer.items():
                pairs[application][name].append(pair)
    for application, by_name in pairs.items():
        for name, found in by_name.items():
            table.rows.append([application, name, *_cells(found)])
    table.note_absent(absent)
    table.notes.append(
        "Both are traced. There is no server, which would take time of its own: of a request that "
        "comes over a socket, the middleware is a smaller part."
    )
    return table


def _cells(found: list[tuple[float, float]]) -> list[str]:
    alone = quartiles([without / 1000 for without, _ in found])
    added = quartiles([(measured - without) / 1000 for without, measured in found])
    return [
        alone.format(1),
        added.format(1),
        quartiles([measured / without for without, measured in found]).format(3),
    ]
