"""A bounded queue of jobs that must not delay the program.

A thread runs them, and jobs that do not fit are dropped and counted.
"""

from __future__ import annotations

import atexit
import threading
from collections.abc import Callable, Iterable
from functools import partial
from queue import SimpleQueue

from aiometrics.base import fork, unpatched
from aiometrics.base.internal_errors import InternalErrors

#: The number of jobs that may wait.
CAPACITY = 1000
PROBE = "outbox"
_STOP_SECONDS = 5.0

Job = Callable[[], object]
_Jobs = SimpleQueue[tuple[str, Job] | None]


class WorkQueue:
    """Runs jobs in a thread of its own, which starts with the first job.

    At most ``capacity`` jobs wait. Each job is of one of ``kinds``; finished and dropped jobs are
    counted by kind. A job that raises counts as dropped and as an internal error of the probe
    ``outbox``, which disables the queue: it drops all further jobs. At exit the queue finishes the
    jobs that wait and stops.
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
        """Start with an empty queue, also in a forked child.

        The parent runs and counts the jobs that wait.
        """
        self._done = dict.fromkeys(self._kinds, 0)
        self._dropped = dict.fromkeys(self._kinds, 0)
        #: Held by callers of :meth:`put`, never by the thread while it runs jobs, so that callers
        #: never wait for a job. Reentrant, because garbage collection while it is held can end a
        #: request, which puts a job as well.
        self._put_lock = threading.RLock()
        self._jobs: _Jobs | None = None
        self._thread: threading.Thread | None = None

    def put(self, kind: str, job: Job) -> None:
        """Queue ``job`` to be run soon, or drop it.

        Any thread may call this; it never waits for a job and never raises.
        """
        with self._put_lock:
            jobs = self._open()
            if jobs is None or jobs.qsize() >= self._capacity:
                self._dropped[kind] += 1
            else:
                jobs.put((kind, job))

    def counts(self) -> dict[tuple[str, str], int]:
        """Return the number of jobs by kind and outcome: ``written`` or ``dropped``."""
        outcomes = {"written": self._done, "dropped": self._dropped}
        return {
            (kind, outcome): counts[kind]
            for kind in self._done
            for outcome, counts in outcomes.items()
        }

    def stop(self) -> None:
        """Stop the thread once it has run the jobs that wait.

        Waits for that for at most 5 s. A later job starts another thread.
        """
        with self._put_lock:
            jobs, thread, self._jobs = self._jobs, self._thread, None
        atexit.unregister(self.stop)
        if jobs is None or thread is None:
            return
        jobs.put(None)
        if thread is not threading.current_thread():
            thread.join(_STOP_SECONDS)

    def _open(self) -> _Jobs | None:
        """Return the queue of a running thread, or ``None`` if no more jobs will be run."""
        if self._internal_errors.disabled(PROBE):
            return None
        if self._jobs is None:
            self._start()
        return self._jobs

    def _start(self) -> None:
        jobs = self._jobs = SimpleQueue()
        try:
            thread = unpatched.start_thread(partial(self._run, jobs), "aiometrics-outbox")
        # There are too many threads, or the interpreter is shutting down.
        except RuntimeError as error:
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
                self._drop(kind, jobs)
                return
            self._done[kind] += 1

    def _drop(self, kind: str, jobs: _Jobs) -> None:
        """Count the job that failed, and the jobs that waited behind it, as dropped."""
        with self._put_lock:
            self._dropped[kind] += 1
            while not jobs.empty():
                queued = jobs.get()
                if queued is not None:
                    self._dropped[queued[0]] += 1
