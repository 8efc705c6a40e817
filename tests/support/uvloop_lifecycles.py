"""Runs one life of uvloop's loops, bare or traced: ``python uvloop_lifecycles.py LIFE [traced]``.

It is a program of its own, because a mistake would kill the process. What it prints and how it ends
must be the same in both ways. With ``traced``, the last argument is a file to which the numbers of
turns are written that each page shows in the end.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import multiprocessing
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Coroutine
from contextlib import suppress
from pathlib import Path
from typing import Any

import uvloop

LIVES: dict[str, Callable[[], None]] = {}
Traced = Any
#: What traces the program; ``None`` if it runs bare.
tracing: Traced = None


def life(function: Callable[[], None]) -> Callable[[], None]:
    """Something that happens to loops."""
    LIVES[function.__name__] = function
    return function


def new() -> Any:
    """Make a loop, which logs no slow callbacks: those depend on the machine."""
    loop = uvloop.new_event_loop()
    loop.slow_callback_duration = 1e9
    return loop


def run(main: Coroutine[Any, Any, Any]) -> Any:
    """Run ``main`` on a loop of its own."""
    loop = new()
    try:
        return loop.run_until_complete(main)
    finally:
        loop.close()


def trace() -> Traced:
    """Begin to trace every loop."""
    from aiometrics.base.options import resolve
    from aiometrics.instrumentation.instrumentation import Instrumentation

    instrumentation = Instrumentation(resolve(environ={}, max_loops=16).recording)
    instrumentation.instrument_every_loop()
    return instrumentation


@life
def runs_again_and_again() -> None:
    """Run the same loop many times."""
    loop = new()
    for _ in range(50):
        loop.run_until_complete(asyncio.sleep(0.0005))
    loop.close()


@life
def is_stopped() -> None:
    """Stop a loop while it runs, and before it runs."""
    loop = new()
    task = loop.create_task(asyncio.sleep(0))
    task.add_done_callback(lambda _: loop.stop())
    loop.run_forever()
    loop.stop()
    loop.run_forever()
    loop.close()


@life
def callbacks_raise() -> None:
    """Raise in callbacks, one of them an exception that ends the run."""

    def fail() -> None:
        raise ValueError("expected")

    def leave() -> None:
        raise SystemExit("expected")

    loop = new()
    loop.call_soon(fail)
    loop.run_until_complete(asyncio.sleep(0.001))
    loop.call_later(0.001, leave)
    with suppress(SystemExit):
        loop.run_until_complete(asyncio.sleep(60))
    loop.run_until_complete(asyncio.sleep(0.001))
    loop.close()


@life
def dies_of_an_exception() -> None:
    """End by an exception, whose traceback is compared."""

    async def main() -> None:
        await asyncio.sleep(0)
        raise LookupError("expected")

    run(main())


@life
def is_interrupted() -> None:
    """Interrupt a loop that waits, and end by it."""

    async def main() -> None:
        threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGINT)).start()
        await asyncio.sleep(60)

    loop = new()
    with suppress(KeyboardInterrupt):
        loop.run_until_complete(main())
    loop.run_until_complete(asyncio.sleep(0))
    loop.run_until_complete(main())


@life
def is_run_while_it_runs() -> None:
    """Run and close a loop that runs, which are errors."""

    async def main() -> None:
        loop: Any = asyncio.get_running_loop()
        for mistake in (loop.run_forever, loop.close):
            try:
                mistake()
            except RuntimeError as error:
                print(error)
        await asyncio.sleep(0.001)

    run(main())


@life
def handles_signals() -> None:
    """Handle a signal by a handler of the loop."""

    async def main() -> None:
        loop, handled = asyncio.get_running_loop(), asyncio.Event()
        loop.add_signal_handler(signal.SIGUSR1, handled.set)
        os.kill(os.getpid(), signal.SIGUSR1)
        await handled.wait()
        loop.remove_signal_handler(signal.SIGUSR1)

    run(main())


@life
def does_all_kinds_of_work() -> None:
    """Use a subprocess, the executor, names, sockets and a server."""

    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(await reader.readline())
        writer.close()

    async def main() -> None:
        loop = asyncio.get_running_loop()
        process = await asyncio.create_subprocess_exec("true")
        print(await process.wait(), await loop.run_in_executor(None, int))
        print(bool(await loop.getaddrinfo("127.0.0.1", 80)))
        server = await asyncio.start_server(echo, "127.0.0.1", 0)
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        writer.write(b"hello\n")
        print(await reader.readline())
        writer.close()
        left, right = socket.socketpair()
        for end in (left, right):
            end.setblocking(False)  # noqa: FBT003 - the name is that of the standard library
        await loop.sock_sendall(left, b"x")
        print(await loop.sock_recv(right, 1))
        left.close()
        right.close()
        server.close()
        await server.wait_closed()

    run(main())


def child_ends(work: Callable[[], object]) -> None:
    """Fork a child that does ``work``, and print how it ends."""
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            work()
            status = 7
        finally:
            os._exit(status)
    print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))


@life
def forks_inside_a_coroutine() -> None:
    """Fork in a coroutine: the child ends at once."""

    async def main() -> None:
        child_ends(int)
        await asyncio.sleep(0.001)

    run(main())


@life
def forks_and_the_child_has_a_loop_of_its_own() -> None:
    """Fork beside an open loop: the child runs another one, or closes the one that it inherited."""
    loop = new()
    loop.run_until_complete(asyncio.sleep(0.001))
    child_ends(lambda: run(asyncio.sleep(0.001)))
    child_ends(loop.close)
    loop.run_until_complete(asyncio.sleep(0.001))
    loop.close()


@life
def forks_from_another_thread() -> None:
    """Fork while a loop turns in another thread, which may be inside our callbacks: many times."""
    stop = threading.Event()

    async def busy() -> None:
        while not stop.is_set():
            await asyncio.sleep(0)

    thread = threading.Thread(target=lambda: run(busy()))
    thread.start()
    for _ in range(20):
        child_ends(lambda: run(asyncio.sleep(0)))
    stop.set()
    thread.join()


def exit_with_5() -> None:
    """What a process of multiprocessing does."""
    sys.exit(5)


@life
def forks_by_multiprocessing() -> None:
    """Start a process from a coroutine."""

    async def main() -> None:
        process = multiprocessing.get_context("fork").Process(target=exit_with_5)
        process.start()
        await asyncio.get_running_loop().run_in_executor(None, process.join)
        print(process.exitcode)

    run(main())


@life
def is_closed_twice() -> None:
    """Close a loop twice, and one that never ran."""
    loop = new()
    loop.close()
    loop = new()
    loop.run_until_complete(asyncio.sleep(0))
    loop.close()
    loop.close()


@life
def is_closed_with_things_open() -> None:
    """Close a loop with a server, a timer and a task."""

    async def main() -> Any:
        loop = asyncio.get_running_loop()
        loop.call_later(100, print)
        return await loop.create_server(asyncio.Protocol, "127.0.0.1", 0)

    loop = new()
    server = loop.run_until_complete(main())
    loop.close()
    del server


@life
def is_closed_by_the_method_of_its_base() -> None:
    """Run and close a loop by methods that nobody has replaced."""
    base: Any = uvloop.loop.Loop
    loop = new()
    loop.run_until_complete(asyncio.sleep(0))
    task = loop.create_task(asyncio.sleep(0.01))
    task.add_done_callback(lambda _: loop.stop())
    base.run_forever(loop)
    base.close(loop)
    gc.collect()


@life
def is_garbage_while_it_is_open() -> None:
    """Collect loops that were never closed."""
    for _ in range(3):
        loop = new()
        loop.run_until_complete(asyncio.sleep(0))
        del loop
        gc.collect()


@life
def is_traced_in_the_middle_of_a_run() -> None:
    """Begin and end to trace a loop while it runs, twice."""

    async def main() -> None:
        global tracing  # noqa: PLW0603 - as the program does below
        for _ in range(2):
            if tracing is not None:
                tracing.remove()
            await asyncio.sleep(0.001)
            if tracing is not None:
                tracing = trace()
            await asyncio.create_task(asyncio.sleep(0.001))
            await asyncio.sleep(0.001)

    run(main())


@life
def is_no_longer_traced_by_another_thread() -> None:
    """End to trace a loop that turns as fast as it can, from another thread."""
    stop = threading.Event()

    async def busy() -> None:
        while not stop.is_set():
            await asyncio.sleep(0)

    for _ in range(10):
        thread = threading.Thread(target=lambda: run(busy()))
        thread.start()
        time.sleep(0.01)
        if tracing is not None:
            tracing.snapshot()
            tracing.remove()
            tracing.instrument_every_loop()
        stop.set()
        thread.join()
        stop.clear()
    run(asyncio.sleep(0))


@life
def five_hundred_loops_in_eight_threads() -> None:
    """Make, run and close loops in threads, while another thread looks at all of them."""

    def work(loops: int) -> None:
        for _ in range(loops):
            run(asyncio.sleep(0.0005))

    def look() -> None:
        while not done.wait(0.0005):
            if tracing is not None:
                tracing.refresh()

    done = threading.Event()
    watcher = threading.Thread(target=look)
    watcher.start()
    threads = [threading.Thread(target=work, args=(number,)) for number in [63] * 4 + [62] * 4]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    done.set()
    watcher.join()


@life
def is_of_a_class_of_its_own() -> None:
    """Derive from the class of loops, with methods that call those of the base."""

    class Mine(uvloop.Loop):
        """A loop of the application's."""

        def run_forever(self) -> None:
            print("runs")
            super().run_forever()

        def close(self) -> None:
            print("is closed")
            super().close()

    loop = Mine()
    loop.run_until_complete(asyncio.sleep(0.001))
    loop.close()


@life
def another_tool_wraps_the_methods() -> None:
    """Replace run_forever while it is replaced already, and never put it back."""
    kind: Any = uvloop.Loop
    original = kind.run_forever

    def run_forever(loop: Any) -> None:
        print("wrapped")
        original(loop)

    kind.run_forever = run_forever
    run(asyncio.sleep(0))
    if tracing is not None:
        tracing.remove()
        tracing.instrument_every_loop()
    run(asyncio.sleep(0))


def main() -> None:
    """Run one life."""
    global tracing  # noqa: PLW0603 - some lives begin and end to trace
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr)
    name, *traced = sys.argv[1:]
    if traced:
        tracing = trace()
    try:
        LIVES[name]()
    finally:
        if traced:
            seen = tracing.snapshot()
            turns = [loop.iterations.count for loop in seen.loops]
            Path(traced[0]).write_text(f"{turns} {dict(seen.errors)}")


if __name__ == "__main__":
    main()
