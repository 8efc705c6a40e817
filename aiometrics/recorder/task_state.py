"""Tells what a recorder knows of a live task; the C core has a twin in ``csrc/slot.c``."""

from __future__ import annotations

from typing import Any, NamedTuple

from aiometrics.recorder.traced import SUSPENDED, TracedCoroutine


class TaskState(NamedTuple):
    """The state of a task, as its recorder knows it. Times are readings of its clock, in ns."""

    root: Any
    recorder: Any
    #: One for each task of a loop, from 1 on, and that of the task that created it, 0 if none did.
    number: int
    creator: int
    created_ns: int
    #: Whether it was running when it was found, which then counts as its creation.
    adopted: bool
    state: int
    #: Since when it is suspended, or when the segment in progress began.
    since_ns: int
    #: The request that its time belongs to.
    scope: Any


def state_of(coro: Any) -> tuple[Any, ...] | None:
    """Return the ``TaskState`` of the task that steps ``coro``; ``None`` if it is not recorded.

    Any thread may ask.
    """
    if type(coro) is not TracedCoroutine or coro._recorder.retired:
        return None
    return (
        coro.__wrapped__,
        coro._recorder,
        coro._number,
        coro._creator,
        coro._created_ns,
        False,
        coro._state,
        coro._suspended_ns if coro._state == SUSPENDED else coro._since_ns,
        coro._scope,
    )
