"""Work that must not delay the program: handed over without waiting, done by a thread, and dropped and counted where it is too much."""

from __future__ import annotations

import atexit
import threading
from collections.abc import Callable, Iterable
from queue import SimpleQueue

from aiometrics.base import fork
from aiometrics.base.internal_errors import InternalErrors

#: Pieces of work that may wait.
CAPACITY = 1000
PROBE = "outbox"
_STOP_SECONDS = 5.0

Job = Callable[[], object]
_Jobs = SimpleQueue[tuple[str, Job] | None]


class WorkQueue:
    """Does what it is given in a thread of its own, which starts with the first piece; at most ``capacity`` pieces wait.

    Each piece is of one of ``kinds``, by which is counted what was done and what was dropped. A piece that raises counts as dropped and
    as an error of the probe ``outbox``, which is then off: from then on everything is dropped. At the end of the program it is stopped.
    """

    def __init__(
        self, kinds: Iterable[str], internal_errors: InternalErrors, capacity: int = CAPACITY
    ) -> None:
        self._internal_errors = internal_errors
        self._capacity = capacity
        self._kinds = tuple(kinds)
        self._begin()
        fork.forget_in_child(self, fork.Stage.LOCKS, WorkQueue._begin)

    def _begin(self) -> None:
        """Start with nothing to do, also in a forked child: the parent does what waits, and counts it."""
        self._done = dict.fromkeys(self._kinds, 0)
        self._dropped = dict.fromkeys(self._kinds, 0)
        #: Between those who give; the thread never takes it, so that they never wait for it. Reentrant, because garbage collection in the
        #: middle may end a request, and give as well.
        self._giving = threading.RLock()
        self._jobs: _Jobs | None = None
        self._thread: threading.Thread | None = None

    def put(self, kind: str, job: Job) -> None:
        """Have ``job`` done soon, or drop it. For any thread; never waits for work, never raises."""
        with self._giving:
            jobs = self._open()
            if jobs is None or jobs.qsize() >= self._capacity:
                self._dropped[kind] += 1
            else:
                jobs.put((kind, job))

    def counts(self) -> dict[tuple[str, str], int]:
        """How many pieces of each kind were ``written``, and how many ``dropped``."""
        outcomes = {"written": self._done, "dropped": self._dropped}
        return {
            (kind, outcome): counts[kind]
            for kind in self._done
            for outcome, counts in outcomes.items()
        }

    def stop(self) -> None:
        """End the thread when it has done what waits; returns then, but after 5 s at the latest. What is given later starts another."""
        with self._giving:
            jobs, thread, self._jobs = self._jobs, self._thread, None
        atexit.unregister(self.stop)
        if jobs is None or thread is None:
            return
        jobs.put(None)
        if thread is not threading.current_thread():
            thread.join(_STOP_SECONDS)

    def _open(self) -> _Jobs | None:
        """What is to be done, by a thread that runs; ``None`` if nothing is to be done any more."""
        if self._internal_errors.disabled(PROBE):
            return None
        if self._jobs is None:
            self._start()
        return self._jobs

    def _start(self) -> None:
        jobs = self._jobs = SimpleQueue()
        thread = threading.Thread(
            target=self._run, args=(jobs,), name="aiometrics-outbox", daemon=True
        )
        try:
            thread.start()
        except (
            RuntimeError
        ) as error:  # there are too many threads, or the interpreter is at its end
            self._jobs = None
            self._internal_errors.report(PROBE, error)
            return
        self._thread = thread
        atexit.register(self.stop)

    def _run(self, jobs: _Jobs) -> None:
        while (queued := jobs.get()) is not None:
            kind, job = queued
            try:
                job()
            except Exception as error:  # noqa: BLE001 - never the application's problem
                self._internal_errors.report(PROBE, error)
                self._lose(kind, jobs)
                return
            self._done[kind] += 1

    def _lose(self, kind: str, jobs: _Jobs) -> None:
        """Count what failed, and what waited behind it."""
        with self._giving:
            self._dropped[kind] += 1
            while not jobs.empty():
                queued = jobs.get()
                if queued is not None:
                    self._dropped[queued[0]] += 1
