"""Runs one module of ``test.test_asyncio`` in a process of its own.

It writes a line of JSON for every event, so that a crash loses nothing. Run as
``python -P child.py MODULE bare|instrumented``, with the events on descriptor 3.
"""

from __future__ import annotations

import faulthandler
import gc
import importlib
import json
import os
import resource
import sys
import traceback
import unittest
from types import TracebackType
from typing import TextIO

EVENTS_FD = 3
#: A limit, because a test that misses its interrupt spins and remembers every call. One test of
#: test_runners does so now and then, also when it runs bare.
MEMORY_BYTES = 4 << 30
#: With what these import in turn, most of what the tests import.
STANDARD = (
    "asyncio",
    "http.server",
    "ssl",
    "test.support.script_helper",
    "unittest.mock",
    "wsgiref.simple_server",
)
ExcInfo = tuple[type[BaseException], BaseException, TracebackType] | tuple[None, None, None]


class EventResult(unittest.TestResult):
    """Writes the start and the outcome of every test as they happen."""

    def __init__(self, events: TextIO) -> None:
        super().__init__()
        self._events = events

    def emit(self, test: str, event: str, detail: str = "") -> None:
        """Write one event and flush it."""
        self._events.write(json.dumps({"test": test, "event": event, "detail": detail}) + "\n")
        self._events.flush()

    def startTest(self, test: unittest.TestCase) -> None:  # noqa: N802 - unittest's name
        super().startTest(test)
        self.emit(test.id(), "start")

    def addSuccess(self, test: unittest.TestCase) -> None:  # noqa: N802
        self.emit(test.id(), "ok")

    def addError(self, test: unittest.TestCase, err: ExcInfo) -> None:  # noqa: N802
        self.emit(test.id(), "error", _text(err))

    def addFailure(self, test: unittest.TestCase, err: ExcInfo) -> None:  # noqa: N802
        self.emit(test.id(), "fail", _text(err))

    def addSkip(self, test: unittest.TestCase, reason: str) -> None:  # noqa: N802
        self.emit(test.id(), "skip", reason)

    def addExpectedFailure(self, test: unittest.TestCase, err: ExcInfo) -> None:  # noqa: ARG002, N802
        self.emit(test.id(), "ok")

    def addUnexpectedSuccess(self, test: unittest.TestCase) -> None:  # noqa: N802
        self.emit(test.id(), "fail", "unexpected success")

    def addSubTest(  # noqa: N802
        self, test: unittest.TestCase, subtest: unittest.TestCase, err: ExcInfo | None
    ) -> None:
        if err is None:
            return
        failed = err[0] is not None and issubclass(err[0], test.failureException)
        self.emit(test.id(), "fail" if failed else "error", f"{subtest}\n{_text(err)}")


def _text(err: ExcInfo) -> str:
    return "".join(traceback.format_exception(*err))[-4000:]


def _freeze() -> None:
    """Leave modules of the standard library out of collections, of which the tests make thousands.

    They took three quarters of the time. What is ours is imported later, and not left out.
    """
    for name in STANDARD:
        importlib.import_module(name)
    gc.collect()
    gc.freeze()


def _implementation(*, instrumented: bool) -> str:
    if not instrumented:
        return "bare"
    import aiometrics

    aiometrics.start_exporter(port=0, addr="127.0.0.1")
    return aiometrics.IMPLEMENTATION


def _traced_tasks() -> int:
    import aiometrics

    return sum(coroutine.created for coroutine in aiometrics.snapshot().coroutines)


def main(module: str, mode: str) -> None:
    """Run the tests of one module.

    In the mode ``instrumented`` the exporter starts before the module is imported.
    """
    faulthandler.enable()
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    instrumented = mode == "instrumented"
    _freeze()
    with os.fdopen(EVENTS_FD, "w") as events:
        result = EventResult(events)
        result.emit("", "implementation", _implementation(instrumented=instrumented))
        name = f"test.test_asyncio.{module}"
        try:
            unittest.defaultTestLoader.loadTestsFromName(name).run(result)
        except unittest.SkipTest as skip:
            result.emit(name, "skip", str(skip))
        if instrumented:
            result.emit("", "traced", str(_traced_tasks()))
        result.emit("", "end")


if __name__ == "__main__":
    main(*sys.argv[1:])
