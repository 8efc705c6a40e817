"""A coroutine function with as many yield points as wanted, each on a line of its own."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

#: Beside the benchmarks, so that it counts as code of the application.
FILE = str(Path(__file__).with_name("generated.py"))


def visitor(places: int) -> Callable[[], Coroutine[Any, Any, None]]:
    """A coroutine function that awaits ``asyncio.sleep(0)`` on each of so many lines."""
    lines = "\n".join(["    await sleep(0)"] * places)
    namespace: dict[str, Any] = {"sleep": asyncio.sleep, "__name__": "generated"}
    exec(compile(f"async def visit():\n{lines}\n", FILE, "exec"), namespace)  # noqa: S102 - this module wrote it
    visit: Callable[[], Coroutine[Any, Any, None]] = namespace["visit"]
    return visit
