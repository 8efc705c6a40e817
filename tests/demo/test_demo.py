"""The demo: each fault alone, exact in virtual time, and the whole as users start it."""

from __future__ import annotations

import asyncio
import difflib
import inspect
import re
import signal
import socket
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from operator import attrgetter
from pathlib import Path
from types import SimpleNamespace

import pytest
from aiohttp.test_utils import TestClient, TestServer

from aiometrics.demo import payments
from aiometrics.demo.catalogue import PRODUCTS, Catalogue
from aiometrics.demo.delivery import Delivery
from aiometrics.demo.faults import SYMPTOMS, Fault, legend
from aiometrics.demo.payments import LOST_AT_MOST, Payments
from aiometrics.demo.service import OBJECTIVES, Shop
from aiometrics.demo.storage import Orders, Pool, Stock
from aiometrics.pages.snapshot import YieldPoint
from aiometrics.testing import TracedLoop, traced_loop

MS, S = 1_000_000, 1_000_000_000


#: A place in the demo as the documentation quotes it.
QUOTED = re.compile(r"aiometrics/demo/(?P<file>\w+)\.py:(?P<line>\d+) (?P<function>[\w.]+)")


@pytest.fixture
def traced() -> Iterator[TracedLoop]:
    """A virtual loop that counts the demo as application code, as the demo itself does."""
    with traced_loop(application=["aiometrics.demo"]) as loop:
        yield loop


def points(traced: TracedLoop, function: str) -> list[YieldPoint]:
    """Return the yield points in one function, in the order of their first use."""
    return [
        point
        for point in traced.snapshot().yield_points
        if point.yield_point.endswith(f" {function}")
    ]


@pytest.mark.parametrize(("compares_all", "segments_ns"), [(True, 30 * MS), (False, 0)])
def test_cpu_between_two_awaits(
    compares_all: bool,  # noqa: FBT001
    segments_ns: int,
    traced: TracedLoop,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The comparison is charged to the await after it; without the fault there is none."""

    def slow(*_: object, **__: object) -> list[str]:
        traced.clock.advance(0.03)
        return ["green woven lamp"]

    monkeypatch.setattr(difflib, "get_close_matches", slow)
    found = traced.run(
        Catalogue(compares_all=compares_all, yields_each_row=False).rank_results("green woven lamp")
    )
    assert "lamp" in found[0]
    assert [0, segments_ns] == [
        point.segments.sum_ns for point in points(traced, "Catalogue.rank_results")
    ]


def test_search_tolerates_misspelling() -> None:
    """The comparison tolerates misspelling."""
    found = asyncio.run(
        Catalogue(compares_all=True, yields_each_row=False, cache_seconds=0).rank_results(
            "gren woven lmap"
        )
    )
    assert "green woven lamp" == found[0]


def test_time_sleep_on_the_loop_blocks_it(
    traced: TracedLoop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A synchronous client library makes the whole charge one blocking segment."""
    monkeypatch.setattr(payments, "time", SimpleNamespace(sleep=traced.clock.advance))
    traced.run(
        Payments(blocking=True, loses_confirmations=False, fails=False).charge_card(
            charge_seconds=0.12
        )
    )
    assert [120 * MS] == [point.blocking_ns for point in points(traced, "Payments.charge_card")]
    assert 120 * MS == traced.snapshot().loops[0].blocking_ns


@pytest.mark.parametrize("blocking", [True, False])
def test_a_shop_without_faults_charges_beside_the_loop(
    blocking: bool,  # noqa: FBT001
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The client library runs on the loop's thread only with the fault."""
    threads: list[threading.Thread] = []
    monkeypatch.setattr(
        payments,
        "time",
        SimpleNamespace(sleep=lambda _: threads.append(threading.current_thread())),
    )
    asyncio.run(
        Payments(blocking=blocking, loses_confirmations=False, fails=False).charge_card(
            audit_seconds=0
        )
    )
    assert [blocking] == [thread is threading.main_thread() for thread in threads]


@pytest.mark.parametrize("blocking", [True, False])
def test_a_shop_without_faults_queries_beside_the_loop(
    blocking: bool,  # noqa: FBT001
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The query runs on the loop's thread only with the fault."""
    threads: list[threading.Thread] = []

    def take(_: int) -> int:
        threads.append(threading.current_thread())
        return 0

    stock = Stock(blocking=blocking, rows=997, audit_seconds=0)
    monkeypatch.setattr(stock, "_take", take)
    asyncio.run(stock.reserve_stock(1))
    stock.close()
    assert [blocking] == [thread is threading.main_thread() for thread in threads]


def test_sqlite_on_the_loop_is_charged_to_the_reservation(
    traced: TracedLoop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The query's time is in the segment that ended in ``reserve_stock``."""

    def take(_: int) -> int:
        traced.clock.advance(0.015)
        return 0

    stock = Stock(blocking=True, rows=997)
    monkeypatch.setattr(stock, "_take", take)
    traced.run(stock.reserve_stock(1))
    stock.close()
    assert [15 * MS] == [point.segments.sum_ns for point in points(traced, "Stock.reserve_stock")]


def test_the_stock_sinks_with_every_reservation() -> None:
    """Of two pieces one is left, then none."""
    stock = Stock(blocking=True, rows=997, audit_seconds=0)
    left = [asyncio.run(stock.reserve_stock(1)), asyncio.run(stock.reserve_stock(1))]
    stock.close()
    assert [1, 0] == left


def test_a_small_pool_makes_its_users_queue(traced: TracedLoop) -> None:
    """Of six one-second queries over two connections, two queue for one second and two for two."""
    orders = Orders(Pool(2), query_seconds=1.0)

    async def six() -> None:
        await asyncio.gather(*map(orders.fetch, range(6)))

    traced.run(six())
    (queue,) = points(traced, "Pool.acquire")
    assert ("asyncio.Semaphore.acquire", 4, 6 * S) == (
        queue.awaits,
        queue.waits.count,
        queue.waits.sum_ns,
    )


def test_with_enough_connections_there_is_no_queue(traced: TracedLoop) -> None:
    """With a connection for everyone there is no queue."""
    orders = Orders(Pool(6))

    async def six() -> None:
        await asyncio.gather(*map(orders.fetch, range(6)))

    traced.run(six())
    assert [] == points(traced, "Pool.acquire")


@pytest.mark.parametrize(("loses", "stuck"), [(True, LOST_AT_MOST), (False, 0)])
def test_lost_confirmations_leave_tasks_stuck(loses: bool, stuck: int, traced: TracedLoop) -> None:  # noqa: FBT001
    """Payments without confirmation wait for ever; there are never more than a few."""
    shop = Payments(blocking=True, loses_confirmations=loses, fails=False)

    async def twenty() -> None:
        for _ in range(20):
            await shop.charge_card(charge_seconds=0)
        await asyncio.sleep(3600)

    traced.run(twenty())
    (waiting,) = points(traced, "Payments.wait_for_confirmation")
    assert (stuck, 20 - stuck) == (waiting.suspended, waiting.waits.count)


@pytest.mark.parametrize(("fails", "endings"), [(True, [4, 2, 0]), (False, [6, 0, 0])])
def test_failing_receipts(fails: bool, endings: list[int], traced: TracedLoop) -> None:  # noqa: FBT001
    """Every third receipt fails in a task of its own, and the payment goes on."""
    shop = Payments(blocking=True, loses_confirmations=False, fails=fails)

    async def six() -> None:
        for _ in range(6):
            await shop.charge_card(charge_seconds=0)
        await asyncio.sleep(1)

    traced.run(six())
    wall = traced.snapshot().coroutine("aiometrics.demo.payments.Payments.send_receipt").wall
    assert endings == [wall[status].count for status in ("completed", "failed", "cancelled")]


def test_the_slower_warehouse_is_cancelled(traced: TracedLoop) -> None:
    """A hedged question is asked twice and cancelled once."""

    async def hedged() -> int:
        days = await Delivery(hedges=True).days()
        await asyncio.sleep(1)
        return days

    assert 1 == traced.run(hedged())
    wall = traced.snapshot().coroutine("aiometrics.demo.delivery.Delivery.ask_warehouse").wall
    assert [1, 0, 1] == [wall[status].count for status in ("completed", "failed", "cancelled")]


def test_a_shop_without_faults_asks_one_warehouse(traced: TracedLoop) -> None:
    """Without hedging there is no second task."""
    assert 1 == traced.run(Delivery(hedges=False).days())
    assert 1 == sum(entry.created for entry in traced.snapshot().coroutines)


@pytest.mark.parametrize("yields_each_row", [True, False])
def test_tiny_segments(yields_each_row: bool, traced: TracedLoop) -> None:  # noqa: FBT001
    """The export gives the loop back after each row, or not at all; its rows are the same."""
    rows = traced.run(
        Catalogue(compares_all=False, yields_each_row=yields_each_row).write_rows()
    ).splitlines()
    assert (1200, "0,amber,arched,basket") == (len(rows), rows[0])
    assert [len(PRODUCTS)] * yields_each_row == [
        point.segments.count for point in points(traced, "Catalogue.write_rows")
    ]


@pytest.mark.asyncio
async def test_the_shop_serves() -> None:
    """Every address answers as documented, and an empty search is refused."""
    async with TestClient(TestServer(Shop(frozenset()).application())) as client:
        assert {"order": 7, "pieces": 2} == await (await client.get("/orders/7")).json()
        assert ["amber arched lamp", "amber folding lamp", "amber hanging lamp"] == await (
            await client.get("/search?q=lamp")
        ).json()
        assert "text/csv" == (await client.get("/export")).content_type
        assert {"payment", "left", "days"} == set(await (await client.post("/checkout")).json())
        assert (400, 404, 405) == tuple(
            [(await client.get(path)).status for path in ("/search?q=", "/orders/x", "/checkout")],
        )


@pytest.mark.asyncio
async def test_every_route_has_an_objective() -> None:
    """Exactly the types of requests of the shop's routes have objectives."""
    app = Shop(frozenset()).application()
    async with TestServer(app):
        types = {
            f"{route.method} {route.resource.canonical}"
            for route in app.router.routes()
            if route.resource
        }
    assert set(OBJECTIVES) == {name for name in types if not name.startswith("HEAD ")}


def test_places_in_the_documentation_are_current(root: Path) -> None:
    """Each quoted line is inside of the function that is quoted with it, and can block or wait."""
    documents = [path.read_text(encoding="utf-8") for path in (root / "docs").glob("*.md")]
    places = {found.groups() for text in documents for found in QUOTED.finditer(text)}
    assert places
    for file, line, name in places:
        function = attrgetter(name)(import_module(f"aiometrics.demo.{file}"))
        source, first = inspect.getsourcelines(function)
        assert int(line) in range(first, first + len(source)), (file, line, name)
        assert re.search("await |time.sleep|get_close_matches", source[int(line) - first])


def test_the_legend_names_every_function() -> None:
    """The demo names the functions to look for; without faults it says so."""
    lines = legend(frozenset(Fault)).splitlines()
    assert list(Fault) == [line.split()[0] for line in lines]
    assert "  none" == legend(frozenset())


@contextmanager
def demo(*arguments: str) -> Iterator[subprocess.Popen[str]]:
    """Run the demo as users do, on a free port, and end it if it does not end by itself."""
    program = [sys.executable, "-m", "aiometrics", "demo", *arguments]
    with subprocess.Popen(
        program, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            yield process
        finally:
            process.terminate()


def first_table(process: subprocess.Popen[str]) -> str:
    """Return the demo's output up to the title of its first table, or until it ends."""
    assert process.stdout is not None
    lines = []
    for line in process.stdout:
        lines.append(line)
        if line.startswith("HOTSPOTS"):
            break
    return "".join(lines)


def shown(text: str) -> set[str]:
    """Return the functions with faults that a table or a response names."""
    functions = {function for symptom in SYMPTOMS.values() for function in symptom.functions}
    return {function for function in functions if re.search(rf"[ .]{re.escape(function)}\b", text)}


def complaints(err: str) -> list[str]:
    """Return the lines on standard error, without those of the watchdog."""
    return [
        line
        for line in err.splitlines()
        if not re.match(r"aiometrics: (loop \S+ has been blocked for|blocks at) ", line)
    ]


def served(page: str) -> set[str]:
    """Return the types of requests of which some were completed."""
    return set(
        re.findall(
            r'^asyncio_request_wall_seconds_count\{request="(.*)",status="completed"\} [1-9]',
            page,
            flags=re.MULTILINE,
        )
    )


def test_the_demo_shows_all_six_faults() -> None:
    """Tables and metrics name each fault's functions, and every type of request is served.

    Terminated, the demo ends well.
    """
    expected, kinds = (
        {function for symptom in SYMPTOMS.values() for function in symptom.functions},
        set(OBJECTIVES),
    )
    found: tuple[set[str], set[str], set[str]] = set(), set(), set()
    tables = ""
    with demo("--every", "2", "--port", "0") as process:
        welcome = first_table(process)
        url = welcome.split("metrics  ")[1].split()[0]
        for _ in range(150):
            # On a busy machine one table may have no room for all faults.
            tables += first_table(process)
            with urllib.request.urlopen(url) as response:  # noqa: S310 - http, to itself
                page = response.read().decode()
            found = shown(tables), shown(page), served(page)
            if found == (expected, expected, kinds):
                break
        process.terminate()
        out, err = process.communicate()
    assert (expected, expected, kinds) == found
    assert (0, []) == (process.returncode, complaints(err))
    assert "HOTSPOTS since the start" in out
    assert f"live     {url.removesuffix('metrics')} " in welcome
    assert 100 >= max(map(len, f"{tables}{out}".splitlines()))


def test_the_demo_ends_when_its_time_is_up() -> None:
    """It prints its last table before."""
    with demo("--for", "0.5", "--every", "0.2", "--port", "0") as process:
        out, err = process.communicate()
    assert (0, []) == (process.returncode, complaints(err))
    assert "HOTSPOTS since the start" in out


def test_ctrl_c_is_clean() -> None:
    """Interrupted, the demo prints its last table and ends with 130, without a traceback."""
    before = signal.signal(
        signal.SIGINT, signal.default_int_handler
    )  # a background job ignores it, and so would its children
    try:
        with demo("--port", "0", "--every", "0.5") as process:
            first_table(process)
            process.send_signal(signal.SIGINT)
            out, err = process.communicate()
    finally:
        signal.signal(signal.SIGINT, before)
    assert (130, []) == (process.returncode, complaints(err))
    assert "HOTSPOTS since the start" in out


def test_a_taken_port_is_one_line() -> None:
    """If the port is taken the demo says so, with the port, and starts nothing."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with demo("--port", str(port)) as process:
            out, err = process.communicate()
    assert (1, "") == (process.returncode, out)
    assert 1 == len(err.splitlines())
    assert f"port {port}" in err
