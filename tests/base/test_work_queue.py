"""Work that must not delay the program: done elsewhere, and dropped where there is too much of it."""

from __future__ import annotations

import logging
import subprocess
import sys
import threading
from collections.abc import Iterator
from functools import partial

import pytest

from aiometrics.base.internal_errors import InternalErrors
from aiometrics.base.work_queue import WorkQueue


class Gate:
    """A piece of work that does not get on until it is let: a log handler whose disk hangs."""

    def __init__(self) -> None:
        self.reached = threading.Event()
        self.open = threading.Event()

    def __call__(self) -> None:
        self.reached.set()
        self.open.wait()


@pytest.fixture
def internal_errors() -> InternalErrors:
    """Where errors are reported."""
    return InternalErrors()


@pytest.fixture
def work_queue(internal_errors: InternalErrors) -> Iterator[WorkQueue]:
    """One with room for three pieces."""
    made = WorkQueue(("slow_request", "trace"), internal_errors, capacity=3)
    yield made
    made.stop()


def counts(work_queue: WorkQueue, kind: str) -> tuple[int, int]:
    """How many pieces of that kind were written and dropped."""
    return work_queue.counts()[kind, "written"], work_queue.counts()[kind, "dropped"]


def test_work_is_done_in_order_by_another_thread(work_queue: WorkQueue) -> None:
    """One thread does it all, and by the end of stop() what was given before is done."""
    done: list[tuple[int, int]] = []

    def work(number: int) -> None:
        done.append((number, threading.get_ident()))

    for number in range(3):
        work_queue.put("trace", partial(work, number))
    work_queue.stop()
    assert [0, 1, 2] == [number for number, _ in done]
    (ident,) = {ident for _, ident in done}
    assert threading.get_ident() != ident
    assert (3, 0) == counts(work_queue, "trace")
    assert (0, 0) == counts(work_queue, "slow_request")


def test_put_is_reentrant_during_garbage_collection(
    work_queue: WorkQueue, internal_errors: InternalErrors, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Garbage collection may run in the middle of ``put()`` and end another request, which puts a job as well."""
    done: list[str] = []

    def disabled(_: str) -> bool:
        monkeypatch.undo()
        work_queue.put("trace", partial(done.append, "of the garbage"))
        return False

    monkeypatch.setattr(internal_errors, "disabled", disabled)
    work_queue.put("slow_request", partial(done.append, "given"))
    work_queue.stop()
    assert ["of the garbage", "given"] == done
    assert [(1, 0), (1, 0)] == [counts(work_queue, kind) for kind in ("trace", "slow_request")]


def test_there_is_no_thread_before_there_is_work(work_queue: WorkQueue) -> None:
    """Who never has a slow request pays for none."""
    assert [] == [thread for thread in threading.enumerate() if thread.name == "aiometrics-outbox"]
    assert 0 == sum(work_queue.counts().values())


def test_where_no_thread_can_be_started_everything_is_dropped(
    work_queue: WorkQueue,
    internal_errors: InternalErrors,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Who gives does not notice: there may be too many threads, or the interpreter is at its end."""

    def refuses(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuses)
    for _ in range(2):
        work_queue.put("trace", lambda: None)
    assert (0, 2) == counts(work_queue, "trace")
    assert {"outbox": 1} == internal_errors.counts()
    assert [
        "aiometrics: internal error in probe 'outbox', which is now off; the application is not affected"
    ] == caplog.messages


def test_at_the_end_of_the_program_all_work_is_done() -> None:
    """Nobody may have stopped it: a program that starts an exporter need not."""
    program = """
import threading
from functools import partial
from aiometrics.base.internal_errors import InternalErrors
from aiometrics.base.work_queue import WorkQueue
outbox, begun = WorkQueue(("trace",), InternalErrors()), threading.Event()
outbox.put("trace", begun.set)
for number in range(500):
    outbox.put("trace", partial(print, number))
begun.wait()
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert list(map(str, range(500))) == done.stdout.splitlines()


def test_what_finds_no_room_is_dropped_and_counted_by_kind(work_queue: WorkQueue) -> None:
    """While the first piece hangs three may wait; who brings more goes on at once."""
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


def test_after_the_end_new_work_has_a_new_thread(work_queue: WorkQueue) -> None:
    """Tracing may be taken up again; counts go on."""
    idents: list[int] = []

    def work() -> None:
        idents.append(threading.get_ident())

    work_queue.stop()
    for _ in range(2):
        work_queue.put("trace", work)
        work_queue.stop()
        work_queue.stop()
    assert 2 == len(idents)
    assert (2, 0) == counts(work_queue, "trace")


def test_work_that_raises_is_dropped_with_all_that_follows(
    work_queue: WorkQueue, internal_errors: InternalErrors, caplog: pytest.LogCaptureFixture
) -> None:
    """The error is logged once and counted; what waited behind it is counted as well, and what comes later."""
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


def test_work_may_give_more_work_and_end_it_all(work_queue: WorkQueue) -> None:
    """Who stops the outbox from within does not wait for itself."""
    done = threading.Event()

    def stop() -> None:
        work_queue.stop()
        done.set()

    work_queue.put("trace", lambda: work_queue.put("trace", stop))
    assert done.wait(300)
