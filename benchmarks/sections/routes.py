"""Loop time by route in real services under load, compared with what their handlers took."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
from collections import defaultdict
from collections.abc import Callable, Coroutine, Sequence
from contextlib import suppress
from importlib import import_module
from statistics import median
from time import monotonic_ns
from typing import Any

from contenders.contender import LOOPS, Contender, Unavailable
from contenders.ours import CRecorder
from harness import child
from harness.plan import Plan
from harness.samples import quartiles
from harness.table import Table
from workloads.service import serve_on_aiohttp, serve_on_uvicorn

SECONDS = 4
#: Loop time of a handler of each route: half of it in the handler, the other half in a child task.
#: A request of the first route takes what the framework does for any request, including the
#: creation and the await of that task.
NOTHING = "/nothing/{id}"
ROUTES_MS = {NOTHING: 0, "/cheap/{id}": 4, "/fair/{id}": 8, "/dear/{id}": 16}
CONNECTIONS = 4
NOTES = (
    (
        "Medians of single requests: one in which the thread had to wait for a core counts no more "
        "than others. Their sum is the metric."
    ),
    (
        "A request's own work is the loop time of its handler and its child task, as they "
        "measured it themselves."
    ),
    (
        "Its active time also includes what the framework does for any request, which is all that "
        "a request without work takes."
    ),
    ("Apart from requests, the loop accepted connections, read and parsed input, and polled."),
)

#: Name of the attribute in which a request keeps the time that it has worked.
WORK = "work_ns"
#: The result of :func:`measure`.
Seen = dict[str, Any]


class Work:
    """Work that occupies the loop for known times.

    For each request it keeps how long that really took and what was recorded.
    """

    def __init__(self, facade: Any) -> None:
        self._facade = facade
        #: By type of request: the time of each one's work, and its active time, in ns.
        self.requests: dict[str, list[tuple[int, int]]] = defaultdict(list)

    async def handle(self, route: str) -> None:
        """Do the work of one request."""
        self._facade.current_request().attributes[WORK] = 0
        half_ns = ROUTES_MS[route] * 500_000
        self._spin(half_ns)
        await asyncio.create_task(self._child(half_ns))

    async def _child(self, ns: int) -> None:
        await asyncio.sleep(0)
        self._spin(ns)

    def _spin(self, ns: int) -> None:
        since = monotonic_ns()
        while monotonic_ns() - since < ns:
            pass
        self._facade.current_request().attributes[WORK] += monotonic_ns() - since

    def finished(self, finished: Any) -> None:
        """Keep the numbers of a request that has ended."""
        self.requests[finished.request].append((finished.attributes[WORK], finished.active_ns))


async def fastapi_service(work: Work, announce: Callable[[int], None]) -> None:
    """Serve a FastAPI application on uvicorn."""
    application = import_module("fastapi").FastAPI()
    application.add_middleware(import_module("aiometrics.integrations.asgi").RequestMiddleware)
    for route in ROUTES_MS:

        async def handler(route: str = route) -> dict[str, str]:
            await work.handle(route)
            return {"route": route}

        # FastAPI takes the parameters of requests from the signature; ``route`` is none of them.
        handler.__signature__ = import_module("inspect").Signature()  # type: ignore[attr-defined]
        application.get(route)(handler)
    await serve_on_uvicorn(application, announce)


async def aiohttp_service(work: Work, announce: Callable[[int], None]) -> None:
    """Serve an aiohttp.web application."""
    web = import_module("aiohttp.web")
    application = web.Application(
        middlewares=[import_module("aiometrics.integrations.aiohttp").request_middleware()]
    )
    for route in ROUTES_MS:

        async def handler(_: Any, route: str = route) -> Any:
            await work.handle(route)
            return web.Response(text=route)

        application.router.add_get(route, handler)
    await serve_on_aiohttp(application, announce)


SERVICES: dict[str, Callable[[Work, Callable[[int], None]], Coroutine[Any, Any, None]]] = {
    "FastAPI on uvicorn": fastapi_service,
    "aiohttp": aiohttp_service,
}


def measure(contender: Contender, loop: str, *, service: str, scale: float = 1.0) -> Seen:
    """Return what was recorded and what was true, in ns, by route, and the loop's active time."""
    if not isinstance(contender, CRecorder):
        raise Unavailable("only aiometrics knows requests")
    contender.prepare()
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    seconds = max(1, round(SECONDS * scale))
    with asyncio.Runner(loop_factory=contender.loop_factory(loop)) as runner:
        return runner.run(_under_load(service, seconds, contender.facade()))


async def _under_load(service: str, seconds: int, facade: Any) -> Seen:
    port: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    work = Work(facade)
    import_module(
        "aiometrics.exporter.session"
    ).process.instrumentation.request_observers.every.append(work.finished)
    serving = asyncio.create_task(SERVICES[service](work, port.set_result))
    url = f"http://127.0.0.1:{await port}"
    before = facade.snapshot().loops[0]
    await asyncio.to_thread(_load, url, seconds)
    while any(entry.in_progress for entry in facade.snapshot().requests):  # noqa: ASYNC110 - those that the load left behind
        await asyncio.sleep(0.01)
    seen = facade.snapshot()
    serving.cancel()
    with suppress(asyncio.CancelledError):
        await serving
    for entry in seen.requests:
        if entry.active.sum_ns != sum(active_ns for _, active_ns in work.requests[entry.request]):
            raise RuntimeError(
                f"the metric of {entry.request!r} is not the sum of its requests: {entry.active}"
            )
    after = seen.loops[0]
    return {
        "requests": {route: work.requests[f"GET {route}"] for route in ROUTES_MS},
        "routes": sum(entry.active.sum_ns + entry.background_ns for entry in seen.requests),
        "loop": after.active_ns - before.active_ns,
        "waited": None
        if after.thread_runqueue_ns is None
        else after.thread_runqueue_ns - before.thread_runqueue_ns,
    }


def _load(url: str, seconds: int) -> None:
    """Put all routes under load at once."""
    targets = [url + route.replace("{id}", "7") for route in ROUTES_MS]
    core = str(max(range(os.cpu_count() or 1)))
    command = [
        "taskset",
        "-c",
        core,
        "wrk",
        "-t1",
        f"-c{CONNECTIONS}",
        f"-d{seconds}s",
        "--timeout",
        "30s",
    ]
    loads = [subprocess.Popen([*command, target], stdout=subprocess.PIPE) for target in targets]
    for load in loads:
        said, _ = load.communicate()
        if load.returncode or b"Non-2xx" in said:
            raise RuntimeError(f"the load on {url} failed:\n{said.decode()}")


def run(plan: Plan) -> Table:
    """Measure each service on each loop once per round."""
    if shutil.which("wrk") is None:
        raise Unavailable("wrk is not installed (Debian: apt-get install wrk)")
    found: dict[str, list[Seen]] = defaultdict(list)
    table = Table(
        f"Loop time by route under load, median (quartiles) of {plan.rounds} rounds (wrk, "
        f"{CONNECTIONS} connections to each route)",
        [
            "service",
            "route",
            "requests",
            "own work, ms",
            "active, ms",
            "active / own",
            "without the framework / own",
        ],
        data=found,
    )
    absent: dict[str, str] = {}
    for number in range(plan.rounds):
        for service in SERVICES:
            for loop in LOOPS:
                plan.progress(f"routes, round {number + 1} of {plan.rounds}: {service} on {loop}")
                try:
                    seen = child.run(
                        "routes",
                        CRecorder.name,
                        loop,
                        service=json.dumps(service),
                        scale=plan.scale,
                    )
                except Unavailable as error:
                    absent[f"{service} on {loop}"] = str(error)
                    continue
                found[f"{service}, {loop}"].append(seen)
    for name, rounds in found.items():
        table.rows += [[name, *_cells(rounds, route)] for route in ROUTES_MS]
        table.notes.append(f"{name}: {_sums(rounds)}.")
    table.note_absent(absent)
    table.notes += NOTES
    return table


def _sums(rounds: Sequence[Seen]) -> str:
    """Compare the sum of all routes with the loop, and tell how long its thread waited."""
    shares = quartiles([seen["routes"] / seen["loop"] for seen in rounds])
    waited = [seen["waited"] / seen["loop"] for seen in rounds if seen["waited"] is not None]
    queue = f"; of it the thread waited {quartiles(waited).format(3)} for a core" if waited else ""
    share = shares.format(3)
    return f"all routes together are {share} of the time in which the loop was active{queue}"


def _cells(rounds: Sequence[Seen], route: str) -> list[str]:
    """Return the cells of a route: quartiles over the medians of each round."""
    requests = [seen["requests"][route] for seen in rounds]
    framework_ns = [
        median(active_ns for _, active_ns in seen["requests"][NOTHING]) for seen in rounds
    ]
    active = quartiles([median(active_ns for _, active_ns in each) / 1e6 for each in requests])
    counted = [route, str(sum(map(len, requests)))]
    if route == NOTHING:
        return [*counted, "0", active.format(3), "", ""]
    own = quartiles([median(own_ns for own_ns, _ in each) / 1e6 for each in requests])
    raw = quartiles([median(active_ns / own_ns for own_ns, active_ns in each) for each in requests])
    net = quartiles(
        [
            median((active_ns - less_ns) / own_ns for own_ns, active_ns in each)
            for each, less_ns in zip(requests, framework_ns, strict=True)
        ]
    )
    return [*counted, own.format(3), active.format(3), raw.format(4), net.format(4)]
