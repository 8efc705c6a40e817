"""Coroutines that are noise have no rows of their own, and none of their time is lost."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from aiometrics.testing import traced_loop


async def wanted() -> None:
    """A coroutine of the application."""
    await asyncio.sleep(1)


async def noise() -> None:
    """A coroutine that runs all the time."""
    await asyncio.sleep(1)


async def main() -> None:
    """Runs both."""
    await asyncio.gather(*map(asyncio.create_task, (wanted(), noise(), noise())))


@pytest.mark.parametrize(
    "options", [{"exclude": ("*.noise",)}, {"include": (f"{__name__}.main", f"{__name__}.wanted")}]
)
def test_what_is_left_out_counts_as_other(options: dict[str, Any], implementation: str) -> None:
    """It is in ``(other)`` with all that it does, and does not count as an overflow."""
    with traced_loop(implementation=implementation, **options) as traced:
        traced.run(main())
        seen = traced.snapshot()
    assert {f"{__name__}.main": 1, f"{__name__}.wanted": 1, "(other)": 2} == {
        entry.coroutine: entry.created for entry in seen.coroutines if entry.created
    }
    (other,) = [point for point in seen.yield_points if point.coroutine == "(other)"]
    assert 2_000_000_000 == other.waits.sum_ns
    assert 0 == sum(seen.overflow.values())
