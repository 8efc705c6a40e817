"""Hands the interpreter from loops that never rest to threads that answer scrapes.

CPython wakes a thread that waits for the interpreter whenever a loop asks its selector, and the
loop takes the interpreter back before that thread runs. A wait that is cut short this way never
times out, so the request that the loop should let go is never made: a loop with short turns can
keep a scrape waiting for half a minute. Therefore a thread that answers says so, and loops that do
not rest then give the interpreter up once a turn, until it was taken, but not for long.

The twin of ``recorder/csrc/handover.c``, where a thread also says so while it waits for a
descriptor or sleeps, just before it asks for the interpreter.
"""

from __future__ import annotations

import select
import socket
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import Self, TypeVar

from aiometrics.base import fork, unpatched

T = TypeVar("T")

#: How long a loop sleeps between two looks at whether the interpreter was taken, and how often.
_MOMENT_SECONDS, _MOMENTS = 50e-6, 3
#: How long no loop gives it up once it was not taken: this, then twice as long each time.
_LEAST_PAUSE_SECONDS, _MOST_PAUSE_SECONDS = 0.5e-3, 8e-3
#: What the system can count; 24 days.
_MOST_WAIT_MS = (1 << 31) - 1


class HandOver:
    """The threads of the process that answer; ``with`` it, the current thread is one of them.

    It is safe to use from any thread. ``clock`` and ``sleep`` are in seconds.
    """

    def __init__(
        self,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], object] = time.sleep,
    ) -> None:
        self._clock = clock
        self._sleep = sleep
        self._paused_at = 0.0
        self.forget()
        fork.forget_in_child(self, fork.Stage.LOCKS, HandOver.forget)

    def __enter__(self) -> Self:
        """Begin to answer: loops give the interpreter up once a turn."""
        self._asking.add(threading.get_ident())
        self._pause = 0.0
        return self

    def __exit__(self, *exc_info: object) -> None:
        """Stop answering."""
        self._taken += 1
        self._asking.discard(threading.get_ident())

    @property
    def asked(self) -> bool:
        """Whether a thread answers, and so wants the interpreter if a loop has it."""
        return bool(self._asking)

    def wait(
        self, descriptors: Sequence[int], seconds: float | None = None, *, write: bool = False
    ) -> bool:
        """Return whether one of the descriptors became ready in time; ``None`` waits for ever.

        The thread does not answer meanwhile.
        """
        return self._away(partial(_ready, descriptors, seconds, write=write))

    def receive(self, sock: socket.socket, size: int, seconds: float) -> bytes:
        """Return what comes from a non-blocking socket, at most ``size`` bytes; none at its end.

        Raises ``TimeoutError`` if nothing comes in time. The thread does not answer meanwhile.
        """
        end = self._clock() + seconds
        while True:
            self._await_socket(sock, end, write=False)
            with suppress(BlockingIOError):  # what was there is gone
                return self._away(partial(sock.recv, size))

    def send(self, sock: socket.socket, parts: tuple[bytes, ...], seconds: float) -> None:
        """Send ``parts`` to a non-blocking socket.

        Raises ``TimeoutError`` if not all can be sent in time. The thread does not answer
        meanwhile.
        """
        end = self._clock() + seconds
        rest = [memoryview(part) for part in parts if part]
        while rest:
            self._await_socket(sock, end, write=True)
            with suppress(BlockingIOError):  # as above
                rest = _without(rest, self._away(partial(_send_some, sock, rest)))

    def rest(self, seconds: float) -> None:
        """Sleep, so that a loop can run. The thread does not answer meanwhile."""
        self._away(partial(self._sleep, seconds))

    def give(self) -> None:
        """Let a thread that answers have the interpreter: called by the thread of a loop.

        If it was not taken, this does nothing for the next milliseconds: the thread does something
        else.
        """
        began = self._clock()
        if began - self._paused_at < self._pause:
            return
        before = self._taken
        for _ in range(_MOMENTS):
            self._sleep(_MOMENT_SECONDS)
            if self._taken != before:
                return
        self._paused_at = began
        self._pause = min(max(2 * self._pause, _LEAST_PAUSE_SECONDS), _MOST_PAUSE_SECONDS)

    def forget(self) -> None:
        """Forget the threads that answered: in a forked child there are none."""
        #: By their identifiers. Changing a set is atomic, so it needs no lock.
        self._asking: set[int] = set()
        #: Changes when a thread that answers has had the interpreter.
        self._taken = 0
        self._pause = 0.0

    def _await_socket(self, sock: socket.socket, end: float, *, write: bool) -> None:
        remaining = end - self._clock()
        if not self.wait((sock.fileno(),), max(0.0, remaining), write=write):
            raise TimeoutError

    def _away(self, call: Callable[[], T]) -> T:
        me = threading.get_ident()
        asks = me in self._asking
        self._taken += 1
        self._asking.discard(me)
        try:
            return call()
        finally:
            self._pause = 0.0
            if asks:
                self._asking.add(me)


def _ready(descriptors: Sequence[int], seconds: float | None, *, write: bool) -> bool:
    poll = unpatched.poll()
    if poll is None:
        some = list(descriptors)
        return any(select.select([] if write else some, some if write else [], [], seconds))
    for descriptor in descriptors:
        poll.register(descriptor, select.POLLOUT if write else select.POLLIN)
    return bool(
        poll.poll(None if seconds is None else min(max(0.0, seconds) * 1000, _MOST_WAIT_MS))
    )


def _send_some(sock: socket.socket, parts: Sequence[memoryview]) -> int:
    """Send what the system takes, and return the number of bytes. Together they are one packet."""
    return sock.sendmsg(parts) if hasattr(sock, "sendmsg") else sock.send(parts[0])


def _without(parts: Sequence[memoryview], count: int) -> list[memoryview]:
    """Return what follows the first ``count`` bytes of ``parts``."""
    first, *others = parts
    if count < len(first):
        return [first[count:], *others]
    return _without(others, count - len(first)) if others else []


#: The one that the Python recorder uses; the C recorder has its own.
HAND_OVER = HandOver()
