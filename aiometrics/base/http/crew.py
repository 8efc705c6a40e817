"""Threads that stay: one waits for the next client, and serves it while another one waits."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterable

from aiometrics.base import green_threads, unpatched
from aiometrics.base.http.connection import Connection

#: Threads that are there from the start: for two scrapers that keep their connections, as a pair of
#: Prometheus servers does, and to wait for the next client.
STAYING = 3


class Crew:
    """At most ``most`` daemon threads, which call ``accept`` in turn and ``serve`` what it returns.

    One thread at a time is inside ``accept``; ``None`` from it ends the thread. Threads neither
    come nor go with a client: some start at once, and one that has to be added later stays as well.
    So no client waits for a thread to start, and a program that counts its threads sees no scrape.
    """

    def __init__(
        self,
        accept: Callable[[], Connection | None],
        serve: Callable[[Connection], None],
        most: int,
    ) -> None:
        self._accept = accept
        self._serve = serve
        self._most = most
        self._threads: list[threading.Thread] = []
        self._served: set[Connection] = set()
        #: Reentrant, because an error is reported inside, and a log handler may end the crew.
        self._turn = threading.RLock()

    def start(self) -> None:
        """Start the threads that are always there."""
        for _ in range(min(STAYING, self._most)):
            self._add()

    def find_successor(self) -> None:
        """See to it that a thread waits for its turn. Called by the one whose turn it is.

        Raises ``RuntimeError`` if there is none and none can be started.
        """
        if len(self._threads) < min(len(self._served) + 2, self._most):
            self._add()

    def await_turn(self, seconds: float) -> None:
        """Wait until no thread is inside ``accept``."""
        if self._turn.acquire(timeout=seconds):
            self._turn.release()

    def join(self, seconds: float) -> None:
        """Wait for all threads, but not for the current one."""
        _join(self._threads, seconds)

    def _add(self) -> None:
        self._threads.append(unpatched.start_thread(self._run, "aiometrics-http"))

    def _run(self) -> None:
        _block_broken_pipes()
        while (connection := self._next()) is not None:
            self._serve(connection)
            self._served.discard(connection)

    def _next(self) -> Connection | None:
        with self._turn:
            connection = self._accept()
            if connection is not None:
                self._served.add(connection)
            return connection


def _block_broken_pipes() -> None:
    """Have the thread get errors from sockets that were cut, even if the program wants the signal.

    Its default is to end the process, and OpenSSL cannot be told not to raise it. Greenlets run on
    the program's own thread, which keeps it.
    """
    if hasattr(signal, "pthread_sigmask") and not green_threads.patched_by():
        signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGPIPE,))


def _join(threads: Iterable[threading.Thread], seconds: float) -> None:
    deadline = unpatched.monotonic() + seconds
    for thread in threads:
        if thread is not threading.current_thread() and thread.is_alive():
            thread.join(max(0.0, deadline - unpatched.monotonic()))
