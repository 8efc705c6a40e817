"""The only registry of what a forked child must forget, and in which order.

A child inherits the memory and the descriptors of its parent, but only the thread that forked.
Descriptors keep the parent's ports and locks in use for as long as the child has them, locks may be
held by threads that do not exist in the child, and the parent's counts are not the child's.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable
from enum import IntEnum
from typing import Any, Protocol, TypeVar
from weakref import WeakKeyDictionary

logger = logging.getLogger("aiometrics")

T = TypeVar("T")


class Closable(Protocol):
    """Something that has a descriptor."""

    def close(self) -> object:
        """Close the descriptor."""


class Stage(IntEnum):
    """The stage at which a child forgets something.

    A child forgets stage by stage, and within a stage in the order of registration.
    """

    #: Close descriptors that keep a port, a connection or a slot of the parent in use.
    DESCRIPTORS = 1
    #: Replace locks that a thread of the parent may hold, and the data they guard: from here on, no
    #: lock of ours blocks for ever.
    LOCKS = 2
    #: Stop recording, before anything can write to a page of the parent.
    RECORDING = 3
    #: Let go of the parent's pages.
    PAGES = 4
    #: Trace the loops of the child, or let it start a session of its own.
    SESSION = 5


#: Held while something that a child must forget is created and registered, and during each fork.
#: Hold it only briefly.
creation_lock = threading.RLock()
_registered: WeakKeyDictionary[Any, list[tuple[Stage, Callable[[Any], object]]]] = (
    WeakKeyDictionary()
)


def forget_in_child(owner: T, stage: Stage, forget: Callable[[T], object]) -> None:
    """Call ``forget(owner)`` in every child that is forked while ``owner`` lives.

    ``forget`` must not refer to ``owner``, which would then live for ever: pass the function of its
    class, not a bound method.
    """
    with creation_lock:
        _registered.setdefault(owner, []).append((stage, forget))


def close(owner: Closable) -> None:
    """Close something in a child. Sockets of eventlet have no such method in their class."""
    owner.close()


def _forget_all() -> None:
    entries = [(owner, entry) for owner, found in list(_registered.items()) for entry in found]
    for owner, (stage, forget) in sorted(entries, key=lambda found: found[1][0]):
        try:
            forget(owner)
        except Exception:
            logger.exception(
                "aiometrics: internal error in a forked child, in stage %s; "
                "the application is not affected",
                stage.name,
            )


if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=creation_lock.acquire,
        after_in_parent=creation_lock.release,
        after_in_child=creation_lock.release,
    )
    os.register_at_fork(after_in_child=_forget_all)
