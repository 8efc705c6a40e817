"""Every middleware on real servers and frameworks: the metrics of each request, exactly."""

from __future__ import annotations

import asyncio

import pytest
from support.frameworks import Answer, Client
from support.scenes import AiohttpScenes, Scenes, StarletteScenes, play, told

every_framework = pytest.mark.parametrize(
    "scenes", [StarletteScenes, AiohttpScenes], ids=["Starlette", "aiohttp"]
)


@every_framework
def test_requests_on_one_connection_are_separate(implementation: str, scenes: type[Scenes]) -> None:
    """Three requests of two types on one connection each have their own time.

    That includes the time of child tasks.
    """

    async def scenario(_: Scenes, client: Client) -> None:
        assert [Answer(200, "1"), Answer(200, "2")] == [
            await client.get(f"/orders/{number}") for number in (1, 2)
        ]
        assert 404 == (await client.get("/nothing/7")).status

    service, snapshot = play(scenes, implementation, scenario)
    assert {
        "GET /orders/{id}": ({"completed": 2}, 100, 0),
        "(unmatched)": ({"completed": 1}, 0, 0),
    } == told(snapshot)
    assert 0 == sum(entry.in_progress for entry in snapshot.requests)
    assert not any(snapshot.scope_errors.values())
    assert [
        {"http.request.method": "GET", "url.path": "/orders/1", "http.response.status_code": 200},
        {"http.request.method": "GET", "url.path": "/orders/2", "http.response.status_code": 200},
        {"http.request.method": "GET", "url.path": "/nothing/7", "http.response.status_code": 404},
    ] == [finished.attributes for finished in service.finished]


@every_framework
def test_a_task_that_outlives_its_request_is_background(
    implementation: str, scenes: type[Scenes]
) -> None:
    """Its time after the response counts for the type, not as active time of a request."""

    async def scenario(service: Scenes, client: Client) -> None:
        assert 200 == (await client.get("/outlived")).status
        await asyncio.gather(*service.background)

    _, snapshot = play(scenes, implementation, scenario)
    assert {"GET /outlived": ({"completed": 1}, 1, 40)} == told(snapshot)


@every_framework
def test_a_task_group_that_fails_is_a_failed_request(
    implementation: str, scenes: type[Scenes]
) -> None:
    """One task's exception cancels the others and ends the request, with all their time."""

    async def scenario(_: Scenes, client: Client) -> None:
        assert 500 == (await client.get("/group")).status

    _, snapshot = play(scenes, implementation, scenario)
    assert {"GET /group": ({"failed": 1}, 5, 0)} == told(snapshot)
    assert 1 == snapshot.coroutine("asyncio.tasks.sleep").wall["cancelled"].count


@every_framework
def test_the_id_comes_from_the_header(implementation: str, scenes: type[Scenes]) -> None:
    """It is cut to 64 characters, as all ids; without the header there is none."""

    async def scenario(_: Scenes, client: Client) -> None:
        await client.get("/orders/1", X_Request_ID="REQ-001")
        await client.get("/orders/1", X_REQUEST_id="x" * 100)
        await client.get("/orders/1")

    service, _ = play(scenes, implementation, scenario)
    assert ["REQ-001", "x" * 64, None] == [finished.id for finished in service.finished]
