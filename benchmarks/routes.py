"""Loop time by route in real services under load, against what their handlers are known to take."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
from collections import Counter
from collections.abc import Callable, Coroutine
from contextlib import suppress
from importlib import import_module
from time import monotonic_ns
from typing import Any

import child
from contender import LOOPS, Contender, Unavailable
from contenders import CCore
from plan import Plan
from table import Table

SECONDS = 5
#: What a handler of each route takes of the loop: half of it itself, the other half in a child task. The first shows what the framework
#: takes for itself.
NOTHING = "/nothing/{id}"
ROUTES_MS = {NOTHING: 0, "/cheap/{id}": 4, "/fair/{id}": 8, "/dear/{id}": 16}
CONNECTIONS = 4


class Work:
    """Takes the loop for known times, and keeps account of how long that really was."""

    def __init__(self) -> None:
        self.taken_ns: Counter[str] = Counter()
        self.begun: Counter[str] = Counter()

    async def handle(self, route: str) -> None:
        """One request."""
        self.begun[route] += 1
        half_ns = ROUTES_MS[route] * 500_000
        self._spin(route, half_ns)
        await asyncio.create_task(self._child(route, half_ns))

    async def _child(self, route: str, ns: int) -> None:
        await asyncio.sleep(0)
        self._spin(route, ns)

    def _spin(self, route: str, ns: int) -> None:
        since = monotonic_ns()
        while monotonic_ns() - since < ns:
            pass
        self.taken_ns[route] += monotonic_ns() - since


async def fastapi_service(work: Work, announce: Callable[[int], None]) -> None:
    """FastAPI on uvicorn."""
    fastapi, uvicorn = import_module("fastapi"), import_module("uvicorn")
    application = fastapi.FastAPI()
    application.add_middleware(import_module("aiometrics.integrations.asgi").RequestMiddleware)
    for route in ROUTES_MS:

        async def handler(route: str = route) -> dict[str, str]:
            await work.handle(route)
            return {"route": route}

        # Not a parameter of requests: FastAPI takes those from the signature.
        handler.__signature__ = import_module("inspect").Signature()  # type: ignore[attr-defined]
        application.get(route)(handler)
    server = uvicorn.Server(uvicorn.Config(application, host="127.0.0.1", port=0, access_log=False, log_level="warning", lifespan="off"))
    serving = asyncio.create_task(server.serve())
    while not server.started:  # noqa: ASYNC110 - it offers nothing else
        await asyncio.sleep(0.01)
    announce(server.servers[0].sockets[0].getsockname()[1])
    await serving


async def aiohttp_service(work: Work, announce: Callable[[int], None]) -> None:
    """An aiohttp.web application."""
    web = import_module("aiohttp.web")
    application = web.Application(middlewares=[import_module("aiometrics.integrations.aiohttp").request_middleware()])
    for route in ROUTES_MS:

        async def handler(_: Any, route: str = route) -> Any:
            await work.handle(route)
            return web.Response(text=route)

        application.router.add_get(route, handler)
    runner = web.AppRunner(application, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    announce(runner.addresses[0][1])
    await asyncio.Event().wait()


SERVICES: dict[str, Callable[[Work, Callable[[int], None]], Coroutine[Any, Any, None]]] = {
    "FastAPI on uvicorn": fastapi_service,
    "aiohttp": aiohttp_service,
}


def measure(contender: Contender, loop: str, *, service: str, scale: float = 1.0) -> dict[str, Any]:
    """What was recorded and what was true, in ns, by route; and the loop's active time meanwhile."""
    if not isinstance(contender, CCore):
        raise Unavailable("only aiometrics knows requests")
    contender.prepare()
    seconds = max(1, round(SECONDS * scale))
    with asyncio.Runner(loop_factory=contender.loop_factory(loop)) as runner:
        return runner.run(_under_load(service, seconds, contender.facade()))


async def _under_load(service: str, seconds: int, facade: Any) -> dict[str, Any]:
    port: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    work = Work()
    serving = asyncio.create_task(SERVICES[service](work, port.set_result))
    url = f"http://127.0.0.1:{await port}"
    before = facade.snapshot().loops[0].active_ns
    await asyncio.to_thread(_load, url, seconds)
    while any(entry.in_progress for entry in facade.snapshot().requests):  # noqa: ASYNC110 - those that the load left behind
        await asyncio.sleep(0.01)
    seen, true, handled = facade.snapshot(), dict(work.taken_ns), dict(work.begun)
    serving.cancel()
    with suppress(asyncio.CancelledError):
        await serving
    recorded = {route: seen.request(f"GET {route}") for route in ROUTES_MS}
    return {
        "recorded": {route: entry.active.sum_ns + entry.background_ns for route, entry in recorded.items()},
        "requests": {route: entry.active.count for route, entry in recorded.items()},
        "true": true,
        "handled": handled,
        "loop": seen.loops[0].active_ns - before,
    }


def _load(url: str, seconds: int) -> None:
    """All routes at once."""
    targets = [url + route.replace("{id}", "7") for route in ROUTES_MS]
    command = ["wrk", "-t1", f"-c{CONNECTIONS}", f"-d{seconds}s", "--timeout", "30s"]
    loads = [subprocess.Popen([*command, target], stdout=subprocess.PIPE) for target in targets]
    for load in loads:
        said, _ = load.communicate()
        if load.returncode or b"Non-2xx" in said:
            raise RuntimeError(f"the load on {url} failed:\n{said.decode()}")


def run(plan: Plan) -> Table:
    """Each service once on each loop."""
    if shutil.which("wrk") is None:
        raise Unavailable("wrk is not installed (Debian: apt-get install wrk)")
    found: dict[str, Any] = {}
    table = Table(
        f"Loop time by route under load (wrk, {CONNECTIONS} connections to each route, {os.cpu_count()} cores), against what handlers take",
        ["service", *(f"{route}, {ms} ms" for route, ms in ROUTES_MS.items()), "all routes / loop's active time"],
        data=found,
    )
    for service in SERVICES:
        for loop in LOOPS:
            plan.progress(f"routes: {service} on {loop}")
            try:
                seen = found[f"{service}, {loop}"] = child.run("routes", CCore.name, loop, service=json.dumps(service), scale=plan.scale)
            except Unavailable as error:
                table.notes.append(f"{service} on {loop} did not run: {error}")
                continue
            share = sum(seen["recorded"].values()) / seen["loop"]
            table.rows.append([f"{service}, {loop}", *(_cell(seen, route) for route in ROUTES_MS), f"{share:.3f}"])
    table.notes.append(
        "A cell is what one request of the route took, background included, less what one takes that does nothing, over "
        "what its handler and its child task took of the loop."
    )
    return table


def _cell(seen: dict[str, Any], route: str) -> str:
    count, handled = seen["requests"][route], seen["handled"][route]
    of_framework_ns = seen["recorded"][NOTHING] / seen["requests"][NOTHING]
    if route == NOTHING:
        return f"{of_framework_ns / 1e6:.3f} ms each of {count}"
    own_ns, true_ns = seen["recorded"][route] / count - of_framework_ns, seen["true"][route] / handled
    return f"x{own_ns / true_ns:.4f} of {count} ({handled} handled)"
