"""A web service that counts what it does in a file, which survives ``kill -9``.

It is started as ``uvicorn service:app``; ``COUNTS`` names the directory of the files. The file of a
process holds a number of eight bytes for each name in ``NAMES``. A number is raised right beside
what it counts, without an await in between.
"""

from __future__ import annotations

import asyncio
import mmap
import os
from pathlib import Path
from typing import Any

import aiometrics

NAMES = ("created", "completed", "failed", "waits")
CREATED, COMPLETED, FAILED, WAITS = range(len(NAMES))
#: One in this many requests fails.
FAILS_EVERY = 10


def _counts() -> memoryview:
    path = Path(os.environ["COUNTS"], str(os.getpid()))
    new = path.parents[1] / path.name
    new.write_bytes(bytes(8 * len(NAMES)))
    new.rename(path)  # others read it, and must never find it empty
    with path.open("r+b") as file:
        return memoryview(mmap.mmap(file.fileno(), 0)).cast("q")


counts = _counts()


async def work() -> None:
    """Do the work of a request, in a task of its own."""
    for _ in range(3):
        await asyncio.sleep(0)
        counts[WAITS] += 1
    if counts[CREATED] % FAILS_EVERY == 0:
        counts[FAILED] += 1
        raise ValueError("every tenth fails")
    counts[COMPLETED] += 1


async def app(scope: Any, receive: Any, send: Any) -> None:
    """Answer a request, as an ASGI application."""
    if scope["type"] == "lifespan":
        await _lifespan(receive, send)
        return
    counts[CREATED] += 1
    task = asyncio.create_task(work())
    await asyncio.wait([task])
    status = 500 if task.exception() else 200
    await send(
        {"type": "http.response.start", "status": status, "headers": [(b"content-length", b"0")]}
    )
    await send({"type": "http.response.body", "body": b""})


async def _lifespan(receive: Any, send: Any) -> None:
    message = {"type": ""}
    while message["type"] != "lifespan.shutdown":
        message = await receive()
        await send({"type": f"{message['type']}.complete"})


aiometrics.start_exporter(registry=None)
