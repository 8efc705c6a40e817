"""Counts the live tasks that are not traced, so that a gap in the tracing shows."""

from __future__ import annotations

import asyncio
from asyncio import tasks
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any

#: At most so many tasks are looked at in one count.
LIMIT = 10_000


def _registries() -> Iterator[Iterable[Any]]:
    """The registries of asyncio, which hold tasks or weak references to them.

    Which registries there are depends on the version of Python.
    """
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
    """The first entries of a registry.

    They are copied in one call into C, but a task may end, or be collected, just before that.
    """
    while True:
        try:
            return list(islice(registry, LIMIT))
        except RuntimeError:
            continue


def untraced_tasks(traced: type) -> int:
    """How many live tasks of all loops have a coroutine that is not of the type ``traced``.

    At most the first 10 000 tasks are looked at.
    """
    return sum(type(getattr(task, "_coro", None)) is not traced for task in _alive())
