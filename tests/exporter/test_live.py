"""The numbers of this moment over HTTP, above all while the loop is blocked."""

from __future__ import annotations

import asyncio
import json
import threading
from typing import Any

from support.serving import fetch

import aiometrics

LOCAL = "127.0.0.1"
GUARD_SECONDS = 300


def live(port: int) -> Any:
    """Return the numbers of this moment."""
    response, body = fetch(port, "/debug/live")
    assert (200, "application/json") == (response.status, response.getheader("Content-Type"))
    assert "no-store" == response.getheader("Cache-Control")
    return json.loads(body)


def other_than(answer: Any, port: int) -> Any:
    """Ask until there is another answer: one may be given twice, so that many cost no more."""
    while (later := live(port)) == answer:
        pass
    return later


def test_the_block_in_progress_is_shown_while_it_lasts() -> None:
    """The loop's row names its coroutine and grows; it is idle afterwards."""
    entered, released = threading.Event(), threading.Event()
    answers: list[Any] = []

    async def blocks() -> None:
        await asyncio.sleep(0)
        entered.set()
        assert released.wait(GUARD_SECONDS)

    def ask(port: int) -> None:
        assert entered.wait(GUARD_SECONDS)
        try:
            answers.append(live(port))
            answers.append(other_than(answers[0], port))
        finally:
            released.set()

    # Every segment counts as blocking, so that none must last long here.
    with aiometrics.start_exporter(0, LOCAL, registry=None, blocking_threshold=1e-9) as exporter:
        thread = threading.Thread(target=ask, args=(exporter.port,))
        thread.start()
        asyncio.run(blocks())
        thread.join()
        answers.append(other_than(answers[1], exporter.port))
    first, second, after = [answer["loops"][0] for answer in answers]
    assert f"{__name__}.{blocks.__qualname__}" == first["running"]["coroutine"]
    assert first["running"]["blocks"]
    assert 0 < first["running"]["elapsed_seconds"] < second["running"]["elapsed_seconds"]
    assert 0 < first["blocking_seconds"] < second["blocking_seconds"] <= after["blocking_seconds"]
    assert None is after["running"]


def test_waits_in_libraries_are_for_work() -> None:
    """The exporter knows which files are those of libraries."""

    async def waits() -> None:
        task = asyncio.create_task(asyncio.Event().wait())
        await asyncio.sleep(0.001)
        task.cancel()

    with aiometrics.start_exporter(0, LOCAL, registry=None) as exporter:
        asyncio.run(waits())
        rows = live(exporter.port)["yield_points"]
    for_work = {row["yield_point"].partition(":")[0]: row["waits_for_work"] for row in rows}
    assert for_work["asyncio/locks.py"]
    assert [False] == [for_work[file] for file in for_work if file.endswith("test_live.py")]
