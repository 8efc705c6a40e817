"""Processes that fork: a child has pages and threads of its own, and counts nothing twice."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families as parse

from aiometrics.pages.multiprocess.private_file import SUPPORTED

pytestmark = pytest.mark.skipif(
    not SUPPORTED or not hasattr(os, "fork"), reason="this system cannot fork, or has no flock()"
)

#: What the programs have in common. They end with the page of the whole service, as the parent
#: serves it.
BEGIN = """
import asyncio, gc, multiprocessing, os, sys, threading, urllib.request
import aiometrics

async def works():
    await asyncio.sleep(0)

async def work(number=1):
    for _ in range(number):
        await asyncio.create_task(works())

def start():
    # No wait of a parent counts as a block, which would be logged.
    return aiometrics.start_exporter(
        0, "127.0.0.1", directory=sys.argv[1], registry=None, blocking_threshold=1e6
    )

def waited(child):
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

# From Python 3.14 on a child that forgets these can run no task of its parent's, nor another loop
# inside of one.
def go_on(loop, task):
    asyncio._set_running_loop(loop)
    if asyncio.current_task() is None:
        asyncio._enter_task(loop, task)

def leave(loop, task):
    asyncio._leave_task(loop, task)
    asyncio._set_running_loop(None)

def threads():
    names = (thread.name for thread in threading.enumerate())
    return sorted(name for name in names if name.startswith("aiometrics"))

def end(exporter):
    print(urllib.request.urlopen(exporter.url).read().decode())
"""


def run(directory: Path, program: str, *, implementation: str = "") -> dict[tuple[str, ...], float]:
    """The samples that the program prints, by name and labels."""
    environ = {**os.environ, "AIOMETRICS_NO_EXTENSIONS": "1" if implementation == "python" else ""}
    command = [
        sys.executable,
        "-W",
        "ignore::DeprecationWarning",
        "-c",
        BEGIN + program,
        str(directory),
    ]
    return printed(command, environ)


def printed(command: list[str], environ: dict[str, str]) -> dict[tuple[str, ...], float]:
    """The samples that a program prints, which must succeed.

    The only warning it may print is that the files of tests are on a disk.
    """
    done = subprocess.run(
        command, check=False, capture_output=True, text=True, env=environ, timeout=300
    )
    complaints = [line for line in done.stderr.splitlines() if "Use one in memory" not in line]
    assert (0, []) == (done.returncode, complaints)
    return {
        (sample.name, *sample.labels.values()): sample.value
        for family in parse(done.stdout)
        for sample in family.samples
    }


PRELOADED = """
exporter = start()
children = []
for number in (10, 20):
    child = os.fork()
    if not child:
        assert threads() == []
        asyncio.run(work(number))
        assert threads() == [f"aiometrics-{name}" for name in ("keeper", "sampler", "watchdog")]
        os._exit(0)
    children.append(child)
assert [0, 0] == [waited(child) for child in children]
end(exporter)
"""


def test_workers_of_a_preloaded_service_are_traced(tmp_path: Path, implementation: str) -> None:
    """The exporter is started before the fork. The parent shows the numbers of all children."""
    found = run(tmp_path / "shared", PRELOADED, implementation=implementation)
    assert 30 == found["asyncio_tasks_created_total", "__main__.works"]
    assert {0} == {
        value for (name, *_), value in found.items() if name == "asyncio_loop_process_id"
    }


IN_A_TASK = """
async def main():
    await work(5)
    own = asyncio.get_running_loop(), asyncio.current_task()
    pending = asyncio.create_task(works())
    child = os.fork()
    if child:
        await pending
        return waited(child)
    try:
        go_on(*own)
        await pending
        gc.collect()
        leave(*own)
        asyncio.run(work(7))
        seen = exporter.snapshot()
        assert 7 + 5 + 1 == seen.coroutine("__main__.works").created, seen.coroutines
        loops = [(loop.loop, loop.process_id) for loop in seen.loops]
        # The C recorder adopts the tasks of the inherited loop, which go on here.
        inherited = [("1", os.getpid())] if aiometrics.IMPLEMENTATION == "c" else []
        assert [("0", os.getppid()), *inherited, (str(1 + len(inherited)), 0)] == loops
        os._exit(0)
    except BaseException as error:
        print(repr(error), flush=True)
        os._exit(1)

exporter = start()
assert 0 == asyncio.run(main())
end(exporter)
"""


def test_a_task_that_forks_goes_on_in_both(tmp_path: Path, implementation: str) -> None:
    """Inherited tasks are created and ended in the parent only; those of its own in the child."""
    found = run(tmp_path / "shared", IN_A_TASK, implementation=implementation)
    assert 5 + 1 + 7 == found["asyncio_tasks_created_total", "__main__.works"]
    assert 0 == found["asyncio_tasks", "__main__.works"]
    done = sum(
        value
        for (name, *labels), value in found.items()
        if (name, *labels[:1]) == ("asyncio_task_wall_seconds_count", "__main__.works")
    )
    assert 5 + 1 + 7 == done


UNWRITTEN = """
exporter = start()

async def main():
    await work(5)
    (slot,) = exporter.instrumentation.slots()
    own = asyncio.get_running_loop(), asyncio.current_task()
    pending = asyncio.create_task(works())
    # Nobody but the child could write from here on: the parent waits for it, and its threads are
    # stopped.
    exporter._periodic.stop()
    for watcher in exporter._watchers:
        watcher.stop()
    gc.disable()  # which the parent would count
    before = bytes(slot.page.memory)
    child = os.fork()
    if child:
        code = waited(child)
        assert before == bytes(slot.page.memory)
        return code
    try:
        go_on(*own)
        await pending
        gc.collect()
        exporter.instrumentation.refresh()
        leave(*own)
        asyncio.run(work(3))
        exporter.stop()
        os._exit(0)
    except BaseException as error:
        print(repr(error), flush=True)
        os._exit(1)
assert 0 == asyncio.run(main())
end(exporter)
"""


def test_a_child_writes_nothing_to_the_pages_of_its_parent(
    tmp_path: Path, implementation: str
) -> None:
    """Neither inherited tasks, nor collections, nor a refresh or stop of its exporter do."""
    run(tmp_path / "shared", UNWRITTEN, implementation=implementation)


ORPHANS = """
read, write = os.pipe()
begun, begin = os.pipe()
middle = os.fork()
if not middle:
    exporter = start()
    asyncio.run(work(5))
    child = os.fork()
    if child:
        os.read(begun, 1)  # until the child has let go of what it inherited
        os._exit(0)
    os.write(begin, b"x")
    os.read(read, 1)  # lives on when its parent is gone
    os._exit(0)
waited(middle)
exporter = start()
asyncio.run(work(2))
os.write(write, b"x")
end(exporter)
"""


def test_a_child_does_not_keep_the_slots_of_a_parent_that_died(tmp_path: Path) -> None:
    """The next process claims them, though the child has not ended yet."""
    directory = tmp_path / "shared"
    assert 7 == run(directory, ORPHANS)["asyncio_tasks_created_total", "__main__.works"]
    assert ["0.page"] == [path.name for path in directory.iterdir()]


BUSY = """
def serve(stop):
    async def main():
        while not stop.is_set():
            await work(10)
            aiometrics.snapshot()
            exporter.internal_errors.report("http", LookupError("here"))
    asyncio.run(main())

import logging
logging.disable()
exporter = start()
stop = threading.Event()
loops = [threading.Thread(target=serve, args=(stop,)) for _ in range(2)]
for loop in loops:
    loop.start()
codes = []
for _ in range(20):
    child = os.fork()
    if not child:
        asyncio.run(work(3))
        aiometrics.snapshot()
        assert {} == {probe: 1 for probe in exporter.internal_errors.counts()}
        os._exit(0)
    codes.append(waited(child))
stop.set()
for loop in loops:
    loop.join()
assert [0] * 20 == codes
end(exporter)
"""


def test_a_fork_at_any_moment_ends_in_no_deadlock(tmp_path: Path, implementation: str) -> None:
    """Threads of the parent hold every lock of ours again and again.

    The child has none of the internal errors of its parent.
    """
    found = run(tmp_path / "shared", BUSY, implementation=implementation)
    assert 0 == found["asyncio_tasks_created_total", "__main__.works"] % 10


WORKING_OUT = """
import signal
from aiometrics.pages.layout import Layout

class Bounds(tuple):
    def __len__(self):
        entered.set()
        leave.wait()
        return super().__len__()

entered, leave = threading.Event(), threading.Event()
thread = threading.Thread(target=lambda: Layout(Bounds((1,)), (2,), 3, 4, 5).size)
thread.start()
entered.wait()
child = os.fork()
if not child:
    signal.alarm(60)  # ends it if it waits for a thread that it has not
    os._exit(Layout((1,), (2,), 3, 4, 5).size <= 0)
code = waited(child)
leave.set()
thread.join()
assert 0 == code
"""


def test_a_child_does_not_wait_for_a_layout_of_its_parent(tmp_path: Path) -> None:
    """Offsets in a page are computed when first needed, perhaps while another thread forks."""
    assert {} == run(tmp_path, WORKING_OUT)


MULTIPROCESSING = """
def job(number):
    asyncio.run(work(number))
    return sorted(threads())

if __name__ == "__main__":
    exporter = start()
    asyncio.run(work(1))
    with multiprocessing.get_context("fork").Pool(2) as pool:
        expected = [f"aiometrics-{name}" for name in ("keeper", "sampler", "watchdog")]
        assert [expected] * 4 == pool.map(job, [10] * 4, chunksize=1)
    end(exporter)
"""


def test_jobs_of_a_pool_that_forks_are_traced(tmp_path: Path, implementation: str) -> None:
    """Loop after loop in a process has the same page; the numbers of the parent stay."""
    found = run(tmp_path / "shared", MULTIPROCESSING, implementation=implementation)
    assert 41 == found["asyncio_tasks_created_total", "__main__.works"]
    assert 3 >= len(list((tmp_path / "shared").iterdir()))


SPAWNED = """
import asyncio, multiprocessing, sys, threading, urllib.request
import aiometrics

async def works():
    await asyncio.sleep(0)

def child(directory, expected):
    names = [thread.name for thread in threading.enumerate()]
    assert names == ["MainThread"], names
    if directory:
        with aiometrics.start_exporter(0, "127.0.0.1", directory=directory, registry=None):
            asyncio.run(works())
    else:
        asyncio.run(works())

if __name__ == "__main__":
    exporter = aiometrics.start_exporter(0, "127.0.0.1", directory=sys.argv[1], registry=None)
    asyncio.run(works())
    context = multiprocessing.get_context("spawn")
    for directory in ("", sys.argv[1]):
        process = context.Process(target=child, args=(directory, 1))
        process.start()
        process.join()
        assert 0 == process.exitcode
    print(urllib.request.urlopen(exporter.url).read().decode())
"""


def test_a_spawned_process_is_traced_if_it_starts_an_exporter(tmp_path: Path) -> None:
    """It inherits nothing; an exporter that it starts has a slot of its own."""
    program = tmp_path / "spawned.py"
    program.write_text(SPAWNED, encoding="utf-8")
    found = printed([sys.executable, str(program), str(tmp_path / "shared")], dict(os.environ))
    works = [
        value
        for (name, *labels), value in found.items()
        if name == "asyncio_tasks_created_total" and labels[0].endswith("works")
    ]
    assert 2 == sum(works)


WITHOUT_LOOP = """
exporter = start()
child = os.fork()
if not child:
    count = "import os, sys; sys.exit(len(os.listdir('/proc/self/fd')) > 5)"
    os.execv(sys.executable, [sys.executable, "-c", count])
assert 0 == waited(child)
child = os.fork()
if not child:
    assert threads() == []
    exporter.stop()
    exporter.stop()
    os._exit(0)
assert 0 == waited(child)
asyncio.run(work(2))
end(exporter)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="open files are listed in /proc")
def test_a_child_without_a_loop_pays_nothing(tmp_path: Path) -> None:
    """It has no thread and no page, and passes no file of ours on to another program.

    If it stops the exporter, it stops only its own.
    """
    found = run(tmp_path / "shared", WITHOUT_LOOP)
    assert 2 == found["asyncio_tasks_created_total", "__main__.works"]
    assert ["0.page"] == [path.name for path in (tmp_path / "shared").iterdir()]


#: A thread stops where it has made something that nobody else knows of yet, and another one forks a
#: child that lives on.
IN_BETWEEN = """
from aiometrics.base.http import server
from aiometrics.pages.multiprocess import slot_file
from aiometrics.base.http.server import HttpServer

made, forking = threading.Event(), threading.Event()
os.register_at_fork(before=forking.set)
read, write = os.pipe()
begun, begin = os.pipe()

def stopping(original):
    def stops(*args):
        result = original(*args)
        made.set()
        assert forking.wait(300)
        return result
    return stops

def forks_during(act):
    thread = threading.Thread(target=act)
    thread.start()
    assert made.wait(300)
    if not os.fork():
        os.write(begin, b"x")
        os.close(write)
        os.close(1)
        os.close(2)
        os.read(read, 1)  # until it is told, or nobody is left who would
        os._exit(0)
    os.read(begun, 1)
    thread.join()
"""

PORT = """
server.listen = stopping(server.listen)
servers = []
forks_during(lambda: servers.append(HttpServer("127.0.0.1", 0, {}, on_error=print)))
servers[0].close()
HttpServer("127.0.0.1", servers[0].port, {}, on_error=print).close()
os.write(write, b"x")
"""


def test_a_child_does_not_keep_a_port_that_was_being_bound() -> None:
    """When its parent closes the port, others can bind it."""
    assert {} == printed(
        [sys.executable, "-W", "ignore::DeprecationWarning", "-c", BEGIN + IN_BETWEEN + PORT],
        dict(os.environ),
    )


SLOT = """
from aiometrics.base.options import RecordingOptions
from aiometrics.instrumentation.instrumentation import _page_format
from aiometrics.pages.multiprocess.directory import SharedDirectory
directory, page_format = SharedDirectory(sys.argv[1]), _page_format(RecordingOptions())
directory.prepare()
middle = os.fork()
if not middle:
    forking.clear()
    slot_file.open_own = stopping(slot_file.open_own)
    forks_during(lambda: directory.claim(page_format))
    os._exit(0)
waited(middle)
assert 0 == directory.claim(page_format).number, os.listdir(sys.argv[1])
os.write(write, b"x")
"""


def test_a_child_does_not_keep_a_slot_that_was_being_taken(tmp_path: Path) -> None:
    """When its parent is gone, another process claims the slot."""
    assert {} == run(tmp_path / "shared", IN_BETWEEN + SLOT)
