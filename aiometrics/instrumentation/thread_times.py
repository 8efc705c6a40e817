"""Times that the kernel keeps of a thread: how long it ran, and how long it waited for a CPU.

Any thread can ask for them. On Linux only; elsewhere they are ``None``.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable
from typing import NamedTuple

from aiometrics.recorder.implementation import DEFAULT_IMPLEMENTATION

_LINUX = sys.platform == "linux"


class ThreadId(NamedTuple):
    """The ids of a thread: ``ident`` of ``threading.get_ident``, and the kernel's ``native``."""

    ident: int
    native: int


def current_thread_id() -> ThreadId:
    """The ids of the calling thread."""
    return ThreadId(threading.get_ident(), threading.get_native_id())


def cpu_ns(native: int) -> int | None:
    """CPU time of a thread since its start, in ns; ``None`` if the thread is gone."""
    if not _LINUX:
        return None
    try:
        # The clock id that pthread_getcpuclockid() returns. It must not be called for a thread that
        # may have ended.
        return time.clock_gettime_ns(~native << 3 | 6)
    except OSError:
        return None


def runqueue_ns(native: int) -> int | None:
    """Time for which a thread was ready but waited for a CPU, in ns.

    ``None`` if the thread is gone, or the kernel does not count this time.
    """
    if not _LINUX:
        return None
    try:
        times = DEFAULT_IMPLEMENTATION.read_file(f"/proc/self/task/{native}/schedstat")
        return int(times.split()[1])
    except (OSError, ValueError, IndexError):
        return None


class Usage(NamedTuple):
    """The kernel's counts of a thread so far, in ns; ``None`` if it does not say."""

    native: int | None = None
    cpu_ns: int | None = None
    runqueue_ns: int | None = None

    def since(self, before: Usage) -> Usage:
        """Return the times since then; nothing is known if that was another thread."""
        if self.native != before.native:
            return Usage(self.native)
        return Usage(
            self.native,
            _gain(self.cpu_ns, before.cpu_ns),
            _gain(self.runqueue_ns, before.runqueue_ns),
        )


def _gain(now: int | None, before: int | None) -> int | None:
    return None if now is None or before is None else now - before


class UsageMeter:
    """Asks for both times of a thread, and opens a file only if it has run since it last asked.

    The kernel adds the time in the run queue when the thread gets a CPU.
    """

    def __init__(self) -> None:
        self._last = Usage()

    def __call__(self, native: int) -> Usage:
        """Return what is counted of a thread so far."""
        now_ns = cpu_ns(native)
        if (native, now_ns) != self._last[:2]:
            self._last = Usage(native, now_ns, runqueue_ns(native))
        return self._last


class ThreadMeter:
    """Adds up the gains of a time that is kept for each thread, so that the total never falls.

    ``read(native)`` returns the time of a thread, which never falls for the same thread. The total
    goes on from ``total_ns``.
    """

    def __init__(self, read: Callable[[int], int | None], total_ns: int | None = None) -> None:
        self._read = read
        self._native: int | None = None
        self._last_ns = 0
        #: ``None`` as long as no time could be read.
        self.total_ns = total_ns

    def update(self, native: int) -> None:
        """Add what the thread gained since the last update, if that was of the same thread."""
        now_ns = self._read(native)
        if now_ns is None:
            self._native = None
            return
        gained_ns = now_ns - self._last_ns if native == self._native else 0
        self.total_ns = (self.total_ns or 0) + max(0, gained_ns)
        self._native, self._last_ns = native, now_ns
