"""Counts the live tasks that are not traced, so that a gap in the tracing shows."""

from __future__ import annotations

import asyncio
import sys
from asyncio import tasks
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Any

#: At most so many tasks are looked at in one count.
LIMIT = 10_000


def _registries(loops: Iterable[Any]) -> Iterator[Iterable[Any]]:
    """The registries of asyncio, which hold tasks or weak references to them.

    Which registries there are depends on the version of Python. From 3.14 on they are lists in C,
    from which asyncio makes a set of the tasks of one loop: 0.2 ms for 10 000.
    """
    if sys.version_info >= (3, 14):
        yield from map(asyncio.all_tasks, loops)
        return
    for name in ("_all_tasks", "_scheduled_tasks"):
        found = getattr(tasks, name, None)
        if found is not None:
            yield found.data
            break
    yield getattr(tasks, "_eager_tasks", ())


def alive(loops: Iterable[Any], limit: int = LIMIT) -> Iterator[Any]:
    """The tasks that are not done, of at most ``limit`` in each registry.

    Up to Python 3.13 they are those of all loops. From 3.14 on they are those of ``loops``, because
    the interpreter does not list the other loops.
    """
    for registry in _registries(loops):
        for entry in _copy(registry, limit):
            task = entry if isinstance(entry, asyncio.Future) else entry()
            if task is not None and not task.done():
                yield task


def _copy(registry: Iterable[Any], limit: int) -> list[Any]:
    """The first entries of a registry.

    They are copied in one call into C, but a task may end, or be collected, just before that.
    """
    while True:
        try:
            return list(islice(registry, limit))
        except RuntimeError:
            continue


def untraced_tasks(follows: Callable[[Any], bool], loops: Iterable[Any]) -> int:
    """Return how many live tasks have a coroutine that ``follows(coroutine)`` denies.

    At most the first 10 000 tasks are looked at.
    """
    return sum(not follows(getattr(task, "_coro", None)) for task in alive(loops))
