"""Other tools see a traced program as they see a bare one.

They read the memory of the process, replace parts of asyncio, or look at suspended coroutines.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Generator
from contextlib import contextmanager

import pytest

import aiometrics

C_CORE = aiometrics.IMPLEMENTATION == "c"
# The machine may be busy, and a block would be logged.
START = "import aiometrics; aiometrics.start_exporter(port=0, blocking_threshold=60)\n"
BARE = "\n"  # so that lines have the same numbers

CROWD = """
import asyncio
import sys

async def leaf(event):
    await event.wait()

async def middle(event):
    await leaf(event)

async def group(event):
    async with asyncio.TaskGroup() as tasks:
        for number in range(20):
            tasks.create_task(middle(event), name=f"member {number}")

async def main():
    event = asyncio.Event()
    alone = [asyncio.create_task(middle(event), name=f"alone {n}") for n in range(8)]
    alone.append(asyncio.create_task(group(event), name="group"))
    gathered = [asyncio.create_task(middle(event), name=f"gathered {n}") for n in range(20)]
    both = asyncio.gather(*gathered)
    await asyncio.sleep(0.1)
    # Once this task waits as well: it must stand still while it is read.
    asyncio.get_running_loop().call_later(0.1, lambda: print("ready", flush=True))
    await asyncio.to_thread(sys.stdin.read)
    event.set()
    await asyncio.gather(both, *alone)

asyncio.run(main())
"""

BUSY = """
import asyncio
import sys

def work():
    return sum(range(2_000))

async def leaf():
    for _ in range(20):
        work()
        await asyncio.sleep(0)

async def middle():
    while True:
        await leaf()

async def main():
    tasks = [asyncio.create_task(middle(), name=f"busy {n}") for n in range(5)]
    print("ready", flush=True)
    await asyncio.to_thread(sys.stdin.read)
    for task in tasks:
        task.cancel()

asyncio.run(main())
"""


@contextmanager
def running(program: str) -> Generator[int, None, None]:
    """The pid of a process that runs ``program`` and has printed that it is ready."""
    with subprocess.Popen(
        [sys.executable, "-c", program],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        yield process.pid
        process.stdin.close()
        assert process.wait(300) == 0


def output_of(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run Python with ``arguments`` to its end."""
    return subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, timeout=300, check=False
    )


def stable(text: str) -> str:
    """``text`` without addresses, process numbers and the width of columns."""
    text = re.sub(r"0x[0-9a-f]+", "#", text)
    return re.sub(r"(?m)^\d+ ", "PID ", re.sub(r"[ -]{2,}", "  ", text))


def run(program: str) -> str:
    """Return what ``program`` prints, made comparable; it must not fail or complain."""
    done = output_of("-c", program)
    assert not done.stderr
    assert done.returncode == 0
    return stable(done.stdout)


def assert_same(program: str) -> str:
    """Assert that ``program`` prints the same bare and traced, and return it."""
    bare = run(BARE + program)
    assert bare
    assert run(START + program) == bare
    return bare


needs_remote_reading = pytest.mark.skipif(
    sys.version_info < (3, 14), reason="asyncio can be read from outside from Python 3.14 on"
)


def read_by_asyncio(command: str, program: str) -> str:
    """Return what a command of ``python -m asyncio`` says about a running program."""
    with running(program) as pid:
        done = output_of("-m", "asyncio", command, str(pid))
    assert done.returncode == 0, done.stderr or done.stdout
    return stable(done.stdout)


@needs_remote_reading
@pytest.mark.parametrize("command", ["ps", "pstree"])
def test_asyncio_reads_the_same_tasks_from_outside(command: str) -> None:
    """Names, chains and awaiters of 50 tasks, in groups and gathers."""
    bare = read_by_asyncio(command, BARE + CROWD)
    traced = read_by_asyncio(command, START + CROWD)
    assert bare.count("member ") >= 20
    if C_CORE:
        assert sorted(traced.splitlines()) == sorted(bare.splitlines())
    else:
        assert traced.count("member ") == bare.count("member ")


CALL_GRAPH = """
import asyncio

def shape(graph):
    return (
        graph.future.get_name() if hasattr(graph.future, "get_name") else "future",
        [entry.frame.f_code.co_qualname for entry in graph.call_stack],
        [shape(waiter) for waiter in graph.awaited_by],
    )

async def leaf(event):
    await event.wait()

async def main():
    event = asyncio.Event()
    async with asyncio.TaskGroup() as group:
        task = group.create_task(leaf(event), name="leaf")
        group.create_task(leaf(event), name="other")
        async def look():
            await asyncio.sleep(0.01)
            print(shape(asyncio.capture_call_graph(task)))
            print(shape(asyncio.capture_call_graph()))
            print(asyncio.format_call_graph(task))
            event.set()
        group.create_task(look(), name="look")

asyncio.run(main(), debug=False)
"""


@needs_remote_reading
def test_call_graph_is_the_same() -> None:
    """The call graph that a program captures of its own tasks."""
    if C_CORE:
        assert "leaf" in assert_same(CALL_GRAPH)


def sampled_errors(program: str) -> float:
    """The share of its samples, in percent, that the standard library's profiler lost."""
    with running(program) as pid:
        done = output_of(
            *("-m", "profiling.sampling", "attach", "--async-aware", "-d", "2", str(pid))
        )
    assert done.returncode == 0, done.stderr
    found = re.search(r"error rate[^0-9]*([0-9.]+)", done.stdout + done.stderr, re.IGNORECASE)
    return float(found[1]) if found else 0.0


@pytest.mark.skipif(
    sys.version_info < (3, 15) or not C_CORE,
    reason="the profiler comes with Python 3.15; the recorder in Python still wraps coroutines",
)
def test_sampling_profiler_loses_no_more_samples() -> None:
    """It reads the tasks of another process without stopping it."""
    assert sampled_errors(START + BUSY) <= sampled_errors(BARE + BUSY) + 10


GREENBACK = """
import asyncio
import greenback

async def answer():
    await asyncio.sleep(0)
    return 42

def synchronous():
    return greenback.await_(answer())

async def late():
    await greenback.ensure_portal()
    return synchronous()

async def main():
    await greenback.ensure_portal()
    print(synchronous())
    print(await asyncio.create_task(late()))
    task = asyncio.create_task(asyncio.sleep(0.01, "bestowed"))
    greenback.bestow_portal(task)
    print(await task)
    print(await greenback.with_portal_run(asyncio.sleep, 0, "run"))
    await asyncio.create_task(cancelled())

async def cancelled():
    await greenback.ensure_portal()
    task = asyncio.current_task()
    asyncio.get_running_loop().call_soon(task.cancel, "why")
    try:
        greenback.await_(asyncio.sleep(10))
    except asyncio.CancelledError as error:
        print(error.args)
        task.uncancel()

asyncio.run(main())
"""

NESTED = """
async def inner(number):
    await asyncio.sleep(0.001)
    return number

async def main():
    loop = asyncio.get_running_loop()
    found = [loop.run_until_complete(inner(number)) for number in range(3)]
    print(found, await asyncio.gather(*(inner(number) for number in range(3))))
    endless = loop.create_task(asyncio.sleep(10))
    loop.call_later(0.001, endless.cancel, "enough")
    try:
        loop.run_until_complete(endless)
    except asyncio.CancelledError as error:
        print(error.args)

asyncio.run(main())
print(asyncio.run(inner(4)))
"""
APPLY = "import nest_asyncio; nest_asyncio.apply()\n"

PYINSTRUMENT = """
import asyncio
import time
from pyinstrument import Profiler

def work():
    end = time.perf_counter() + 0.1
    while time.perf_counter() < end:
        pass

async def leaf():
    work()
    await asyncio.sleep(0.1)

async def main():
    profiler = Profiler(async_mode="enabled", interval=0.001)
    with profiler:
        await leaf()
    frame = profiler.last_session.root_frame()
    def names(frame):
        yield frame.function
        for child in frame.children:
            yield from names(child)
    wanted = {"main", "leaf", "work", "sleep", "[await]"}
    print(sorted(wanted & set(names(frame))))

asyncio.run(main())
"""

SUSPENDED = """
import asyncio
import inspect
import pdb
import io
import sys
import traceback

async def leaf():
    secret = "seen"
    await asyncio.sleep(10)

async def middle():
    await leaf()

async def main():
    task = asyncio.create_task(middle(), name="watched")
    await asyncio.sleep(0)
    coroutine = task.get_coro()
    print(coroutine.cr_frame.f_code.co_name, coroutine.cr_running, coroutine.cr_suspended)
    print(inspect.getcoroutinestate(coroutine), inspect.iscoroutine(coroutine))
    print([frame.f_lineno for frame in task.get_stack()], coroutine.cr_await.__qualname__)
    print(coroutine.cr_await.cr_frame.f_locals["secret"])
    commands = io.StringIO("where\\np task.get_coro().cr_await.cr_frame.f_locals\\ncontinue\\n")
    debugger = pdb.Pdb(stdin=commands, stdout=sys.stdout, nosigint=True, readrc=False)
    debugger.use_rawinput = False
    debugger.set_trace()
    await asyncio.sleep(0)
    task.print_stack(file=sys.stdout)
    print(task, repr(coroutine))

asyncio.run(main())
"""

AIOMONITOR = """
import asyncio
import re
import aiomonitor

async def leaf():
    await asyncio.sleep(10)

async def middle():
    await leaf()

async def main():
    loop = asyncio.get_running_loop()
    options = {"hook_task_factory": False, "console_enabled": False, "port": 0, "webui_port": 0}
    with aiomonitor.start_monitor(loop, **options) as monitor:
        task = asyncio.create_task(middle(), name="watched")
        await asyncio.sleep(0.05)
        for row in sorted(monitor.format_running_task_list("", False), key=lambda row: row.name):
            if row.name == "watched":
                print(row.state, row.name, row.coro)
        lines = monitor.format_running_task_stack(str(id(task)))
        print(re.sub(r"\\d{6,}", "#", "".join(line.content for line in lines)))

asyncio.run(main())
"""


WATCHED = """
import asyncio
import gc
import sys
import threading
import time

import aiometrics

OURS = aiometrics.__file__.removesuffix("__init__.py")
seen = []

def watch(frame, event, argument):
    if frame.f_code.co_filename.startswith(OURS):
        seen.append((frame.f_code.co_filename, frame.f_code.co_name, event))
    return watch

async def leaf():
    await asyncio.sleep(0.01)
    time.sleep(0.06)
    await Pause()

class Pause:
    def __await__(self):
        yield

async def main():
    WATCH(watch)
    tasks = [asyncio.create_task(leaf()) for _ in range(3)]
    async with asyncio.timeout(300):
        await asyncio.gather(*tasks)
    asyncio.get_running_loop().call_soon(time.sleep, 0.06)
    await asyncio.to_thread(len, "some")
    gc.collect()
    WATCH(None)
    print(len(tasks), seen)

asyncio.run(main())
"""


needs_slot = pytest.mark.skipif(
    not C_CORE, reason="the recorder in Python gives tasks a wrapper, which these tools refuse"
)


@needs_slot
def test_greenback_works() -> None:
    """It finds the coroutine of a task by its offset in the task, and replaces it."""
    pytest.importorskip("greenback")
    assert "42\n42\nbestowed\nrun\n('why',)" in assert_same(GREENBACK)


@pytest.mark.parametrize("applied", ["before", "after"])
def test_nested_loops_work(applied: str) -> None:
    """nest_asyncio replaces the C tasks by those in Python, before or after the start."""
    pytest.importorskip("nest_asyncio")
    head = "import asyncio\n"
    bare = run(head + BARE + APPLY + NESTED)
    assert "enough" in bare
    traced = APPLY + START if applied == "before" else START + APPLY
    assert run(head + traced + NESTED) == bare


@needs_slot
def test_pyinstrument_sees_the_same_functions() -> None:
    """Its asynchronous mode follows a context variable through awaits."""
    pytest.importorskip("pyinstrument")
    assert "work" in assert_same(PYINSTRUMENT)


@needs_slot
def test_debugger_sees_the_same_suspended_coroutine() -> None:
    """Inspection, stacks and a debugger see the coroutine itself."""
    assert "seen" in assert_same(SUSPENDED)


def test_aiomonitor_shows_the_same_task() -> None:
    """Its commands ``ps`` and ``where`` print the same."""
    pytest.importorskip("aiomonitor")
    assert "watched" in assert_same(AIOMONITOR)


@needs_slot
@pytest.mark.parametrize("watch", ["sys.setprofile", "sys.settrace"])
def test_profilers_and_debuggers_see_no_code_of_ours(watch: str) -> None:
    """Not when a place is named for the first time, a callback blocks, or garbage is collected."""
    start = "import aiometrics; aiometrics.start_exporter(port=0, blocking_threshold=0.05)\n"
    done = output_of("-c", start + WATCHED.replace("WATCH(", f"{watch}("))
    assert (done.returncode, done.stdout) == (0, "3 []\n"), done.stderr
