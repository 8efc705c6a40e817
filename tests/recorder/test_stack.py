"""The frames of a thread, and other interpreters that run meanwhile."""

from __future__ import annotations

import gc
import subprocess
import sys
import threading
import time
import weakref
from importlib import import_module
from typing import Any

import pytest

from aiometrics.recorder import stack
from aiometrics.recorder.implementation import IMPLEMENTATIONS

#: A loop blocks while another interpreter runs.
WITH_INTERPRETER = """
import asyncio, sys, textwrap, threading, time
try:
    import _interpreters as interpreters
except ImportError:
    import _xxsubinterpreters as interpreters
import aiometrics
made = interpreters.create()
run = getattr(interpreters, "exec", None) or interpreters.run_string
CODE = textwrap.dedent('''
    import time
    end = time.monotonic() + 1.5
    while time.monotonic() < end:
        [str(number) for number in range(1000)]
''')
async def main():
    end = time.monotonic() + 1.5
    while time.monotonic() < end:
        time.sleep(0.02)
        await asyncio.sleep(0)
with aiometrics.start_exporter(
    0, "127.0.0.1", registry=None, blocking_threshold=1e-3, watchdog_interval=1e-3
) as exporter:
    other = threading.Thread(target=run, args=(made, CODE))
    other.start()
    asyncio.run(main())
    other.join()
interpreters.destroy(made)
print(exporter.snapshot().errors, "done")
"""


def here() -> int:
    """The line of the caller."""
    return sys._getframe(1).f_lineno


def until_waited_for(event: threading.Event) -> None:
    """Return once a thread waits for an event: what it did before is over by then."""
    waiters = vars(vars(event)["_cond"])["_waiters"]
    end = time.monotonic() + 60
    while not waiters:
        assert time.monotonic() < end
        time.sleep(0.001)


def test_the_frames_of_a_thread(implementation: str) -> None:
    """They are those of that thread only, the innermost first, each with its line and globals."""

    def waits() -> None:
        lines.append(here() + 1)
        goes_on.wait(300)

    def runs() -> None:
        lines.append(here() + 1)
        waits()

    lines: list[int] = []
    goes_on = threading.Event()
    thread = threading.Thread(target=runs)
    thread.start()
    try:
        until_waited_for(goes_on)
        found = IMPLEMENTATIONS[implementation].stack_of_thread(thread.ident or 0)
        own = [frame for frame in found if frame[2] is globals()]
    finally:
        goes_on.set()
        thread.join()
    assert [(waits.__code__, lines[1]), (runs.__code__, lines[0])] == [
        (code, line) for code, line, _ in own
    ]


def test_a_thread_that_does_not_exist_has_no_frames(implementation: str) -> None:
    """Its number is not that of a thread, or of none any more."""
    assert [] == IMPLEMENTATIONS[implementation].stack_of_thread(1)


@pytest.mark.parametrize("anywhere", [False, True], ids=["collects later", "collects anywhere"])
def test_a_look_holds_nothing_and_leaves_no_garbage(
    implementation: str,
    monkeypatch: pytest.MonkeyPatch,
    anywhere: bool,  # noqa: FBT001 - a parameter
) -> None:
    """The variables of a function are freed when it returns, though it was looked at."""

    class Local:
        pass

    def waits() -> None:
        local = Local()
        alive.append(weakref.ref(local))
        started.set()
        goes_on.wait(60)

    alive: list[weakref.ref[Local]] = []
    started, goes_on = threading.Event(), threading.Event()
    monkeypatch.setattr(stack, "COLLECTS_ANYWHERE", anywhere)
    thread = threading.Thread(target=waits)
    gc.collect()
    thread.start()
    assert started.wait(60)
    found = IMPLEMENTATIONS[implementation].stack_of_thread(thread.ident or 0)
    gc.disable()
    try:
        goes_on.set()
        thread.join()
        assert waits.__code__ in [code for code, _, _ in found]
        assert None is alive[0]()
    finally:
        gc.enable()


def test_python_looks_at_no_frames_while_there_is_another_interpreter(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Where it cannot know, it does not look either."""
    ident = threading.get_ident()
    others: list[Any] = [0, 1]
    monkeypatch.setattr(stack, "_list_interpreters", lambda: others)
    assert [] == stack.stack_of_thread(ident)
    del others[1:]
    assert stack.stack_of_thread(ident)
    monkeypatch.setattr(stack, "_list_interpreters", tuple)
    assert [] == stack.stack_of_thread(ident)


def test_interpreters_are_found() -> None:
    """There is one in this process, unless a test left more."""
    module = next(
        name for name in ("_interpreters", "_xxsubinterpreters") if _imports(name) is not None
    )
    assert import_module(module).list_all() == stack._list_interpreters()


def _imports(name: str) -> Any:
    try:
        return import_module(name)
    except ImportError:
        return None


@pytest.mark.parametrize("extensions", [True, False], ids=["c", "python"])
def test_a_loop_blocks_while_another_interpreter_runs(extensions: bool) -> None:  # noqa: FBT001 - a parameter
    """Looking at the stacks of all interpreters would corrupt the memory of the process."""
    environment = {} if extensions else {"AIOMETRICS_NO_EXTENSIONS": "1"}
    told = subprocess.run(
        [sys.executable, "-c", WITH_INTERPRETER],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        env=environment,
    )
    assert (0, "{} done\n") == (told.returncode, told.stdout), told.stderr
