"""Reads what loops show of their insides: ready handles, timers, the default executor.

A loop that does not show one of them, or is odd there, costs only that number, which is ``None``.
"""

from __future__ import annotations

import gc
import sys
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple, cast

from aiometrics.base.internal_errors import pass_on


class ExecutorState(NamedTuple):
    """The number of threads that an executor has started, and of the calls that wait for one."""

    threads: int
    queued: int


def is_uvloop(loop: Any) -> bool:
    """Whether ``loop`` is one of uvloop's own. Forks of it are other loops."""
    base = getattr(sys.modules.get("uvloop.loop"), "Loop", None)
    return isinstance(base, type) and issubclass(type(loop), base)


def ready_handles(loop: Any) -> int | None:
    """Return how many handles are ready to run."""
    if is_uvloop(loop):
        return _count(lambda: len(_only(loop, deque)))
    return _length(loop, "_ready")


def scheduled_timers(loop: Any) -> int | None:
    """Return how many timers are scheduled, cancelled ones included while the loop keeps them."""
    if is_uvloop(loop):
        return _count(lambda: _uvloop_timers(loop))
    return _length(loop, "_scheduled")


def executor_state(loop: Any) -> ExecutorState | None:
    """Return the state of the default executor of ``loop``.

    ``asyncio.to_thread`` and ``getaddrinfo`` run there. An executor that does not exist yet has no
    threads.
    """
    try:
        executor = _uvloop_executor(loop) if is_uvloop(loop) else loop._default_executor
    except Exception as error:  # noqa: BLE001 - a loop of an unknown kind
        pass_on(error)
        return None
    if executor is None:
        return ExecutorState(0, 0)
    threads = _length(executor, "_threads")
    queued = _count(lambda: _work_queue(executor).qsize())
    return None if threads is None or queued is None else ExecutorState(threads, queued)


def uvloop_queue(loop: Any) -> deque[Any] | None:
    """Return the queue of a loop of uvloop, which lives as long as it does; ``None`` if unknown."""
    try:
        return cast("deque[Any]", _only(loop, deque))
    except Exception as error:  # noqa: BLE001 - a loop of a class with odd attributes
        pass_on(error)
        return None


def _count(ask: Callable[[], Any]) -> int | None:
    """Return what ``ask()`` returns if that is a count. Code of unknown loops may do anything."""
    try:
        number = ask()
    except Exception as error:  # noqa: BLE001 - an attribute that is missing or odd
        pass_on(error)
        return None
    return number if type(number) is int and number >= 0 else None


def _length(owner: Any, attribute: str) -> int | None:
    return _count(lambda: len(getattr(owner, attribute)))


def _work_queue(executor: Any) -> Any:
    return executor._work_queue


def _referents(loop: Any, kind: type) -> list[Any]:
    """Return the objects of a type that a loop in C refers to.

    No attribute shows them, but the garbage collector does. Attributes that the application added
    are left out.
    """
    own = {id(value) for value in getattr(loop, "__dict__", {}).values()}
    return [
        found for found in gc.get_referents(loop) if type(found) is kind and id(found) not in own
    ]


def _only(loop: Any, kind: type) -> Any:
    (found,) = _referents(loop, kind)
    return found


def _uvloop_timers(loop: Any) -> int:
    """Return how many timers a loop of uvloop has: the set whose members are timers, if any.

    Its other sets have members of other types. A set of which none can be told is empty.
    """
    timer = sys.modules["uvloop.loop"].TimerHandle
    return sum(
        len(members)
        for members in _referents(loop, set)
        if type(next(iter(members), None)) is timer
    )


def _uvloop_executor(loop: Any) -> ThreadPoolExecutor | None:
    found = (each for each in gc.get_referents(loop) if isinstance(each, ThreadPoolExecutor))
    return next(found, None)
