"""Chooses the implementation of the recorder: the C core where it can run, else Python."""

from __future__ import annotations

import logging
import os
import sysconfig
import weakref
from collections.abc import Callable, Iterable, Sequence
from mmap import mmap
from typing import Any, NamedTuple

from aiometrics.base.handover import HAND_OVER
from aiometrics.base.unpatched import read_bytes
from aiometrics.pages.page import PYTHON_COPYING, Copying
from aiometrics.pages.records import Records
from aiometrics.recorder import recorder
from aiometrics.recorder.c_constants import DIGEST
from aiometrics.recorder.deferred import Notify, deferring, telling
from aiometrics.recorder.sampler import Sampler
from aiometrics.recorder.scope import RequestScope
from aiometrics.recorder.stack import Frame, stack_of_thread
from aiometrics.recorder.task_state import state_of
from aiometrics.recorder.traced import TracedCoroutine
from aiometrics.recorder.turns import Turns

logger = logging.getLogger("aiometrics")

_OFF = frozenset({"", "0", "false", "no", "off"})


class Implementation(NamedTuple):
    """The classes of one implementation of the recorder, and the C module if it is in C."""

    name: str
    recorder: Any
    scope: type
    turns: Any
    #: Returns whether the steps of a task are recorded, given the coroutine that it steps.
    follows: Callable[[Any], bool]
    #: Returns a ``TaskState``, given that coroutine; ``None`` if
    #: the steps are not recorded.
    state_of: Callable[[Any], tuple[Any, ...] | None]
    hand_over: Any
    #: Returns the frames that a thread is executing, innermost first.
    stack_of_thread: Callable[[int], Sequence[Frame]]
    sampler: Any
    #: Returns a function that calls another where the interpreter would drop what it raises; what a
    #: handler of a signal raises meanwhile reaches the application.
    deferring: Callable[[Callable[..., Any]], Callable[..., Any]]
    #: Returns a function that tells of the loop that is set as running, then calls the other, which
    #: sets it.
    telling: Callable[[Notify, Notify], Notify]
    core: Any = None

    @property
    def frames(self) -> str:
        """``direct`` if it reads suspended frames in place, else ``descriptors``."""
        frames: str = getattr(self.core, "FRAMES", "descriptors")
        return frames

    @property
    def copying(self) -> Copying:
        """How it copies pages."""
        if self.core is None:
            return PYTHON_COPYING
        return Copying(self.core.provide, self.core.copy_parts, self.core.copy_unheld)

    def new_records(self) -> Records | None:
        """Return records that are written without the GIL; ``None`` if Python writes them."""
        return None if self.core is None else Records(self.core.Records)

    def join(self, parts: Iterable[bytes]) -> bytes:
        """Return the joined bytes."""
        joined: bytes = b"".join(parts) if self.core is None else self.core.join(*parts)
        return joined

    def read_file(self, path: str) -> bytes:
        """Return the content of a small file, such as the kernel has. Raises ``OSError``."""
        content: bytes = read_bytes(path) if self.core is None else self.core.read_file(path)
        return content

    def guard(self, memory: object) -> None:
        """Keep the process alive if the file behind mapped ``memory`` is cut off.

        Only the C core can do this: without it, the next access kills the process.
        """
        if self.core is not None and isinstance(memory, mmap):
            weakref.finalize(memory, self.core.unguard, self.core.guard(memory)).atexit = False

    def renew_guard(self) -> None:
        """Guard memory on, although the program may have installed a handler of its own since."""
        if self.core is not None:
            self.core.renew_guard()


def _is_wrapped(coro: Any) -> bool:
    return type(coro) is TracedCoroutine


_PYTHON = Implementation(
    "python",
    recorder.Recorder,
    RequestScope,
    Turns,
    _is_wrapped,
    state_of,
    HAND_OVER,
    stack_of_thread,
    Sampler,
    deferring,
    telling,
)


def _reason_against_core() -> str | None:
    """Return why the C core must not be loaded even if it was built, or ``None``.

    A Python without the GIL would switch it on again, for the whole process, to load the core.
    """
    if os.environ.get("AIOMETRICS_NO_EXTENSIONS", "").lower() not in _OFF:
        return "AIOMETRICS_NO_EXTENSIONS is set"
    if sysconfig.get_config_var("Py_GIL_DISABLED"):
        return "this Python runs without the GIL, which the C core relies on"
    return None


def _matches_sources(core: Any) -> bool:
    """Return whether the core was compiled with the constants of this package.

    In a checkout it may be older than the sources.
    """
    return getattr(core, "CONSTANTS_DIGEST", None) == DIGEST


def _load_core() -> Implementation | None:
    """Return the C core, or ``None`` after logging why it cannot be used."""
    reason = _reason_against_core()
    if reason is not None:
        logger.info("aiometrics: the recorder runs in Python: %s", reason)
        return None
    try:
        from aiometrics.recorder import _core  # noqa: PLC0415 - it may not be there
    except ImportError as error:
        logger.info(
            "aiometrics: the recorder runs in Python, which costs microseconds per step: "
            "the C core does not load: %s",
            error,
        )
        return None
    if not _matches_sources(_core):
        logger.warning(
            "aiometrics: the recorder runs in Python, which is slow: "
            "the C core was built from other sources. Build it again"
        )
        return None
    return Implementation(
        "c",
        _core.Recorder,
        _core.RequestScope,
        _core.Turns,
        _core.follows,
        _core.task_state,
        _core.HandOver(),
        _core.stack_of_thread,
        _core.Sampler,
        _core.deferring,
        _core.telling,
        _core,
    )


#: The implementations that can run here, by name.
IMPLEMENTATIONS = {found.name: found for found in (_PYTHON, _load_core()) if found is not None}
#: The one that records unless a caller asks for another.
DEFAULT_IMPLEMENTATION = IMPLEMENTATIONS.get("c", _PYTHON)
#: How its loops hand the interpreter to threads that answer scrapes.
RECORDER_HAND_OVER = DEFAULT_IMPLEMENTATION.hand_over
#: Its name, ``"c"`` or ``"python"``; public as ``aiometrics.IMPLEMENTATION``.
IMPLEMENTATION = DEFAULT_IMPLEMENTATION.name
#: How it reads suspended frames.
FRAMES = DEFAULT_IMPLEMENTATION.frames
