"""What the kernel says of a thread, asked from any other thread: the time it ran, and the time it was ready and had no CPU.

Linux only: elsewhere nothing is known.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

_LINUX = sys.platform == "linux"


class ThreadId(NamedTuple):
    """A thread as Python calls it, which is what ``threading.get_ident`` says there, and as the kernel does."""

    ident: int
    native: int


def current_thread_id() -> ThreadId:
    """The thread that asks."""
    return ThreadId(threading.get_ident(), threading.get_native_id())


def cpu_ns(native: int) -> int | None:
    """CPU time of a thread since it began, in ns; ``None`` if it is gone."""
    if not _LINUX:
        return None
    try:
        # What pthread_getcpuclockid() answers, which must not be asked about a thread that may have ended.
        return time.clock_gettime_ns(~native << 3 | 6)
    except OSError:
        return None


def runqueue_ns(native: int) -> int | None:
    """Time for which a thread could have run but waited for a CPU, in ns; ``None`` if it is gone, or the kernel does not count it."""
    if not _LINUX:
        return None
    try:
        return int(Path(f"/proc/self/task/{native}/schedstat").read_bytes().split()[1])
    except (OSError, ValueError, IndexError):
        return None


class ThreadMeter:
    """Adds up what a reading of threads gains, thread by thread: ``read(native)`` never falls for one thread, the total never at all.

    It goes on from ``total_ns``.
    """

    def __init__(self, read: Callable[[int], int | None], total_ns: int | None = None) -> None:
        self._read = read
        self._native: int | None = None
        self._last_ns = 0
        #: In ns; ``None`` as long as nothing could be read.
        self.total_ns = total_ns

    def update(self, native: int) -> None:
        """Add what that thread gained since the last look, if it was at the same thread."""
        now_ns = self._read(native)
        if now_ns is None:
            self._native = None
            return
        gained_ns = now_ns - self._last_ns if native == self._native else 0
        self.total_ns = (self.total_ns or 0) + max(0, gained_ns)
        self._native, self._last_ns = native, now_ns
