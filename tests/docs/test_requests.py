"""The programs on the page about requests do what the text around them says."""

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
from support.web_servers import Answer, Client, aiohttp_serves, uvicorn_serves

import aiometrics
from aiometrics import request
from aiometrics.ecs import EcsFormatter
from aiometrics.integrations.asgi import RequestMiddleware
from aiometrics.requests.tracer import set_tracer
from aiometrics.testing import traced_loop

PAGE = (Path(__file__).resolve().parents[2] / "docs/requests.md").read_text(encoding="utf-8")
LOGGER = logging.getLogger("aiometrics.slow_requests")


def blocks(language: str) -> list[str]:
    """Return the fenced blocks of one language, in order."""
    return re.findall(rf"^```{language}\n(.*?)^```", PAGE, flags=re.DOTALL | re.MULTILINE)


def run(marker: str) -> dict[str, Any]:
    """Run the program of the page that contains ``marker``, and return the names that it defines.

    Only the address is replaced.
    """
    (program,) = (block for block in blocks("python") if marker in block)
    names: dict[str, Any] = {"__name__": "example"}
    exec(  # noqa: S102 - our own documentation
        compile(
            program.replace("port=9400", 'port=0, addr="127.0.0.1", registry=None'),
            "requests.md",
            "exec",
        ),
        names,
    )
    return names


def completed() -> dict[str, int]:
    """Return the number of completed requests by type."""
    return {
        entry.request: entry.wall["completed"].count for entry in aiometrics.snapshot().requests
    }


def test_every_program_of_the_page_is_run() -> None:
    """The page has as many programs as the tests run."""
    assert 8 == len(blocks("python"))


def test_the_programs_with_middleware_count_by_route() -> None:
    """Both start the exporter with the application and count requests by route."""

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
    """Each call is a request with the objective given to the decorator."""
    send_receipt = run("send_receipt")["send_receipt"]

    async def main() -> None:
        await asyncio.gather(send_receipt(1), send_receipt(2))

    with traced_loop() as traced:
        traced.run(main())
        entry = traced.snapshot().request("send_receipt")
    assert (2, 2_000_000_000) == (entry.wall["completed"].count, entry.objective_ns)


class Socket:
    """A websocket that receives two messages."""

    def __init__(self) -> None:
        self.sent: list[str] = []

    async def accept(self) -> None:
        """Do nothing."""

    async def iter_text(self) -> Any:
        """Yield the messages."""
        for message in ("a", "b"):
            yield message

    async def send_text(self, text: str) -> None:
        """Keep the text."""
        self.sent.append(text)


def test_messages_of_a_websocket_are_counted() -> None:
    """Each message is one request."""
    chat, socket = run("chat message")["chat"], Socket()
    with traced_loop() as traced:
        traced.run(chat(socket))
        assert 2 == traced.snapshot().request("chat message").wall["completed"].count
    assert ["A", "B"] == socket.sent


@pytest.fixture
def restored_handlers() -> Iterator[None]:
    """Restore the handlers of the logger after the test."""
    before = LOGGER.handlers[:]
    yield
    LOGGER.handlers[:] = before


@pytest.mark.usefixtures("restored_handlers")
def test_the_event_has_the_fields_that_the_page_shows() -> None:
    """The handler on the page writes exactly these fields, in that order."""
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
        """Discard the message."""

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
    """A stream that keeps what is written to it."""

    def __init__(self, lines: list[str]) -> None:
        self._lines = lines

    def write(self, text: str) -> None:
        """Keep the text."""
        self._lines.append(text)

    def flush(self) -> None:
        """Do nothing, since nothing is buffered."""


def test_the_programs_for_opentelemetry_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """They work with any SDK that the program has set up, or with none, as in this test."""
    calls: list[str] = []
    monkeypatch.setattr(
        "aiometrics.integrations.opentelemetry.observe_metrics", lambda: calls.append("metrics")
    )
    monkeypatch.setattr(
        "aiometrics.integrations.opentelemetry.trace_requests",
        lambda sample: calls.append(f"traces {sample}"),
    )
    run("trace_requests")
    run("observe_metrics()")
    assert ["traces 0.01", "metrics"] == calls
    set_tracer(None)


def test_the_metrics_can_be_mounted() -> None:
    """The application of the last program serves metrics under the path where it mounts them."""

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
