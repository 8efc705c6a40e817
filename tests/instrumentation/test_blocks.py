"""The watchdog names the line of real blocks in real time, also of calls that hold the GIL."""

from __future__ import annotations

import asyncio
import json
import re
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest
import requests
from support.tracing import every_loop

from aiometrics.instrumentation.instrumentation import Instrumentation
from aiometrics.instrumentation.watchdog import Watchdog
from aiometrics.recorder.stack import UNKNOWN

Block = Callable[["Scene"], object]
LARGE = "[" + ",".join(['{"id": 1, "name": "x"}'] * 400_000) + "]"
#: Blocks after which it is clear that they are never named.
MOST_BLOCKS = 50
COUNT = (
    "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 1000000) "
    "SELECT count(*) FROM n"
)


class Scene:
    """The objects that code uses to block, and the samples that the watchdog took of it."""

    def __init__(self, made: Instrumentation) -> None:
        self._made = made
        self.lock = threading.Lock()
        self.seen = threading.Event()
        self.database = sqlite3.connect(":memory:")
        self.url = ""
        #: To free it would be a block of its own, seen at the next call after it. It is added by an
        #: operator, because a call of a method would be seen, too.
        self.kept: list[object] = []

    @property
    def samples(self) -> dict[str, int]:
        """Samples by place."""
        return {
            place: count
            for slot in self._made.slots()
            for place, count in slot.loop_stats.block_samples.items()
        }


class Noticed(Watchdog):
    """A watchdog that says when it has seen the block.

    On a busy machine a program may stand still before it comes to the block.
    """

    scene: Scene
    expected: set[str]

    def _sample(self, *args: Any) -> None:
        super()._sample(*args)
        if self.expected & self.scene.samples.keys():
            self.scene.seen.set()


def sleeps(_: Scene) -> None:
    """Sleep in the thread."""
    time.sleep(0.3)


def computes(_: Scene) -> None:
    """Loop in Python."""
    for _number in range(5_000_000):
        pass


def matches(_: Scene) -> None:
    """Backtrack."""
    re.match(r"(a+)+$", "a" * 22 + "b")


def adds(_: Scene) -> None:
    """Loop in C."""
    sum(range(10_000_000))


def queries(scene: Scene) -> None:
    """Ask a database in the same process."""
    scene.database.execute(COUNT).fetchall()


def requests_page(scene: Scene) -> None:
    """Ask a server that takes its time."""
    scene.kept += [requests.get(scene.url, timeout=300)]


def parses(scene: Scene) -> None:
    """Read a document of nine megabytes."""
    scene.kept += [json.loads(LARGE)]


def locks(scene: Scene) -> None:
    """Wait for a thread."""
    scene.lock.acquire(timeout=300)


#: Each block, and what is beneath its line: only what is written in Python has a name there.
BLOCKS: dict[Block, str] = {
    sleeps: "",
    computes: "",
    matches: f" > re.{re.match.__name__}",  # prefixmatch from Python 3.15 on
    adds: "",
    queries: "",
    requests_page: " > requests.get",
    parses: " > json.loads",
    locks: "",
}
PATH = f"{__name__.replace('.', '/')}.py"


def places(block: Block) -> set[str]:
    """The places that are right: the line below the docstring, or the line below that."""
    line = block.__code__.co_firstlineno + 2
    lines = (line, line + 1) if block is computes else (line,)
    return {f"{PATH}:{line} {block.__name__}{BLOCKS[block]}" for line in lines}


def entry(block: Block) -> str:
    """The place where a call of the block begins."""
    return f"{PATH}:{block.__code__.co_firstlineno} {block.__name__}"


class Slow(BaseHTTPRequestHandler):
    """A server that answers once the watchdog has seen the block."""

    scene: Scene

    def do_GET(self) -> None:
        """Answer."""
        self.scene.seen.wait(300)
        self.send_response(204)
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        """Log nothing."""


@contextmanager
def beside(work: Callable[[], None]) -> Iterator[None]:
    """A thread beside the loop's."""
    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield
    finally:
        thread.join()


def watch(
    block: Block, implementation: str, run: Callable[[Any], None], **options: Any
) -> dict[str, int]:
    """Samples by place of a program that blocks until it was seen."""
    interval = options.pop("interval", 0.005)
    with (
        every_loop(implementation, **options) as made,
        HTTPServer(("127.0.0.1", 0), Slow) as server,
    ):
        scene = Scene(made)
        Slow.scene, scene.url = scene, f"http://127.0.0.1:{server.server_port}"
        dog = Noticed(
            made.slots,
            made.places,
            made.internal_errors,
            threshold_ns=made.options.blocking_threshold_ns,
            interval=interval,
            stack_of_thread=made.stack_of_thread,
        )
        dog.scene, dog.expected = scene, places(block)
        dog.start()

        async def main() -> None:
            for _ in range(MOST_BLOCKS):
                if not scene.seen.is_set():
                    block(scene)

        def release() -> None:
            scene.seen.wait(300)
            scene.lock.release()

        scene.lock.acquire()
        try:
            with beside(server.handle_request) if block is requests_page else beside(release):
                run(main())
        finally:
            dog.stop()
            scene.database.close()
        return scene.samples


@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: block.__name__)
def test_the_line_that_blocks_is_named(implementation: str, block: Block) -> None:
    """The place is the line of the application with the library function that it called.

    No other place is named, but a look may come when the block is about to begin or has just ended,
    or while the garbage is collected that it made, which is named as such.
    """
    samples = watch(block, implementation, asyncio.run, blocking_threshold=0.02)
    named = {place for place in samples if place != UNKNOWN and " watch.<locals>.main" not in place}
    named = {place for place in named if " > (garbage collection, " not in place} - {entry(block)}
    assert named, samples
    assert named <= places(block), samples
