"""The work queue: a thread runs its jobs, and jobs that do not fit are dropped and counted."""

from __future__ import annotations

import logging
import subprocess
import sys
import threading
from collections.abc import Iterator
from functools import partial

import pytest

from aiometrics.base import unpatched
from aiometrics.base.internal_errors import InternalErrors
from aiometrics.base.work_queue import WorkQueue


class Gate:
    """A job that blocks until ``open`` is set, such as a log handler whose disk hangs."""

    def __init__(self) -> None:
        self.reached = threading.Event()
        self.open = threading.Event()

    def __call__(self) -> None:
        self.reached.set()
        self.open.wait()


@pytest.fixture
def internal_errors() -> InternalErrors:
    """The object to which the queue reports errors."""
    return InternalErrors()


@pytest.fixture
def work_queue(internal_errors: InternalErrors) -> Iterator[WorkQueue]:
    """A queue with room for three jobs, which is stopped after the test."""
    queue = WorkQueue(("slow_request", "trace"), internal_errors, capacity=3)
    yield queue
    queue.stop()


def counts(work_queue: WorkQueue, kind: str) -> tuple[int, int]:
    """Return how many jobs of that kind were written and dropped."""
    return work_queue.counts()[kind, "written"], work_queue.counts()[kind, "dropped"]


def test_jobs_run_in_order_in_another_thread(work_queue: WorkQueue) -> None:
    """One thread runs them all, and ``stop()`` returns after the jobs that were put before."""
    done: list[tuple[int, int]] = []

    def job(number: int) -> None:
        done.append((number, threading.get_ident()))

    for number in range(3):
        work_queue.put("trace", partial(job, number))
    work_queue.stop()
    assert [0, 1, 2] == [number for number, _ in done]
    (ident,) = {ident for _, ident in done}
    assert threading.get_ident() != ident
    assert (3, 0) == counts(work_queue, "trace")
    assert (0, 0) == counts(work_queue, "slow_request")


def test_put_is_reentrant_during_garbage_collection(
    work_queue: WorkQueue, internal_errors: InternalErrors, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A collection in the middle of ``put()`` may end another request, which puts a job as well."""
    done: list[str] = []

    def disabled(_: str) -> bool:
        monkeypatch.undo()
        work_queue.put("trace", partial(done.append, "from the collection"))
        return False

    monkeypatch.setattr(internal_errors, "disabled", disabled)
    work_queue.put("slow_request", partial(done.append, "from the caller"))
    work_queue.stop()
    assert ["from the collection", "from the caller"] == done
    assert [(1, 0), (1, 0)] == [counts(work_queue, kind) for kind in ("trace", "slow_request")]


def test_no_thread_is_started_before_the_first_job(internal_errors: InternalErrors) -> None:
    """A program without slow requests does not pay for a thread."""
    others = set(threading.enumerate())
    work_queue = WorkQueue(("slow_request", "trace"), internal_errors)
    started = set(threading.enumerate()) - others
    assert [] == [thread for thread in started if thread.name == "aiometrics-outbox"]
    assert 0 == sum(work_queue.counts().values())


def test_all_jobs_are_dropped_when_no_thread_can_be_started(
    work_queue: WorkQueue,
    internal_errors: InternalErrors,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The caller does not notice; there are too many threads, or the interpreter shuts down."""

    def refuse(*_: object) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(unpatched, "start_thread", refuse)
    for _ in range(2):
        work_queue.put("trace", lambda: None)
    assert (0, 2) == counts(work_queue, "trace")
    assert {"outbox": 1} == internal_errors.counts()
    assert [
        (
            "aiometrics: internal error in probe 'outbox', which is now off; "
            "the application is not affected"
        )
    ] == caplog.messages


def test_all_jobs_run_before_the_program_ends() -> None:
    """They run even if the program never stops the queue, as it need not stop an exporter."""
    program = """
import threading
from functools import partial
from aiometrics.base.internal_errors import InternalErrors
from aiometrics.base.work_queue import WorkQueue
work_queue, begun = WorkQueue(("trace",), InternalErrors()), threading.Event()
work_queue.put("trace", begun.set)
for number in range(500):
    work_queue.put("trace", partial(print, number))
begun.wait()
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert list(map(str, range(500))) == done.stdout.splitlines()


def test_jobs_are_dropped_and_counted_by_kind_when_the_queue_is_full(work_queue: WorkQueue) -> None:
    """While the first job hangs, three may wait; a caller that puts more does not wait."""
    gate = Gate()
    work_queue.put("slow_request", gate)
    gate.reached.wait()
    for _ in range(4):
        work_queue.put("slow_request", lambda: None)
    work_queue.put("trace", lambda: None)
    gate.open.set()
    work_queue.stop()
    assert (4, 1) == counts(work_queue, "slow_request")
    assert (0, 1) == counts(work_queue, "trace")


def test_new_thread_is_started_when_a_job_is_put_after_stop(work_queue: WorkQueue) -> None:
    """Tracing may be started again; then the counts go on."""
    idents: list[int] = []

    def job() -> None:
        idents.append(threading.get_ident())

    work_queue.stop()
    for _ in range(2):
        work_queue.put("trace", job)
        work_queue.stop()
        work_queue.stop()
    assert 2 == len(idents)
    assert (2, 0) == counts(work_queue, "trace")


def test_job_is_dropped_with_all_later_ones_when_it_raises(
    work_queue: WorkQueue, internal_errors: InternalErrors, caplog: pytest.LogCaptureFixture
) -> None:
    """The error is counted and logged once; jobs that waited or come later count as dropped."""
    gate, never = Gate(), threading.Event()

    def broken() -> None:
        raise OSError("no space left on device")

    work_queue.put("slow_request", gate)
    gate.reached.wait()
    work_queue.put("slow_request", broken)
    work_queue.put("trace", never.set)
    gate.open.set()
    work_queue.stop()
    work_queue.put("trace", never.set)
    assert not never.is_set()
    assert {"outbox": 1} == internal_errors.counts()
    assert ["no space left on device"] == [
        str(record.exc_info[1]) for record in caplog.records if record.exc_info
    ]
    assert logging.ERROR == caplog.records[0].levelno
    assert {
        ("slow_request", "written"): 1,
        ("slow_request", "dropped"): 1,
        ("trace", "written"): 0,
        ("trace", "dropped"): 2,
    } == work_queue.counts()


def test_job_may_put_another_job_and_stop_the_queue(work_queue: WorkQueue) -> None:
    """A job that stops the queue does not wait for its own thread."""
    done = threading.Event()

    def stop() -> None:
        work_queue.stop()
        done.set()

    work_queue.put("trace", lambda: work_queue.put("trace", stop))
    assert done.wait(300)
