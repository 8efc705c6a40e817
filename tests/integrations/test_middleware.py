"""Every middleware on real servers and frameworks: the metrics of each request, exactly."""

from __future__ import annotations

import asyncio

import pytest
from support.services import AiohttpService, Service, StarletteService, request_totals, run_scenario
from support.web_servers import Answer, Client

every_framework = pytest.mark.parametrize(
    "service_class", [StarletteService, AiohttpService], ids=["Starlette", "aiohttp"]
)


@every_framework
def test_requests_on_one_connection_are_separate(
    implementation: str, service_class: type[Service]
) -> None:
    """Three requests of two types on one connection each have their own time.

    That includes the time of child tasks.
    """

    async def scenario(_: Service, client: Client) -> None:
        assert [Answer(200, "1"), Answer(200, "2")] == [
            await client.get(f"/orders/{number}") for number in (1, 2)
        ]
        assert 404 == (await client.get("/nothing/7")).status

    service, snapshot = run_scenario(service_class, implementation, scenario)
    assert {
        "GET /orders/{id}": ({"completed": 2}, 100, 0),
        "(unmatched)": ({"completed": 1}, 0, 0),
    } == request_totals(snapshot)
    assert 0 == sum(entry.in_progress for entry in snapshot.requests)
    assert not any(snapshot.scope_errors.values())
    assert [
        {"http.request.method": "GET", "url.path": "/orders/1", "http.response.status_code": 200},
        {"http.request.method": "GET", "url.path": "/orders/2", "http.response.status_code": 200},
        {"http.request.method": "GET", "url.path": "/nothing/7", "http.response.status_code": 404},
    ] == [finished.attributes for finished in service.finished]


@every_framework
def test_a_task_that_outlives_its_request_is_background(
    implementation: str, service_class: type[Service]
) -> None:
    """Its time after the response counts for the type, not as active time of a request."""

    async def scenario(service: Service, client: Client) -> None:
        assert 200 == (await client.get("/outlived")).status
        await asyncio.gather(*service.background)

    _, snapshot = run_scenario(service_class, implementation, scenario)
    assert {"GET /outlived": ({"completed": 1}, 1, 40)} == request_totals(snapshot)


@every_framework
def test_a_task_group_that_fails_is_a_failed_request(
    implementation: str, service_class: type[Service]
) -> None:
    """One task's exception cancels the others and ends the request, with all their time."""

    async def scenario(_: Service, client: Client) -> None:
        assert 500 == (await client.get("/group")).status

    _, snapshot = run_scenario(service_class, implementation, scenario)
    assert {"GET /group": ({"failed": 1}, 5, 0)} == request_totals(snapshot)
    assert 1 == snapshot.coroutine("asyncio.tasks.sleep").wall["cancelled"].count


@every_framework
def test_the_id_comes_from_the_header(implementation: str, service_class: type[Service]) -> None:
    """It is cut to 64 characters, as all ids; without the header there is none."""

    async def scenario(_: Service, client: Client) -> None:
        await client.get("/orders/1", X_Request_ID="REQ-001")
        await client.get("/orders/1", X_REQUEST_id="x" * 100)
        await client.get("/orders/1")

    service, _ = run_scenario(service_class, implementation, scenario)
    assert ["REQ-001", "x" * 64, None] == [finished.id for finished in service.finished]
