"""Short runs of the attacks in ``tests/fuzz``; ``python -m fuzz`` makes long ones."""

from __future__ import annotations

import asyncio
import http.client
import os
import random
import struct
from argparse import Namespace
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from dataclasses import replace

import pytest
from support.serving import Serve, ask, http_threads

from aiometrics.base.http.server import HttpServer, Response
from aiometrics.pages import merge, reader
from aiometrics.pages.header import PageError
from aiometrics.pages.layout import CHAIN_NODE, NAME_BYTES, OWN_CHAIN_NODES, WORD
from aiometrics.pages.page import Page
from aiometrics.pages.reader import PageView, read
from aiometrics.recorder.implementation import IMPLEMENTATIONS
from fuzz import attacks, core, messages, pages
from fuzz.__main__ import _in_processes
from fuzz.mutations import Mutator

#: A body that no socket accepts at once, compressed or not.
LARGE = random.Random(1).randbytes(8 << 20)  # noqa: S311 - only its size matters


@pytest.mark.once
def test_reader_refuses_broken_pages_and_does_nothing_else() -> None:
    """Some thousand pages are refused for all kinds of reasons, or accepted.

    Pages that are accepted can be rendered and continued.
    """
    report = pages.campaign(3000, seed=7)

    assert {} == report.findings
    assert 3000 < report.cases
    assert 300 < report.accepted
    assert 100 < report.rendered
    assert 20 < report.continued
    assert 15 < len(report.refusals)


@pytest.mark.once
@pytest.mark.skipif("c" not in IMPLEMENTATIONS, reason="the C core is not installed")
def test_the_core_stays_within_broken_pages() -> None:
    """It takes some, declines others, and writes what it took."""
    report = core.campaign(2000, seed=7)

    assert {} == report.findings
    assert 500 < report.written
    assert 100 < report.declined


def test_pages_are_valid_before_they_are_broken() -> None:
    """A campaign starts with pages that have content of every kind."""
    _, full, blocked = (read(data, pages.NOW_NS, pages.UNIX_NS) for data in pages.seeds())

    assert (3, 3, 2, 4) == (
        len(full.coroutines) - 2,
        len(full.yield_points) - 6,
        len(full.requests) - 1,
        len(full.request_waits),
    )
    assert full.loop.block_samples
    assert any(chain.frames for chain in full.chains)
    assert len(full.held) == 2
    assert full.errors
    assert any(point.exemplar for point in full.yield_points)
    assert blocked.loop.running


@pytest.mark.once
def test_campaign_finds_a_missing_check() -> None:
    """It is run with a reader that lacks one check."""

    def careless(data: bytes, now_ns: int, unix_ns: int) -> PageView:
        try:
            return read(data, now_ns, unix_ns)
        except PageError as error:
            if "belongs to coroutine" in str(error):
                raise IndexError(str(error)) from None
            raise

    found = pages.campaign(1000, 7, read=careless).findings

    assert found
    assert all("IndexError" in trace for trace in found)
    for data in found.values():
        with pytest.raises(PageError, match="belongs to coroutine"):
            read(data, pages.NOW_NS, pages.UNIX_NS)


@pytest.mark.once
@pytest.mark.skipif("c" not in IMPLEMENTATIONS, reason="the C core is not installed")
def test_campaign_finds_a_wrong_merge(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is run with a merge that keeps the shortest maximum and the oldest exemplar."""
    monkeypatch.setattr(merge, "max", min, raising=False)

    found = pages.campaign(1, 7).findings

    assert found
    assert all("the C core writes a page in another way" in trace for trace in found)


def crash(_cases: int, _seed: int) -> core.Report:
    """End the process, as a fault in C does."""
    os._exit(1)


def test_a_crash_ends_the_campaign() -> None:
    """It would else wait for ever for a result."""
    options = Namespace(cases=1, seed=1, jobs=1, keep=None)
    with pytest.raises(BrokenProcessPool):
        _in_processes(crash, options)


def test_references_point_before_the_strings_too() -> None:
    """Those of chains, for instance, have a sound length then."""
    _, full, _ = pages.seeds()
    mutate = Mutator(random.Random(1))  # noqa: S311 - the test must be reproducible
    place = (pages.LAYOUT.chain_node(OWN_CHAIN_NODES) + CHAIN_NODE["place"]) * WORD
    found = {
        struct.unpack_from("q", mutate._reference(bytearray(full), full), place)[0]
        for _ in range(3000)
    }

    assert any(0 < reference & 0xFFFF_FFFF <= NAME_BYTES for reference in found if reference < 0)


def test_names_are_limited_when_written_and_when_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """A long string to which every record refers would make a reader write gigabytes."""
    page = Page(pages.LAYOUT, blocking_threshold_ns=100)
    number = page.add_coroutine("x" * (NAME_BYTES + 5))
    page.words[page.layout.coroutine(number) + 1] = 1
    (named,) = (entry.coroutine for entry in read(page.copy(), 0, 0).coroutines)

    assert "x" * NAME_BYTES == named
    monkeypatch.setattr(reader, "NAME_BYTES", NAME_BYTES - 1)
    with pytest.raises(PageError, match="a name of at most 1023 bytes cannot have 1024"):
        read(page.copy(), 0, 0)


def test_parser_refuses_broken_requests_and_does_nothing_else() -> None:
    """Of several thousand requests, some are accepted, and the others refused with every status."""
    report = messages.campaign(5000, seed=3)

    assert {} == report.findings
    assert 500 < report.accepted
    assert {400, 411, 413, 414, 417, 431, 505} == set(report.refusals)


def answered(server: HttpServer) -> bool:
    """Whether a client gets a response.

    On a busy machine a client may be too slow for this server, and then it tries again.
    """
    for _ in range(1000):
        with suppress(OSError, http.client.HTTPException):
            if ask(server, "/metrics")[0] == http.client.OK:
                return True
    return False


#: This attack requests thousands of responses, which take a while.
SLOWEST = "pipeliner"


@pytest.mark.parametrize(
    "attack",
    [
        pytest.param(
            attack, id=attack.name, marks=[pytest.mark.long] if attack.name == SLOWEST else []
        )
        for attack in attacks.ATTACKS.values()
        if not attack.guard
    ],
)
def test_endpoint_answers_after_an_attack(serve: Serve, attack: attacks.Attack) -> None:
    """Twice as many clients attack as the server has room for, and each connects twice.

    None of them keeps a thread or causes an error.
    """
    others = http_threads()  # of a server that another test has left, which may end at any time
    server = serve(routes={"/metrics": lambda _: Response(200, LARGE)}, request_timeout=0.1)
    outcome = attacks.Outcome()
    asyncio.run(
        attacks.attack(
            replace(attack, clients=32), server.port, outcome, times=2, pace_seconds=0.01
        )
    )

    assert answered(server)
    assert 64 == outcome.connections == outcome.answers.total()
    assert "not connected" not in outcome.answers
    assert 17 >= len([thread for thread in http_threads() if thread not in others])
    assert [] == serve.errors
