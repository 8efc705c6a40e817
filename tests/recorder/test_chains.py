"""The tree of awaits: which chains tasks wait by, how long and how often."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from aiometrics.demo.storage import Orders, Pool
from aiometrics.pages.chain_table import ChainTable
from aiometrics.pages.header import PageError
from aiometrics.pages.layout import (
    CHAIN_NODE,
    HEADER,
    MAX_CHAIN_FRAMES,
    OTHER_NODE,
    OTHER_POINT_NODE,
    OWN_CHAIN_NODES,
    Layout,
)
from aiometrics.pages.merge import merged
from aiometrics.pages.page import Page
from aiometrics.pages.reader import read
from aiometrics.pages.snapshot import LEFT_OUT, OTHER, Chain, Snapshot
from aiometrics.testing import ManualClock, traced_loop

LAYOUT = Layout((1_000,), (1_000,), max_coroutines=2, max_yield_points=2, max_requests=1)
MS = 1_000_000


async def pause() -> None:
    """Wait for a tenth of a second."""
    await asyncio.sleep(0.1)


async def by_pause() -> None:
    """Wait by one more coroutine."""
    await pause()


async def twice(clock: ManualClock) -> None:
    """Wait by two chains that end at one yield point, and by one that does not."""
    clock.advance(0.005)
    await by_pause()
    await pause()
    await pause()
    await asyncio.sleep(0.3)


def chains_of(snapshot: Snapshot, function: Any) -> list[Chain]:
    """Return the chains of one coroutine, but for where its tasks end."""
    name = f"{function.__module__}.{function.__qualname__}"
    return [chain for chain in snapshot.chains if chain.coroutine == name and chain.frames]


def line_of(function: Any, offset: int) -> str:
    """Return the place so many lines below the beginning of a function."""
    first = function.__code__.co_firstlineno
    module = function.__module__.replace(".", "/")
    return f"{module}.py:{first + offset} {function.__qualname__}"


def functions(chain: Chain) -> list[str]:
    """Return the names of the functions of a chain."""
    return [frame.rpartition(" ")[2] for frame in chain.frames]


def test_chains_tell_how_long_tasks_waited_by_which_way(implementation: str) -> None:
    """Two awaits of one function that end at one yield point are two chains."""
    with traced_loop(implementation=implementation) as traced:
        traced.run(twice(traced.clock))
        found = chains_of(traced.snapshot(), twice)
    sleeping = line_of(pause, 2)
    by_way: dict[tuple[str, ...], tuple[int, int, int]] = {
        chain.frames[: chain.frames.index(chain.yield_point) + 1]: (
            chain.waits,
            chain.wait_ns,
            chain.active_ns,
        )
        for chain in found
    }
    assert by_way == {
        (line_of(twice, 3), line_of(by_pause, 2), sleeping): (1, 100 * MS, 5 * MS),
        (line_of(twice, 4), sleeping): (1, 100 * MS, 0),
        (line_of(twice, 5), sleeping): (1, 100 * MS, 0),
        (line_of(twice, 6),): (1, 300 * MS, 0),
    }
    assert {"sleep"} == {functions(chain)[-1] for chain in found}
    assert {"asyncio.sleep"} == {chain.awaits for chain in found}


def test_deep_chains_lose_their_middle(implementation: str) -> None:
    """A recursion of any depth takes a limited number of nodes."""

    async def descend(depth: int) -> None:
        await (descend(depth - 1) if depth else asyncio.sleep(0.1))

    with traced_loop(implementation=implementation) as traced:
        traced.run(descend(300))
        (chain,) = chains_of(traced.snapshot(), descend)
    assert MAX_CHAIN_FRAMES + 1 == len(chain.frames)
    assert chain.frames.index(LEFT_OUT) == MAX_CHAIN_FRAMES // 2
    assert "sleep" == functions(chain)[-1]


def test_chains_without_room_are_other(implementation: str) -> None:
    """The tree is bounded: the rest is in one row, and nothing is lost."""

    async def descend(depth: int) -> None:
        await (descend(depth - 1) if depth else asyncio.sleep(0.1))

    async def main() -> None:
        for depth in range(20):
            await descend(depth)

    with traced_loop(implementation=implementation, max_yield_points=4) as traced:
        traced.run(main())
        snapshot = traced.snapshot()
    (other,) = (chain for chain in snapshot.chains if chain.coroutine == OTHER)
    assert (OTHER, (), OTHER, OTHER) == other.labels
    assert other.waits
    assert 20 == sum(chain.waits for chain in snapshot.chains)
    assert 2_000 * MS == sum(chain.wait_ns for chain in snapshot.chains)
    assert 0 == sum(snapshot.overflow.values())


def test_every_way_through_a_recursion_is_met_without_harm(implementation: str) -> None:
    """There are more chains than any cache has room for: the numbers stay exact."""

    async def visit(depth: int) -> None:
        if not depth:
            await asyncio.sleep(0)
            return
        await visit(depth - 1)
        await visit(depth - 1)

    with traced_loop(implementation=implementation, max_yield_points=100) as traced:
        traced.run(visit(10))
        snapshot = traced.snapshot()
    assert 1024 == sum(chain.waits for chain in snapshot.chains)
    assert any(chain.waits for chain in snapshot.chains if chain.coroutine == OTHER)


def test_code_that_is_gone_is_not_taken_for_other_code(implementation: str) -> None:
    """Functions are made and dropped, so that new ones have the addresses of old ones."""

    async def main() -> None:
        for number in range(60):
            scope: dict[str, Any] = {"asyncio": asyncio, "__name__": "made"}
            source = f"async def made_{number}():\n await asyncio.sleep(0.1)\n"
            exec(compile(source, "made.py", "exec"), scope)  # noqa: S102 - as programs do
            await scope[f"made_{number}"]()

    with traced_loop(implementation=implementation) as traced:
        traced.run(main())
        found = chains_of(traced.snapshot(), main)
    names = [functions(chain)[1] for chain in found]
    assert sorted(names) == sorted(f"made_{number}" for number in range(60))
    assert {1} == {chain.waits for chain in found}


@pytest.fixture
def page() -> Page:
    """Return a page with one yield point."""
    made = Page(LAYOUT, blocking_threshold_ns=100)
    made.open("MainThread")
    made.add_yield_point(made.add_coroutine("shop.run"), "shop.py:2 run", "asyncio.sleep")
    return made


def test_nodes_are_found_again_by_the_next_writer(page: Page) -> None:
    """A loop that takes over the page goes on with its tree."""
    node = ChainTable(page).node(("shop.py:1 main", "shop.py:2 run"), 1)
    continued = ChainTable(Page(LAYOUT, 100, memory=page.memory))
    assert node == continued.node(("shop.py:1 main", "shop.py:2 run"), 1)
    assert OWN_CHAIN_NODES + 2 == page.words[HEADER["chain_nodes"]]


def test_the_room_for_names_of_chains_is_their_own(page: Page) -> None:
    """Long names fill it: after that, yield points still find room for theirs."""
    table = ChainTable(page)
    nodes = [table.node((f"{number}".rjust(100, "x"),), 1) for number in range(4)]
    assert [OWN_CHAIN_NODES, OWN_CHAIN_NODES + 1, OTHER_NODE, OTHER_NODE] == nodes
    assert table.full
    assert OTHER_POINT_NODE == table.node(("shop.py:1 main",), 0)
    assert page.add_yield_point(2, "y" * 100, "z" * 100)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"parent": OWN_CHAIN_NODES}, "chain node 2 cannot be below node 2"),
        ({"parent": -2}, "chain node 2 cannot be below node -2"),
        ({"point": 2}, "chain node 2 belongs to yield point 2, but there are 2"),
        ({"place": -1}, "string reference -0x1 points outside"),
    ],
)
def test_nodes_that_make_no_tree_are_refused(
    page: Page, words: dict[str, int], message: str
) -> None:
    """Anybody may have written a page."""
    start = LAYOUT.chain_node(ChainTable(page).node(("shop.py:1 main",), 1))
    for field, value in words.items():
        page.words[start + CHAIN_NODE[field]] = value
    with pytest.raises(PageError, match=message):
        read(page.copy(), 0, 0)


def test_chains_of_several_loops_are_added_up(page: Page) -> None:
    """The same chain on two loops is one branch."""
    start = LAYOUT.chain_node(ChainTable(page).node(("shop.py:1 main", "shop.py:2 run"), 1))
    page.words[start + CHAIN_NODE["wait_ns"]], page.words[start + CHAIN_NODE["waits"]] = 70, 2
    view = read(page.copy(), 0, 0)
    (chain,) = merged([view, view], taken_ns=0, sample_ratio=1.0).chains
    assert ("shop.py:1 main", "shop.py:2 run") == chain.frames
    assert (140, 4) == (chain.wait_ns, chain.waits)


def test_an_application_within_our_package_is_in_its_chains(implementation: str) -> None:
    """The demo is; what else is ours and only passes on is not."""
    application = ["aiometrics.demo"]
    with traced_loop(implementation=implementation, application=application) as traced:
        traced.run(Orders(Pool(1)).fetch(7))
        (chain,) = chains_of(traced.snapshot(), Orders.fetch)
    assert ["Orders.fetch", "sleep"] == functions(chain)
    assert chain.frames[0] == chain.yield_point
