"""The label ``loop`` of loops that come and go, each in a thread with another name."""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import pytest
from support.tracing import every_loop

REQUESTS = 40


async def works() -> None:
    """Suspend once."""
    await asyncio.sleep(0)


def test_async_views_of_flask_share_a_loop_name(implementation: str) -> None:
    """Flask runs each in a new loop, in a new thread, of a new pool."""
    flask = pytest.importorskip("flask")
    pytest.importorskip("asgiref")
    app = flask.Flask(__name__)

    async def view() -> str:
        await works()
        return threading.current_thread().name

    app.add_url_rule("/", view_func=view)

    with every_loop(implementation) as traced:
        threads = {app.test_client().get("/").text for _ in range(REQUESTS)}
        seen = traced.snapshot()
    assert REQUESTS == len(threads)
    assert ["ThreadPoolExecutor"] == [loop.loop for loop in seen.loops]
    assert REQUESTS == sum(
        entry.created for entry in seen.coroutines if entry.coroutine.endswith(".view")
    )


@pytest.mark.parametrize(
    ("thread", "loop"),
    [
        ("Thread-7", "Thread"),
        ("Thread-8 (serve)", "Thread (serve)"),
        ("ThreadPoolExecutor-9_3", "ThreadPoolExecutor"),
        ("asyncio_5", "asyncio"),
        ("shard-1", "shard-1"),
        ("shard_2", "shard_2"),
    ],
)
def test_only_numbers_that_python_gave_are_left_out(
    implementation: str, thread: str, loop: str
) -> None:
    """A name that somebody chose is the label as it is."""
    with every_loop(implementation) as traced:
        started = threading.Thread(target=asyncio.run, args=(works(),), name=thread)
        started.start()
        started.join()
        assert [loop] == [found.loop for found in traced.snapshot().loops]


def test_a_name_keeps_its_counters_when_more_threads_come_than_there_are_names(
    implementation: str,
) -> None:
    """No counter of a loop ends, falls or goes on under another name."""
    counts: Counter[str] = Counter()
    with every_loop(implementation, max_loops=3) as traced:
        for number in range(20):
            with ThreadPoolExecutor(1, thread_name_prefix=f"request {number}") as pool:
                pool.submit(asyncio.run, works()).result()
            now = Counter({loop.loop: loop.start_delay.count for loop in traced.snapshot().loops})
            assert 1 == len(now - counts)
            assert not counts - now
            counts = now
    assert 3 == len(counts)
