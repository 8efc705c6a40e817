"""Counts the live tasks that nobody traces, so that a hole in the tracing shows."""

from __future__ import annotations

import asyncio
from asyncio import tasks
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any

#: Tasks looked at in one count.
LIMIT = 10_000


def _registries() -> Iterator[Iterable[Any]]:
    """Weak references to, or the tasks of, asyncio's own registries; which there are depends on the version of Python."""
    for name in ("_all_tasks", "_scheduled_tasks"):
        found = getattr(tasks, name, None)
        if found is not None:
            yield found.data
            break
    yield getattr(tasks, "_eager_tasks", ())


def _alive() -> Iterator[Any]:
    for registry in _registries():
        for entry in _copy(registry):
            task = entry if isinstance(entry, asyncio.Future) else entry()
            if task is not None and not task.done():
                yield task


def _copy(registry: Iterable[Any]) -> list[Any]:
    """The first entries. Taken in one call into C, but a task may end, or be collected, just before that."""
    while True:
        try:
            return list(islice(registry, LIMIT))
        except RuntimeError:
            continue


def untraced_tasks(traced: type) -> int:
    """Live tasks of all loops whose coroutine is not of the type ``traced``; of many tasks only the first 10 000 are looked at."""
    return sum(type(getattr(task, "_coro", None)) is not traced for task in _alive())
