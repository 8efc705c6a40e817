"""What an exporter computes when somebody asks, over HTTP."""

from __future__ import annotations

import asyncio
import http.client
import json
import threading
from collections.abc import Iterator

import pytest
from support.serving import fetch

import aiometrics
from aiometrics.base.http.messages import Request, Response
from aiometrics.exporter.debug import Limited

LOCAL = "127.0.0.1"
GUARD_SECONDS = 300


@pytest.fixture
def exporter() -> Iterator[aiometrics.Exporter]:
    """A running exporter of our metrics alone."""
    with aiometrics.start_exporter(0, LOCAL, registry=None) as running:
        yield running


def get(exporter: aiometrics.Exporter, path: str) -> tuple[int, str, bytes]:
    """Return status, content type and body of a response."""
    answer, body = fetch(exporter.port, path)
    return answer.status, answer.getheader("Content-Type", ""), body


def test_live_tasks_are_listed_while_the_loop_is_blocked(exporter: aiometrics.Exporter) -> None:
    """The blocked task shows the call in progress."""
    entered, released = threading.Event(), threading.Event()
    answers: list[tuple[int, str, bytes]] = []

    def hold() -> None:
        entered.set()
        assert released.wait(GUARD_SECONDS)

    async def parked() -> None:
        await asyncio.Event().wait()

    async def blocks() -> None:
        task = asyncio.create_task(parked(), name="for the test")
        await asyncio.sleep(0)
        hold()
        task.cancel()

    def ask() -> None:
        assert entered.wait(GUARD_SECONDS)
        answers.append(get(exporter, "/debug/tasks?format=json"))
        answers.append(get(exporter, "/debug/tasks?limit=1"))
        released.set()

    thread = threading.Thread(target=ask)
    thread.start()
    asyncio.run(blocks())
    thread.join()
    (status, content_type, body), (_, plain, text) = answers
    assert (200, "application/json") == (status, content_type)
    blocked, waiting = json.loads(body)["tasks"]
    assert "running" == blocked["state"]
    assert any(place.endswith("hold") for place in blocked["chain"])
    assert ("for the test", "waiting", "Future") == tuple(
        waiting[key] for key in ("name", "state", "awaits")
    )
    assert "text/plain; charset=utf-8" == plain
    assert text.startswith(b"1 live task, oldest first, 1 more left out\n\n#1 ")


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("limit=0", "limit='0' is not a whole number from 1 to 1000"),
        ("limit=1001", "limit='1001' is not"),
        ("limit=x", "limit='x' is not"),
        ("format=xml", "format='xml' is not one of text, json"),
        ("top=3", "there is no parameter 'top', only format, limit"),
        ("limit=1&limit=2", "a parameter is given twice"),
    ],
)
def test_an_invalid_query_is_refused_with_its_reason(
    exporter: aiometrics.Exporter, query: str, message: str
) -> None:
    """The answer says what is allowed."""
    status, _, body = get(exporter, f"/debug/tasks?{query}")
    assert (400, f"400 Bad Request: {message}") == (status, body.decode()[: 17 + len(message)])


def test_one_list_is_made_at_a_time() -> None:
    """Who asks meanwhile is told to try again, and then is answered."""
    entered, released = threading.Event(), threading.Event()

    def slow(_: Request) -> Response:
        entered.set()
        assert released.wait(GUARD_SECONDS)
        return Response(200, b"")

    route = Limited(slow, at_a_time=1)
    request = Request("GET", "/debug/tasks", "", {})
    thread = threading.Thread(target=route, args=(request,))
    thread.start()
    assert entered.wait(GUARD_SECONDS)
    refused = route(request)
    released.set()
    thread.join()
    assert (503, (("Retry-After", "1"),)) == (refused.status, refused.headers)
    assert 200 == route(request).status


def test_the_guard_of_the_metrics_guards_the_rest(exporter: aiometrics.Exporter) -> None:
    """A request whose host is another machine's is refused."""
    connection = http.client.HTTPConnection(LOCAL, exporter.port, timeout=GUARD_SECONDS)
    connection.request("GET", "/debug/tasks", headers={"Host": "evil.example"})
    assert 421 == connection.getresponse().status
    connection.close()
