"""Real clients of real databases, compiled or not: the application's line awaits their method."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

import pytest
import uvloop
from support.databases import connected, postgres, redis
from support.tracing import every_loop

from aiometrics.pages.snapshot import Snapshot

HERE = __name__.replace(".", "/") + ".py"
LOOPS = pytest.mark.parametrize(
    "make_loop", [asyncio.SelectorEventLoop, uvloop.new_event_loop], ids=["asyncio", "uvloop"]
)
MakeLoop = Callable[[], asyncio.AbstractEventLoop]


@pytest.fixture(scope="module")
def postgres_folder(binary: Callable[..., str]) -> Iterator[str]:
    """The folder of the socket of a PostgreSQL."""
    with postgres(binary) as folder:
        yield folder


@pytest.fixture(scope="module")
def redis_path(binary: Callable[..., str]) -> Iterator[str]:
    """The path of the socket of a Redis."""
    with redis(binary) as path:
        yield path


def record(
    implementation: str,
    make_loop: MakeLoop,
    main: Callable[[], Coroutine[Any, Any, None]],
    **options: Any,
) -> Snapshot:
    """Run ``main()`` on a loop and return the snapshot."""
    with every_loop(implementation, **options) as instrumentation:
        with asyncio.Runner(loop_factory=make_loop) as runner:
            runner.run(main())
        return instrumentation.snapshot()


def waits(seen: Snapshot, function: Callable[..., Any]) -> set[tuple[str, str]]:
    """Return ``yield_point`` and ``awaits`` of where tasks of a function of this file waited."""
    name = f"{__name__}.{function.__qualname__}"
    return {
        (point.yield_point, point.awaits)
        for point in seen.yield_points_of(name)
        if point.waits.count
    }


async def query(connection: Any) -> Any:
    """Ask PostgreSQL for something that takes a while."""
    return await connection.fetchrow("select pg_sleep(0.01)")


QUERY = f"{HERE}:{query.__code__.co_firstlineno + 2} query"


@LOOPS
@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, {(QUERY, "asyncpg.Connection.fetchrow")}),
        ({"library": ["asyncpg"]}, {(QUERY, "asyncpg.Connection.fetchrow")}),
    ],
    ids=["by itself", "library=asyncpg"],
)
def test_asyncpg_is_what_a_query_awaits(
    implementation: str,
    make_loop: MakeLoop,
    postgres_folder: str,
    options: dict[str, Any],
    expected: set[tuple[str, str]],
) -> None:
    """Its protocol is compiled by Cython; the path in its code does not tell whose it is."""
    assert expected == waits(
        run_queries(implementation, make_loop, postgres_folder, **options), query
    )


def run_queries(
    implementation: str, make_loop: MakeLoop, postgres_folder: str, **options: Any
) -> Snapshot:
    """Run queries in tasks of their own, in turn."""
    asyncpg = pytest.importorskip("asyncpg")

    async def main() -> None:
        async with connected(
            lambda: asyncpg.connect(host=postgres_folder, user="tester", database="postgres")
        ) as connection:
            for _ in range(3):
                await asyncio.create_task(query(connection))

    return record(implementation, make_loop, main, **options)


def test_compiled_code_has_its_names(implementation: str, postgres_folder: str) -> None:
    """Where asyncpg counts as the application, its own line waits, by its qualified name."""
    seen = run_queries(
        implementation, asyncio.SelectorEventLoop, postgres_folder, application=["asyncpg"]
    )
    ((place, awaited),) = {labels for labels in waits(seen, query) if "bind_execute" in labels[0]}
    path, _, name = place.partition(" ")
    assert ("asyncpg/protocol/protocol.pyx", "BaseProtocol.bind_execute", "Future") == (
        path.partition(":")[0],
        name,
        awaited,
    )


async def read(client: Any) -> Any:
    """Wait for a list of Redis that stays empty."""
    return await client.blpop("nothing", timeout=0.01)


@LOOPS
def test_redis_is_what_a_command_awaits(
    implementation: str, make_loop: MakeLoop, redis_path: str
) -> None:
    """The client is written in Python."""
    asyncio_client = pytest.importorskip("redis.asyncio")

    async def connect() -> Any:
        client = asyncio_client.Redis(unix_socket_path=redis_path)
        await client.ping()
        return client

    async def main() -> None:
        async with connected(connect) as client:
            client.close = client.aclose
            await asyncio.create_task(read(client))

    expected = {(f"{HERE}:{read.__code__.co_firstlineno + 2} read", "redis.Redis.execute_command")}
    assert expected == waits(record(implementation, make_loop, main), read)


async def connect_nowhere() -> None:
    """Connect to a port at which nothing listens."""
    with pytest.raises(OSError, match="onnect"):
        await asyncio.get_running_loop().create_connection(asyncio.Protocol, "127.0.0.1", 1)


def test_methods_of_uvloop_are_what_is_awaited(implementation: str) -> None:
    """Its loop is compiled by Cython."""

    async def main() -> None:
        await asyncio.create_task(connect_nowhere())

    line = connect_nowhere.__code__.co_firstlineno + 3
    expected = {(f"{HERE}:{line} connect_nowhere", "uvloop.Loop.create_connection")}
    assert expected == waits(record(implementation, uvloop.new_event_loop, main), connect_nowhere)


async def look_up(info: Any, zeroconf: Any) -> Any:
    """Ask for a service that is not there."""
    return await info.async_request(zeroconf, 50)


def test_a_library_with_sources_beside_its_binaries_is_one(implementation: str) -> None:
    """The sources that Cython compiled, which zeroconf ships, are not the application either."""
    zeroconf = pytest.importorskip("zeroconf.asyncio")
    services = pytest.importorskip("zeroconf._services.info")
    assert not services.__file__.endswith(".py")

    async def main() -> None:
        async with zeroconf.AsyncZeroconf(interfaces=["127.0.0.1"]) as client:
            kind = "_nothing._tcp.local."
            info = zeroconf.AsyncServiceInfo(kind, f"none.{kind}")
            await asyncio.create_task(look_up(info, client.zeroconf))

    expected = f"{HERE}:{look_up.__code__.co_firstlineno + 2} look_up"
    seen = record(implementation, asyncio.SelectorEventLoop, main)
    assert {(expected, "zeroconf.ServiceInfo.async_request")} == waits(seen, look_up)
