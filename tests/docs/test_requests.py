"""The page about requests is true: each of its programs does what the text around it says."""

from __future__ import annotations

import asyncio
import json
import logging
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.sdk.trace import TracerProvider
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from support.frameworks import Answer, Client, aiohttp_serves, uvicorn_serves

import aiometrics
from aiometrics import request
from aiometrics.ecs import EcsFormatter
from aiometrics.integrations.asgi import RequestMiddleware
from aiometrics.requests.tracer import set_tracer
from aiometrics.testing import traced_loop

PAGE = (Path(__file__).resolve().parents[2] / "docs/requests.md").read_text(encoding="utf-8")
LOGGER = logging.getLogger("aiometrics.slow_requests")


def blocks(language: str) -> list[str]:
    """The fenced blocks of one language, in their order."""
    return re.findall(rf"^```{language}\n(.*?)^```", PAGE, flags=re.DOTALL | re.MULTILINE)


def run(marker: str) -> dict[str, Any]:
    """The names that the one program of the page with ``marker`` defines; only the port is another here."""
    (program,) = (block for block in blocks("python") if marker in block)
    names: dict[str, Any] = {"__name__": "example"}
    exec(  # noqa: S102 - it is ours
        compile(
            program.replace("port=9400", 'port=0, addr="127.0.0.1", registry=None'),
            "requests.md",
            "exec",
        ),
        names,
    )
    return names


def completed() -> dict[str, int]:
    """Requests that completed, by type."""
    return {
        entry.request: entry.wall["completed"].count for entry in aiometrics.snapshot().requests
    }


def test_every_program_of_the_page_is_run() -> None:
    """Whoever adds one adds a test."""
    assert 8 == len(blocks("python"))


def test_the_programs_with_middleware_count_by_route() -> None:
    """Both start the exporter with the application, and tell one route from another."""

    async def fastapi() -> None:
        async with uvicorn_serves(run("exporter_lifespan")["app"]) as port, Client(port) as client:
            assert Answer(200, '{"order":7}') == await client.get("/orders/7")
            assert {"GET /orders/{order_id}": 1} == completed()

    async def aiohttp() -> None:
        async with aiohttp_serves(run("exporter_context")["app"]) as port, Client(port) as client:
            assert Answer(200, "7") == await client.get("/orders/7")
            assert {"GET /orders/{order_id}": 1} == completed()

    asyncio.run(fastapi())
    asyncio.run(aiohttp())


def test_the_decorator_counts_jobs() -> None:
    """Each call is one, with the objective that it was given."""
    send_receipt = run("send_receipt")["send_receipt"]

    async def main() -> None:
        await asyncio.gather(send_receipt(1), send_receipt(2))

    with traced_loop() as traced:
        traced.run(main())
        entry = traced.snapshot().request("send_receipt")
    assert (2, 2_000_000_000) == (entry.wall["completed"].count, entry.objective_ns)


class Socket:
    """A websocket that has two messages."""

    def __init__(self) -> None:
        self.sent: list[str] = []

    async def accept(self) -> None:
        """Nobody is there."""

    async def iter_text(self) -> Any:
        """The messages."""
        for message in ("a", "b"):
            yield message

    async def send_text(self, text: str) -> None:
        """Keep it."""
        self.sent.append(text)


def test_messages_of_a_websocket_are_counted() -> None:
    """One request each."""
    chat, socket = run("chat message")["chat"], Socket()
    with traced_loop() as traced:
        traced.run(chat(socket))
        assert 2 == traced.snapshot().request("chat message").wall["completed"].count
    assert ["A", "B"] == socket.sent


@pytest.fixture
def kept_handlers() -> Iterator[None]:
    """The handlers of the logger are those of before in the end."""
    before = LOGGER.handlers[:]
    yield
    LOGGER.handlers[:] = before


@pytest.mark.usefixtures("kept_handlers")
def test_the_event_has_the_fields_that_the_page_shows() -> None:
    """All of them and no other, in that order, as written by the handler of the page."""
    lines: list[str] = []
    handler = run("EcsFormatter")["handler"]
    assert isinstance(handler.formatter, EcsFormatter)
    handler.setStream(Lines(lines))

    async def order(_: Request) -> PlainTextResponse:
        await asyncio.sleep(1)
        return PlainTextResponse("found")

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b""}

    async def send(_: Any) -> None:
        """To nobody."""

    async def main() -> None:
        scope = {
            "type": "http",
            "method": "GET",
            "path": "/orders/7",
            "headers": [(b"x-request-id", b"REQ-001")],
            "root_path": "",
        }
        with (
            TracerProvider(shutdown_on_exit=False)
            .get_tracer("application")
            .start_as_current_span("server")
        ):
            await RequestMiddleware(Starlette(routes=[Route("/orders/{order_id}", order)]))(
                scope, receive, send
            )

    with traced_loop(slow_request=0.25) as traced:
        traced.run(main())
        traced.instrumentation.work_queue.stop()
    (block,) = blocks("json")
    shown, written = json.loads(block), json.loads("".join(lines))
    point, *_ = written["aiometrics.yield_points"]
    assert ([*shown], [*shown["aiometrics.yield_points"][0]]) == ([*written], [*point])
    same = (
        "log.level",
        "event.action",
        "labels.request",
        "labels.request_id",
        "url.path",
        "http.response.status_code",
    )
    assert [shown[name] for name in same] == [written[name] for name in same]


class Lines:
    """A stream that keeps what is written."""

    def __init__(self, lines: list[str]) -> None:
        self._lines = lines

    def write(self, text: str) -> None:
        """Keep it."""
        self._lines.append(text)

    def flush(self) -> None:
        """Nothing is held back."""


def test_the_programs_for_opentelemetry_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """With whatever SDK the program has set up, or none: here the requests go on without."""
    asked: list[str] = []
    monkeypatch.setattr(
        "aiometrics.integrations.opentelemetry.observe_metrics", lambda: asked.append("metrics")
    )
    monkeypatch.setattr(
        "aiometrics.integrations.opentelemetry.trace_requests",
        lambda sample: asked.append(f"traces {sample}"),
    )
    run("trace_requests")
    run("observe_metrics()")
    assert ["traces 0.01", "metrics"] == asked
    set_tracer(None)


def test_the_metrics_may_be_mounted() -> None:
    """As the last program has it."""

    async def main() -> None:
        with request("GET /"):
            pass
        async with uvicorn_serves(run("make_asgi_app")["app"]) as port, Client(port) as client:
            status, text = await client.get("/metrics/")
            assert (200, True) == (
                status,
                'asyncio_request_wall_seconds_count{request="GET /",status="completed"} 1\n'
                in text,
            )

    with aiometrics.start_exporter(0, "127.0.0.1", registry=None):
        asyncio.run(main())
