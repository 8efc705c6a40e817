"""The default executor of a loop, where ``asyncio.to_thread`` and ``getaddrinfo`` run: how many threads, and how many calls wait."""

from __future__ import annotations

import gc
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple


class ExecutorState(NamedTuple):
    """Threads that were started, and calls that wait for one."""

    threads: int
    queued: int


def executor_state(loop: Any) -> ExecutorState | None:
    """How the default executor of ``loop`` is; no threads if it has none yet, ``None`` if that cannot be told."""
    try:
        executor = loop._default_executor  # noqa: SLF001 - there is no other way
    except AttributeError:
        if not _is_uvloop(loop):
            return None
        executor = _referred_to(loop)
    return ExecutorState(0, 0) if executor is None else _state(executor)


def _state(executor: Any) -> ExecutorState | None:
    threads, queue = getattr(executor, "_threads", None), getattr(executor, "_work_queue", None)
    return None if threads is None or queue is None else ExecutorState(len(threads), queue.qsize())


def _is_uvloop(loop: Any) -> bool:
    return any(base.__module__.partition(".")[0] == "uvloop" for base in type(loop).__mro__)


def _referred_to(loop: Any) -> ThreadPoolExecutor | None:
    """The only executor that a loop in C holds; no attribute shows it, the garbage collector does."""
    return next(
        (found for found in gc.get_referents(loop) if isinstance(found, ThreadPoolExecutor)), None
    )
