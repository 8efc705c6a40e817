"""A program that uses every kind of step once, in code that was never met before."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from aiometrics import request

FILE = "/srv/new_code.py"
SOURCE = """
async def main():
    loop.call_soon(called)
    with request("GET /"):
        await loop.create_task(work())

async def work():
    await sleep(0)
    spend()

def called():
    done.append(None)
"""


def new_code(
    loop: asyncio.AbstractEventLoop, done: list[None], spend: Callable[[], object] = int
) -> dict[str, Any]:
    """Its globals: ``main`` runs on ``loop``, the task calls ``spend()``, a callback notes it."""
    code = {
        "__name__": "new_code",
        "loop": loop,
        "request": request,
        "sleep": asyncio.sleep,
        "spend": spend,
        "done": done,
    }
    exec(compile(SOURCE, FILE, "exec"), code)  # noqa: S102 - the source is above
    return code
