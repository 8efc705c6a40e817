"""Generated coroutine functions with any number of yield points, each on a line of its own."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

#: Inside the benchmarks, so that it counts as code of the application.
FILE = str(Path(__file__).with_name("generated.py"))


def visitor(places: int) -> Callable[[], Coroutine[Any, Any, None]]:
    """Return a coroutine function that awaits ``asyncio.sleep(0)`` on ``places`` lines."""
    lines = "\n".join(["    await sleep(0)"] * places)
    namespace: dict[str, Any] = {"sleep": asyncio.sleep, "__name__": "generated"}
    exec(compile(f"async def visit():\n{lines}\n", FILE, "exec"), namespace)  # noqa: S102 - this module wrote it
    visit: Callable[[], Coroutine[Any, Any, None]] = namespace["visit"]
    return visit
