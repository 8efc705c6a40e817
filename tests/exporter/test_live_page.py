"""The live page: what is served of it, and what it does in a browser."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import re
import signal
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from support.browser import Tab, tab
from support.samples import FACTS, coroutine, histogram, loop, request, yield_point
from support.serving import fetch

import aiometrics
from aiometrics.exposition.live import LiveView
from aiometrics.pages.snapshot import Held, RequestWait, SegmentPath, Snapshot

LOCAL = "127.0.0.1"
S, MS = 1_000_000_000, 1_000_000
FILES = Path(aiometrics.__file__).parent / "exporter/live_page"
#: As npm publishes them, in the versions that are in the names of their folders.
DIGESTS = {
    "d3.min.js": "912111098ea99503a6f4967361d2bbdc9dbf58cf9c678c8e27e5b02d1a07f0c1",
    "d3-flamegraph.umd.min.js": "5f8d8bc7bf7f8329248d43c1e215431a88f77e17daa217f3c31b019b8b71b3f7",
    "uPlot.iife.min.js": "19c8d4c6ad88929a79f4ae49d6f7161566dfd0ba3d15cc495e974f787eb78f1f",
    "uPlot.min.css": "df630c6a8d6f8eeaff264b50f73ce5b114f646ffd9a0bb74f049b0a00135fa04",
}
SERVICE = """
import asyncio
import signal
import sys

import aiometrics


async def hold_everybody_up():
    sys.stdin.readline()


async def rank_results():
    sum(range(300_000))
    await asyncio.sleep(0.002)


async def search():
    while True:
        await rank_results()


async def send_receipt():
    await asyncio.sleep(0)
    raise LookupError("no such address")


async def main():
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda *_: None)
    blocks = []
    loop.add_signal_handler(
        signal.SIGUSR1, lambda: blocks.append(asyncio.create_task(hold_everybody_up()))
    )
    exporter = aiometrics.start_exporter(0, "127.0.0.1", registry=None)
    searches = asyncio.create_task(search())
    print(exporter.url.removesuffix("metrics"), flush=True)
    while True:
        await asyncio.wait([asyncio.create_task(send_receipt())])
        await asyncio.sleep(0.05)


asyncio.run(main())
"""


@pytest.fixture
def port() -> Iterator[int]:
    """The port of an exporter."""
    with aiometrics.start_exporter(0, LOCAL, registry=None) as exporter:
        yield exporter.port


def test_everything_that_the_page_needs_is_served_from_the_port(port: int) -> None:
    """Each file that it names is there; the policy allows no others, and no text as a script."""
    response, body = fetch(port, "/")
    policy = response.headers["Content-Security-Policy"]
    assert "default-src 'none'; script-src 'self'; connect-src 'self'; " in policy
    assert "unsafe" not in policy
    assert "frame-ancestors 'none'" in policy
    named = set(re.findall(r'(?:src|href)="(/live/[^"]+)"', body.decode()))
    modules = [fetch(port, f"/live/{path.name}")[1].decode() for path in FILES.glob("*.js")]
    named |= {name for text in modules for name in re.findall(r'(?:from |Worker\()"([^"]+)"', text)}
    served = {name: fetch(port, name)[0] for name in named}
    assert 15 == len(named)
    assert policy == served["/live/reader.js"].headers["Content-Security-Policy"]
    assert {200} == {answer.status for answer in served.values()}
    types = {Path(name).suffix: answer.headers["Content-Type"] for name, answer in served.items()}
    assert {".css": "text/css; charset=utf-8", ".js": "text/javascript; charset=utf-8"} == types
    assert 404 == fetch(port, "/live/../live.py")[0].status
    assert 404 == fetch(port, "/live/vendor/d3-7.9.2/LICENSE")[0].status


def test_libraries_are_as_published_with_their_licences() -> None:
    """Their bytes are those of the release in the name of the folder."""
    vendor = FILES / "vendor"
    found = {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in vendor.glob("*/*.*s")
    }
    assert found == DIGESTS
    assert all((folder / "LICENSE").is_file() for folder in vendor.iterdir())


@asynccontextmanager
async def service(directory: Path) -> AsyncIterator[tuple[asyncio.subprocess.Process, str]]:
    """Run the service in a process of its own; yield the process and the page's address."""
    program = directory / "shop.py"
    program.write_text(SERVICE, encoding="utf-8")
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        str(program),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        assert process.stdout is not None
        yield process, (await process.stdout.readline()).decode().strip()
    finally:
        process.kill()
        await process.communicate()


def in_browser(
    directory: Path,
    path: Callable[[Tab, asyncio.subprocess.Process], object],
) -> None:
    """Open the page of the service and run ``path``; nothing may go wrong in the browser."""

    async def run() -> None:
        async with service(directory) as (process, url), tab() as page:
            await page.open(url)
            await path(page, process)  # type: ignore[misc]
            assert [] == page.errors
            assert {url} == {re.sub(r"(?<=\d/).*", "", asked) for asked in page.requests}

    asyncio.run(run())


@pytest.mark.once
def test_from_the_page_to_the_culprit(binary: Callable[..., str], tmp_path: Path) -> None:
    """The line stands out, its chain opens, and two moments are compared, by mouse and keys."""
    binary("chromium")

    async def path(page: Tab, _: asyncio.subprocess.Process) -> None:
        # On a busy machine, the first card says so.
        culprit = "#findings li:nth-child(1 of .bad)"
        await page.until(
            f"document.querySelector('{culprit}').textContent.includes('rank_results')"
        )
        assert "shop.py:14" in await page.value(f"document.querySelector('{culprit}').textContent")
        # The failing task has a line, that of its last await.
        await page.until("document.querySelector('#findings').textContent.includes('shop.py:24')")
        await page.until("document.querySelector('#measured').textContent.includes('in the last')")
        await page.press("p", "p")
        await page.until("document.body.ariaBusy === 'false'")  # else it still changes
        await page.click(f"{culprit} button")
        await page.until("document.querySelector('#details').open")
        chain = await page.value("document.querySelector('#details .chain').textContent")
        assert "__main__.search" in chain
        assert "rank_results" in chain
        await page.until("document.querySelector('#tasks').textContent.includes('__main__.search')")
        await page.press("Escape")
        await page.until("!document.querySelector('#details').open")
        await page.press("p", "p")
        assert "change" not in await page.value("document.querySelector('#held').textContent")
        await page.press("b", "b")
        await page.until("document.querySelector('#held').textContent.includes('change')")
        await page.until("document.querySelector('#comparison').textContent.includes('Compared')")
        await page.press("b", "b")
        await page.until("!document.querySelector('#held').textContent.includes('change')")
        frame = "[...document.querySelectorAll('#flame .frame')]"
        await page.until(f"{frame}.some((node) => node.textContent.includes('rank_results'))")
        await page.press("/", "/")
        await page.until("document.activeElement.id === 'search'")
        for letter in "receipt":
            await page.press(letter, letter)
        await page.until("!document.querySelector('#held tbody tr')")
        assert "send_receipt" in await page.value("document.querySelector('#findings').textContent")

    in_browser(tmp_path, path)


@pytest.mark.once
def test_a_click_is_not_lost_while_the_page_is_brought_up_to_date(
    binary: Callable[..., str], tmp_path: Path
) -> None:
    """What it was begun on stays until it has ended."""
    binary("chromium")

    async def path(page: Tab, _: asyncio.subprocess.Process) -> None:
        button = "#findings li button"
        await page.until(f"document.querySelector('{button}')")

        async def newer_numbers() -> None:
            await page.until("document.body.ariaBusy === 'true'")
            await page.value("new Promise((done) => setTimeout(done, 500))")
            assert await page.value("!document.querySelector('#details').open")

        await page.click(button, newer_numbers)
        await page.until("document.querySelector('#details').open")

    in_browser(tmp_path, path)


@pytest.mark.once
def test_a_block_is_shown_while_it_lasts(binary: Callable[..., str], tmp_path: Path) -> None:
    """The page names the line that blocks the loop until it is over; a reader is told."""
    binary("chromium")

    async def path(page: Tab, process: asyncio.subprocess.Process) -> None:
        await page.until("document.querySelector('#held tbody tr')")
        assert await page.value("document.querySelector('#alarm').hidden")
        os.kill(process.pid, signal.SIGUSR1)
        await page.until(
            "document.querySelector('#alarm').textContent.includes('shop.py:10 hold_everybody_up')"
        )
        assert (await page.value("document.title")).startswith("BLOCKED")
        assert process.stdin is not None
        process.stdin.write(b"\n")
        await page.until("document.querySelector('#alarm').hidden")

    in_browser(tmp_path, path)


async def wait_for_answer(answered: asyncio.Event) -> None:
    """Wait, for a request."""
    with aiometrics.request("GET /orders"):
        await answered.wait()


@pytest.mark.once
def test_the_requests_of_stuck_tasks_are_named(binary: Callable[..., str], port: int) -> None:
    """They are asked for, and are known a little later."""
    binary("chromium")
    stuck = {
        "coroutine": f"{__name__}.{wait_for_answer.__name__}",
        "place": f"test_live_page.py:1 {wait_for_answer.__name__}",
    }

    async def look() -> None:
        answered = asyncio.Event()
        waiting = asyncio.create_task(wait_for_answer(answered))
        async with tab() as page:
            await page.open(f"http://{LOCAL}:{port}/")
            await page.value(
                "import('/live/tasks.js')"
                ".then((tasks) => { window.requests = new tasks.RequestsOfStuck(); })"
            )
            asked = f"window.requests.text({json.dumps(stuck)})"
            assert "" == await page.value(asked)
            await page.until(f"{asked} === 'They work for GET /orders.'")
        answered.set()
        await waiting

    asyncio.run(look())


def ten_seconds() -> Snapshot:
    """Return a service that has everything wrong, seen ten seconds after its start."""
    pay, rank, write = "shop/pay.py:3 charge", "shop/find.py:7 rank", "shop/export.py:5 write"
    return Snapshot(
        10 * S,
        loops=(
            replace(
                loop(active_ns=6 * S, idle_ns=4 * S, blocking_ns=3 * S),
                thread_cpu_ns=2 * S,
                thread_runqueue_ns=4 * S,
                block_samples={pay: 60},
            ),
        ),
        held=(
            Held("shop.pay", pay, 60, 3 * S),
            Held("shop.find", rank, 50, 5 * S // 2),
            Held("shop.export", write, 42, 21 * S // 10),
            Held("shop.serve", "aiohttp/http_writer.py:1 send", 30, 3 * S // 2),
        ),
        yield_points=(
            yield_point(
                "shop/export.py:6 write",
                coroutine="shop.export",
                segments=histogram(100_000, sum_ns=1300 * MS),
            ),
            yield_point(pay, coroutine="shop.pay", segments=histogram(0, 10, sum_ns=2700 * MS)),
            yield_point(
                "shop/find.py:8 rank",
                coroutine="shop.find",
                segments=histogram(0, 10, sum_ns=400 * MS),
            ),
            yield_point(
                "shop/find.py:2 rank",
                coroutine="shop.find",
                segments=histogram(0, 1, sum_ns=100 * MS),
            ),
            yield_point(
                "shop/pay.py:9 confirmed",
                coroutine="shop.settle",
                awaits="Future",
                suspended=3,
                oldest_suspension_ns=2 * S,
                waits=histogram(0, 100, sum_ns=3 * S),
                wait_tasks=100,
            ),
        ),
        segment_paths=(
            SegmentPath("shop.mail", "(start)", "(raise)", 1, MS),
            SegmentPath("shop.mail", "shop/mail.py:4 mail", "(raise)", 4, MS),
        ),
        coroutines=(
            coroutine("shop.mail", wall={"completed": histogram(11), "failed": histogram(5)}),
            coroutine("shop.ask", wall={"completed": histogram(19), "cancelled": histogram(13)}),
            coroutine("shop.settle", wall={"completed": histogram(0, 100)}),
        ),
        requests=(
            request(
                "GET /",
                wall={"completed": histogram(0, 300, sum_ns=90 * S)},
                active=histogram(300, sum_ns=3 * S),
                objective_ns=200 * MS,
                violations=121,
            ),
            request("GET /late", in_progress=2, objective_ns=200 * MS, violations=2),
        ),
        request_waits=(RequestWait("GET /", "asyncio._ContextManagerMixin.__aenter__", 60 * S),),
    )


def findings(port: int, *seen: Snapshot) -> Any:
    """Return the kind, tone, place and text of what the page finds between two snapshots.

    With a single one, that is since the start.
    """
    answers = [json.loads(b"".join(LiveView().slices(one, FACTS))) for one in seen]

    async def find() -> Any:
        async with tab() as page:
            await page.open(f"http://{LOCAL}:{port}/")
            return await page.value(
                "Promise.all(['columns', 'numbers', 'findings'].map((name) => "
                "import(`/live/${name}.js`))).then(([{ Columns }, { History }, { findings }]) => { "
                "const history = new History(), columns = new Columns(); "
                f"for (const answer of {json.dumps(answers)}) history.add(columns.of(answer)); "
                "const last = history.moments.at(-1), [first] = history.moments.slice(0, -1); "
                "return findings(history.gained(last, first), history.latest, history)"
                ".map(({ kind, tone, place, text }) => [kind, tone, place ?? '', text]); })"
            )

    return asyncio.run(find())


@pytest.mark.once
def test_findings_say_what_they_cost_and_causes_come_first(
    binary: Callable[..., str], port: int
) -> None:
    """A small share is no finding, nor is a busy line of a function that has a better one."""
    binary("chromium")
    nothing = Snapshot(0, loops=(loop(),))
    found = findings(port, nothing, ten_seconds())
    assert [
        ("machine busy", "aside", ""),
        ("blocks the loop", "bad", "shop/pay.py:3 charge"),
        ("stuck", "bad", "shop/pay.py:9 confirmed"),
        ("fails", "bad", "shop/mail.py:4 mail"),
        ("tiny steps", "warn", "shop/export.py:6 write"),
        ("busy line", "warn", "shop/find.py:7 rank"),
        ("too slow", "warn", "GET /late"),
        ("too slow", "warn", "GET /"),
        ("cancelled", "aside", "shop.ask"),
    ] == [(kind, tone, place) for kind, tone, place, _ in found]
    for (kind, _, _, text), said in zip(
        found,
        (
            "waited for a CPU for 40 % of the time",
            "30 % of the loop's time, in long runs without an await (about 270 ms each): all other",
            "3 tasks wait here for Future, the oldest for 8.0 s; usually it takes 30 ms.",
            "Of 16 tasks of shop.mail, 5 ended with an exception, mostly after the await",
            "after 13 µs of work each time. To switch to the next task costs the loop 15 µs, more",
            "25 % of the loop's time, mostly in short runs (about 40 ms each): other",
            "2 of 2 requests took longer than 200 ms, their objective. None has ended.",
            (
                "121 of 300 requests took longer than 200 ms, their objective. "
                "On average they take 300 ms, 10 ms of it on the loop. "
                "They wait most for a lock (async with). "
                "They wait for the loop too: it was blocked for 30 % of the time."
            ),
            "Of 32 tasks of shop.ask, 13 were cancelled. That may be normal",
        ),
        strict=True,
    ):
        assert said in text, kind


@pytest.mark.once
@pytest.mark.parametrize("before", [(), (Snapshot(0, loops=(loop("0"), loop("1"))),)])
def test_shares_are_of_the_time_of_all_loops_and_rates_are_not(
    binary: Callable[..., str], port: int, before: tuple[Snapshot, ...]
) -> None:
    """Ten seconds of two workers are ten seconds, of which their loops have twenty together."""
    binary("chromium")
    place = "shop/find.py:7 rank"
    loops = (
        replace(loop("0", active_ns=6 * S, idle_ns=4 * S), thread_runqueue_ns=3 * S),
        loop("1", active_ns=S, idle_ns=9 * S),
    )
    seen = Snapshot(10 * S, loops=loops, held=(Held("shop.find", place, 120, 6 * S),))
    texts = {kind: text for kind, _, _, text in findings(port, *before, seen)}
    assert (
        "the loop 0 was ready, but waited for a CPU for 30 % of the time" in texts["machine busy"]
    )
    assert "took 30 % of the time of all 2 loops, " in texts["busy line"]
    assert "In all, they were busy for 35 %." in texts["busy line"]
