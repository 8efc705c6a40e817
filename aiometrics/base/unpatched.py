"""The parts of the standard library that our threads use, whatever a test replaces there.

Tests of an application replace ``time.sleep``, ``threading.Event.wait``, ``socket.socket`` or the
clocks in the modules where these are. A thread of ours that looked a name up there at each call
would sleep no more, fail, or wait for a time that never comes. So what they need is bound once.

The clocks are wrapped, because freezegun looks for them in all modules. gevent and eventlet replace
the same names, but for our threads too: those must then take what is there.
"""

from __future__ import annotations

import _thread
import os
import select
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any

from aiometrics.base import green_threads

monotonic: Callable[[], float] = partial(time.monotonic)
monotonic_ns: Callable[[], int] = partial(time.monotonic_ns)
thread_time_ns: Callable[[], int] = partial(time.thread_time_ns)
unix_ns: Callable[[], int] = partial(time.time_ns)
sleep = time.sleep
getpid = os.getpid
stat = os.stat
scandir = os.scandir

_allocate_lock = _thread.allocate_lock
_open, _read, _close = os.open, os.read, os.close
_READ_BYTES = 1 << 16
_socket = socket.socket
_poll: Any = getattr(select, "poll", None)
_start = threading.Thread.start
_Thread = threading.Thread


def lock() -> _thread.LockType:
    """Return a new lock."""
    return _thread.allocate_lock() if green_threads.patched_by() else _allocate_lock()


def read_bytes(path: str) -> bytes:
    """Return the content of a file. Raises ``OSError``."""
    descriptor = _open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0))
    try:
        return b"".join(iter(lambda: _read(descriptor, _READ_BYTES), b""))
    finally:
        _close(descriptor)


def poll() -> Any:
    """Return a new ``select.poll``; ``None`` where the system has none."""
    make = getattr(select, "poll", None) if green_threads.patched_by() else _poll
    return None if make is None else make()


def start_thread(target: Callable[[], object], name: str) -> threading.Thread:
    """Start a daemon thread. Raises ``RuntimeError`` if none can be started."""
    thread = _Thread(target=target, name=name, daemon=True)
    try:
        _start(thread)
    except RuntimeError:
        raise
    except Exception:  # noqa: BLE001, S110 - it runs, but the wait for that was replaced
        pass
    return thread


def socket_class() -> type[socket.socket]:
    """Return what makes a socket."""
    return socket.socket if green_threads.patched_by() else _socket


class Flag:
    """As ``threading.Event``, but it cannot be replaced."""

    def __init__(self) -> None:
        self._set = False
        self._lock = lock()
        self._lock.acquire()

    def is_set(self) -> bool:
        """Whether it is set."""
        return self._set

    def set(self) -> None:
        """Set it and wake up who waits."""
        self._set = True
        self._release()

    def clear(self) -> None:
        """Reset it; nobody may wait meanwhile."""
        self._set = False
        self._lock.acquire(blocking=False)

    def wait(self, seconds: float | None = None) -> bool:
        """Wait until it is set, for so many seconds at most; return whether it is."""
        if not self._set and self._lock.acquire(timeout=-1 if seconds is None else seconds):
            self._release()
        return self._set

    def _release(self) -> None:
        with suppress(RuntimeError):  # somebody else has just released it
            self._lock.release()
