"""Profiles over HTTP, and as other programs read them."""

from __future__ import annotations

import asyncio
import gc
import json
import re
import subprocess
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from support import pprof_proto
from support.serving import fetch

import aiometrics
from aiometrics.base.http.messages import Request, Response
from aiometrics.base.yielding import no_pause
from aiometrics.exporter.profiles import Profiles
from aiometrics.testing import TracedLoop, traced_loop

LOCAL = "127.0.0.1"
GUARD_SECONDS = 300


@pytest.fixture
def exporter() -> Iterator[aiometrics.Exporter]:
    """A running exporter of our metrics alone."""
    with aiometrics.start_exporter(0, LOCAL, registry=None, application=[__name__]) as running:
        yield running


@pytest.fixture
def traced(implementation: str) -> Iterator[TracedLoop]:
    """A virtual loop, traced by each recorder."""
    with traced_loop(implementation=implementation, application=[__name__]) as made:
        yield made


def profiles_of(traced: TracedLoop, rest: Callable[[float], object] | None = None) -> Profiles:
    """Return the profiles of a virtual loop, in its time, which passes while a profile rests."""
    return Profiles(
        traced.snapshot,
        no_pause,
        16,
        rest=rest or traced.clock.advance,
        clock=lambda: traced.clock() / 1e9,
        lineages=lambda: traced.instrumentation.live_tasks.lineages,
    )


def ask(profiles: Profiles, target: str) -> Response:
    """Ask a route."""
    path, _, query = target.partition("?")
    return profiles.routes[f"/debug/pprof/{path}"](Request("GET", path, query, {}))


def get(exporter: aiometrics.Exporter, path: str) -> tuple[int, str, bytes]:
    """Return status, content type and body of a response."""
    answer, body = fetch(exporter.port, path)
    return answer.status, answer.getheader("Content-Type", ""), body


async def worker(traced: TracedLoop, rounds: int) -> None:
    """Compute for 2 s and wait for 3 s, some times."""
    for _ in range(rounds):
        traced.clock.advance(2)
        await asyncio.sleep(3)


def totals(response: Response) -> tuple[int, int, int]:
    """Return the sums of a profile in seconds, and the number of waits."""
    assert 200 == response.status
    parsed = pprof_proto.parse(response.body)
    active, wait = parsed.total("active"), parsed.total("wait")
    assert (0, 0) == (active % 1_000_000_000, wait % 1_000_000_000)
    return active // 1_000_000_000, wait // 1_000_000_000, parsed.total("count")


def test_a_profile_without_seconds_is_since_the_start(traced: TracedLoop) -> None:
    """Its sums are exact; asking again gives no less."""
    profiles = profiles_of(traced)
    traced.run(worker(traced, 2))
    assert (4, 6, 2) == totals(ask(profiles, "profile"))
    traced.run(worker(traced, 1))
    assert (6, 9, 3) == totals(ask(profiles, "profile"))


async def outer(traced: TracedLoop) -> None:
    """Wait below another coroutine."""
    await worker(traced, 1)


def test_stacks_are_chains_of_awaits(traced: TracedLoop) -> None:
    """Outermost first, by each caller; what is awaited is innermost."""

    async def main() -> None:
        await outer(traced)
        await worker(traced, 1)

    traced.run(main())
    found = pprof_proto.parse(ask(profiles_of(traced), "profile").body)
    waiting = {
        tuple(name.rpartition(".")[2] for name, _, _ in stack.frames): stack.values[1:]
        for stack in found.stacks
        if stack.values[1]
    }
    once = (3_000_000_000, 1)
    assert waiting == {
        ("main", "main", "outer", "worker", "sleep"): once,
        ("main", "main", "worker", "sleep"): once,
    }


async def manager(traced: TracedLoop, workers: int, until: asyncio.Event) -> None:
    """Start workers, and wait for all of them."""
    for _ in range(workers):
        _kept.add(asyncio.create_task(worker_until(traced, until)))
    await until.wait()


async def worker_until(traced: TracedLoop, until: asyncio.Event) -> None:
    """Compute and wait once, and stay."""
    await worker(traced, 1)
    await until.wait()


_kept: set[asyncio.Task[None]] = set()


def stacks(answer: Response) -> dict[tuple[str, ...], list[int]]:
    """Return the values of the stacks of coroutines, by the last names of their outer frames."""
    found: dict[tuple[str, ...], list[int]] = {}
    for stack in pprof_proto.parse(answer.body).stacks:
        names = [name.rpartition(".")[2] for name, _, _ in stack.frames]
        outer = tuple(names[: 1 + names.index("worker_until")]) if "worker_until" in names else ()
        sums = found.setdefault(outer, [0, 0, 0])
        sums[:] = [have + more for have, more in zip(sums, stack.values, strict=True)]
    return found


def test_parents_are_frames_if_asked_for(traced: TracedLoop) -> None:
    """The creator of more live tasks has more of their time; the sums stay those of the counters.

    Names that asyncio gave to tasks are nowhere, nor are those that somebody chose.
    """
    profiles = profiles_of(traced)

    async def main() -> None:
        until = asyncio.Event()
        tasks = [
            asyncio.create_task(manager(traced, workers, until), name=f"chosen {workers}")
            for workers in (1, 2)
        ]
        tasks.append(asyncio.create_task(worker_until(traced, until)))
        await asyncio.sleep(100)
        plain, asked = ask(profiles, "profile"), ask(profiles, "profile?parents=1")
        assert totals(plain) == totals(asked)
        assert {(), ("worker_until",)} == stacks(plain).keys()
        found = stacks(asked)
        whole = stacks(plain)["worker_until",]
        assert 8_000_000_000 == whole[0]
        assert {
            ("main", "worker_until"): [value // 4 for value in whole],
            ("main", "manager", "worker_until"): [value * 3 // 4 for value in whole],
        } == {names: values for names, values in found.items() if names}
        text = ask(profiles, "profile?parents=1&format=collapsed").body.decode()
        assert "Task-" not in text
        assert "chosen" not in text
        until.set()
        await asyncio.gather(*tasks, *_kept)

    traced.run(main())
    _kept.clear()
    assert totals(ask(profiles, "profile")) == totals(ask(profiles, "profile?parents=1"))


def test_parents_that_live_during_a_profile_are_seen(traced: TracedLoop) -> None:
    """They are looked for each second, so those that came and are over at its end count, too."""
    answered = asyncio.Event()
    parents: list[asyncio.Task[None]] = []

    async def child() -> None:
        await answered.wait()

    async def parent() -> None:
        await asyncio.create_task(child())

    async def begin() -> None:
        parents.append(asyncio.create_task(parent()))
        await asyncio.sleep(1.5)

    async def end() -> None:
        answered.set()
        await parents[0]

    steps = [begin, end]

    def rest(seconds: float) -> None:
        if steps:
            traced.run(steps.pop(0)())
        else:
            traced.clock.advance(seconds)

    profiles = profiles_of(traced, rest)
    text = ask(profiles, "profile?seconds=5&parents=1&format=collapsed&type=wait").body.decode()
    assert parents[0].done()
    assert re.search(r"parent;\S*child;", text), text


def test_a_profile_of_some_seconds_has_what_happens_meanwhile(traced: TracedLoop) -> None:
    """The thread that answers sleeps, by its own clock."""
    traced.run(worker(traced, 2))
    slept: list[float] = []

    def rest(seconds: float) -> None:
        if not slept:
            traced.run(worker(traced, 1))
        slept.append(seconds)
        traced.clock.advance(seconds)

    answer = ask(profiles_of(traced, rest), "profile?seconds=30")
    assert (2, 3, 1) == totals(answer)
    assert 30.0 == sum(slept) + 5
    assert 30_000_000_000 == pprof_proto.parse(answer.body).message.duration_nanos


def test_a_delta_has_what_happened_since_the_last_one(traced: TracedLoop) -> None:
    """Each consumer has its own; the one that asked longest ago is forgotten."""
    profiles = profiles_of(traced)
    traced.run(worker(traced, 1))
    assert (2, 3, 1) == totals(ask(profiles, "delta"))
    assert (0, 0, 0) == totals(ask(profiles, "delta"))
    traced.run(worker(traced, 2))
    assert (6, 9, 3) == totals(ask(profiles, "delta?consumer=b"))
    assert (4, 6, 2) == totals(ask(profiles, "delta"))
    for name in "cde":
        ask(profiles, f"delta?consumer={name}")
    assert (0, 0, 0) == totals(ask(profiles, "delta"))
    assert (6, 9, 3) == totals(ask(profiles, "delta?consumer=b"))


def test_an_hour_of_scrapes_leaves_nothing_behind(traced: TracedLoop) -> None:
    """The numbers of the last consumers are all that is kept: no memory for each scrape."""
    profiles = profiles_of(traced)
    bytes_kept: list[int] = []

    async def scrape(number: int) -> None:
        traced.clock.advance(2)
        await asyncio.sleep(57)
        for target in (
            "delta",
            f"delta?consumer={number:02}",
            "profile?by=route&format=speedscope",
            "profile?seconds=1&parents=1",
        ):
            assert 200 == ask(profiles, target).status
        traced.instrumentation.live_tasks.take(100, no_pause)

    async def main() -> None:
        for number in range(81):
            await scrape(number)
            if number in (20, 40, 60, 80):
                gc.collect()
                bytes_kept.append(tracemalloc.get_traced_memory()[0])

    tracemalloc.start()
    try:
        traced.run(main())
    finally:
        tracemalloc.stop()
    assert 4 == len(profiles._consumers)
    # An answer has some hundred bytes. Other threads may keep something, too, but not each time.
    assert min(later - earlier for earlier, later in pairwise(bytes_kept)) < 20 * 50


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("profile?seconds=0", "seconds='0' is not a whole number from 1 to 120"),
        ("profile?seconds=121", "seconds='121' is not"),
        (
            "profile?second=3",
            "there is no parameter 'second', only by, format, parents, seconds, type",
        ),
        ("profile?format=svg", "format='svg' is not one of pprof, speedscope, collapsed"),
        ("profile?by=loop", "by='loop' is not one of coroutine, route"),
        ("profile?type=wait", "type is for format=collapsed: pprof has all types"),
        ("profile?format=collapsed&type=cpu", "type='cpu' is not one of active, wait, count"),
        ("profile?parents=yes", "parents='yes' is not one of 0, 1"),
        ("profile?parents=1&by=route", "parents is for by=coroutine: by=route has no tasks"),
        ("delta?parents=1", "parents: this process has none of the tasks"),
        (f"delta?consumer={65 * 'x'}", "consumer is longer than 64 characters"),
    ],
)
def test_an_invalid_query_is_refused_before_anything_is_done(target: str, message: str) -> None:
    """The answer says what is allowed."""

    def never() -> Any:
        raise AssertionError

    refused = ask(Profiles(never, no_pause, 16), target)
    assert 400 == refused.status
    assert message in refused.body.decode()


@pytest.mark.parametrize(("max_connections", "at_a_time"), [(16, 3), (4, 2), (1, 0)])
def test_profiles_leave_connections_for_scrapes(
    traced: TracedLoop, max_connections: int, at_a_time: int
) -> None:
    """Half of them at most; who is refused may come again."""
    entered, released = threading.Semaphore(0), threading.Event()

    def rest(seconds: float) -> None:
        entered.release()
        assert released.wait(GUARD_SECONDS)
        traced.clock.advance(seconds)

    profiles = Profiles(traced.snapshot, no_pause, max_connections, rest=rest)
    threads = [
        threading.Thread(target=ask, args=(profiles, "profile?seconds=1")) for _ in range(at_a_time)
    ]
    for thread in threads:
        thread.start()
        assert entered.acquire(timeout=GUARD_SECONDS)
    refused = ask(profiles, "profile?seconds=1")
    profiles.close()
    released.set()
    for thread in threads:
        thread.join()
    assert (503, (("Retry-After", "1"),)) == (refused.status, refused.headers)
    assert f"at most {at_a_time} such requests".encode() in refused.body


def test_a_profile_in_progress_ends_with_the_exporter() -> None:
    """The client gets what there is."""
    with aiometrics.start_exporter(0, LOCAL, registry=None) as running:
        assert 200 == get(running, "/debug/pprof/profile")[0]
        profiles = running._endpoints._profiles
        assert profiles is not None
        entered, answers = threading.Event(), []
        rest = profiles._rest

        def entering(seconds: float) -> None:
            entered.set()
            rest(seconds)

        profiles._rest = entering
        thread = threading.Thread(
            target=lambda: answers.append(ask(profiles, "profile?seconds=120").status)
        )
        thread.start()
        assert entered.wait(GUARD_SECONDS)
    thread.join(GUARD_SECONDS)
    assert [200] == answers


def test_each_format_is_served_while_the_loop_is_blocked(exporter: aiometrics.Exporter) -> None:
    """In its content type."""
    entered, released = threading.Event(), threading.Event()
    answers: dict[str, tuple[int, str, bytes]] = {}

    async def blocks() -> None:
        await asyncio.sleep(0)
        entered.set()
        assert released.wait(GUARD_SECONDS)

    def request() -> None:
        assert entered.wait(GUARD_SECONDS)
        for form in ("pprof", "speedscope", "collapsed"):
            answers[form] = get(exporter, f"/debug/pprof/profile?format={form}")
        released.set()

    thread = threading.Thread(target=request)
    thread.start()
    asyncio.run(blocks())
    thread.join()
    types = {form: (status, kind) for form, (status, kind, _) in answers.items()}
    assert types == {
        "pprof": (200, "application/octet-stream"),
        "speedscope": (200, "application/json"),
        "collapsed": (200, "text/plain; charset=utf-8"),
    }
    names = [frame["name"] for frame in json.loads(answers["speedscope"][2])["shared"]["frames"]]
    assert any(name.endswith("blocks") for name in names)
    assert b"blocks" in answers["collapsed"][2]
    assert pprof_proto.parse(answers["pprof"][2]).total("active") > 0


async def burn(seconds: float) -> None:
    """Compute for so long at a time."""
    for _ in range(20):
        deadline = time.perf_counter() + seconds
        while time.perf_counter() < deadline:
            pass
        await asyncio.sleep(0.001)


@pytest.mark.once
def test_go_tool_pprof_names_the_culprits(
    exporter: aiometrics.Exporter, binary: Callable[..., str], tmp_path: Path
) -> None:
    """What computes is first of what is active, and what waits of what waits."""

    async def main() -> None:
        idle = asyncio.create_task(asyncio.sleep(1))
        await burn(0.02)
        await idle

    asyncio.run(main())
    file = tmp_path / "profile.pb.gz"
    file.write_bytes(get(exporter, "/debug/pprof/profile")[2])

    def show(*arguments: str) -> list[str]:
        command = [binary("go"), "tool", "pprof", *arguments, str(file)]
        environment = {"PATH": "/usr/bin:/bin", "HOME": str(tmp_path)}
        done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
        return done.stdout.splitlines()

    active, waiting = show("-top"), show("-top", "-sample_index=wait", "-cum")
    assert "Type: active" in active
    heading = next(number for number, line in enumerate(active) if "flat%" in line)
    assert active[heading + 1].endswith("test_profiles.burn")
    assert "Type: wait" in waiting
    assert any("main" in line for line in waiting[:8])
    assert any("coroutine" in line for line in show("-tags"))
