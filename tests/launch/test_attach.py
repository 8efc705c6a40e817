"""``aiometrics attach`` and ``detach``: an exporter in a process that runs already."""

from __future__ import annotations

import os
import random
import re
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from soak.metrics import Exposition, parsed
from support.servers import SERVERS, Running, running, until

from aiometrics import IMPLEMENTATION
from aiometrics.__main__ import main

#: How often a service is attached to at some moment of its start.
ROUNDS = int(os.environ.get("AIOMETRICS_TEST_ATTACHING", "20"))
NEWER = pytest.mark.skipif(
    sys.version_info < (3, 14), reason="Python runs such scripts from 3.14 on"
)

#: Counts what it does; says at the end of its input whether it is as it was.
SERVICE = """
import asyncio, sys, threading

before = asyncio.Task, vars(asyncio.BaseEventLoop)["create_task"], threading.active_count()

async def work():
    await asyncio.sleep(0)

async def main():
    done = 0
    lines = asyncio.get_running_loop().run_in_executor(None, sys.stdin.readline)
    print("ready", flush=True)
    while not lines.done():
        await asyncio.create_task(work())
        done += 1
    print(done > 0, flush=True)

asyncio.run(main())
after = asyncio.Task, vars(asyncio.BaseEventLoop)["create_task"], threading.active_count()
print(before == after, "_aiometrics" in globals(), flush=True)
"""


#: Python opens a script by an import, which fails in code without builtins, such as that by which
#: named tuples are made. It says so, and is given the script again.
NOT_OPENED = re.compile(
    r"Can't open debugger script .*:\nTraceback .*\n.*\nKeyError: '__import__'\n"
)


@contextmanager
def service(
    code: str = SERVICE, environ: Mapping[str, str] | None = None
) -> Iterator[subprocess.Popen[str]]:
    """Run the service until the block is left."""
    with subprocess.Popen(
        [sys.executable, "-c", code],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **(environ or {})},
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def line(process: subprocess.Popen[str]) -> str:
    """Return the next line that the service prints."""
    assert process.stdout is not None
    return process.stdout.readline().strip()


def end(process: subprocess.Popen[str]) -> tuple[str, str]:
    """End the input of the service; return what it prints then."""
    return process.communicate("\n")


def attached(process: subprocess.Popen[Any], capsys: pytest.CaptureFixture[str]) -> str:
    """Attach to the service; return the address of its metrics."""
    options = ["--port", "0", "--addr", "127.0.0.1", "--timeout", "300"]
    assert 0 == main(["attach", str(process.pid), *options]), capsys.readouterr()
    return capsys.readouterr().out.split()[-1]


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wait as long as it takes on a busy machine until Python has started, and its imports."""
    monkeypatch.setattr("aiometrics.launch.attach._STARTS_SECONDS", 300.0)
    monkeypatch.setattr("aiometrics.launch.attach._PATIENCE", 6000)


def scraped(url: str) -> Exposition:
    """Return the metrics at an address."""
    with urllib.request.urlopen(url) as answer:  # noqa: S310 - to our own service
        return parsed(answer.read().decode())


def created(url: str) -> float:
    """Return how many tasks of the service were counted."""
    rows = scraped(url).rows("asyncio_tasks_created_total")
    return sum(value for labels, value in rows if "work" in labels["coroutine"])


def waited(url: str, function: str) -> float:
    """Return how often tasks waited in a function."""
    rows = scraped(url).rows("asyncio_wait_seconds_count")
    return sum(value for labels, value in rows if labels["yield_point"].endswith(f" {function}"))


@NEWER
def test_a_running_service_is_traced_and_left_as_it_was(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """It goes on without an error, attached to once more than needed, and detached."""
    with service() as process:
        assert "ready" == line(process)
        url = attached(process, capsys)
        while not created(url):
            time.sleep(0.01)
        assert url == attached(process, capsys)
        assert 0 == main(["detach", str(process.pid), "--timeout", "300"])
        assert "detached\n" == capsys.readouterr().out
        assert 1 == main(["detach", str(process.pid)])
        assert "no exporter was attached to this process" in capsys.readouterr().err
        assert ("True\nTrue False\n", "") == end(process)
        assert 0 == process.wait()


@NEWER
@pytest.mark.long
@pytest.mark.usefixtures("patient")
def test_attaching_is_safe_at_any_moment(capsys: pytest.CaptureFixture[str]) -> None:
    """Also while the service imports its modules: it goes on and loses nothing, however often."""
    draw = random.Random(16)  # noqa: S311 - moments need not be secret
    for _ in range(ROUNDS):
        with service(
            "import asyncio, ssl, email, http.client, xml.dom.minidom\n" + SERVICE
        ) as process:
            time.sleep(draw.uniform(0.05, 0.4))
            attached(process, capsys)
            time.sleep(draw.uniform(0, 0.05))
            assert 0 == main(["detach", str(process.pid), "--timeout", "300"])
            out, errors = end(process)
            assert ("ready\nTrue", "") == (out[:10], NOT_OPENED.sub("", errors))
            assert 0 == process.wait()
            capsys.readouterr()


@contextmanager
def clients(server: Running) -> Iterator[list[int]]:
    """Make requests from two threads until the block is left; yield the pids that answered."""
    answers: list[int] = []
    over = threading.Event()

    def ask() -> None:
        while not over.is_set():
            answers.append(server.request())

    with ThreadPoolExecutor(2) as pool:
        asking = [pool.submit(ask) for _ in range(2)]
        try:
            yield answers
        finally:
            over.set()
    assert [None, None] == [each.result() for each in asking]


@NEWER
@pytest.mark.long
@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_a_server_under_load_loses_no_request(
    loop: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is attached to and detached from again and again, and tasks are seen each time.

    With the C recorder, so is the one that ran before.
    """
    seen = "Server.main_loop" if IMPLEMENTATION == "c" else "work"
    uvicorn = replace(SERVERS["uvicorn"], arguments=(*SERVERS["uvicorn"].arguments, "--loop", loop))
    with running(uvicorn, tmp_path, line=False) as server:
        with clients(server) as answers:
            for _ in range(ROUNDS):
                url = attached(server.process, capsys)
                until(lambda url=url: waited(url, seen) > 0, "a task")  # type: ignore[misc]
                assert 0 == main(["detach", str(server.process.pid), "--timeout", "300"])
                before = len(answers)
                until(lambda before=before: len(answers) > before, "an answer")  # type: ignore[misc]
        # One more answered the server that started.
        assert len(answers) + 1 == server.handled()
        assert 1 == len(set(answers))
        server.end()
    assert "Traceback" not in server.log()


@NEWER
def test_a_process_that_refuses_scripts_is_left_alone(capsys: pytest.CaptureFixture[str]) -> None:
    """The message names the variable."""
    with service(environ={"PYTHON_DISABLE_REMOTE_DEBUG": "1"}) as process:
        assert "ready" == line(process)
        assert 1 == main(["attach", str(process.pid), "--port", "0"])
        message = capsys.readouterr().err
        assert re.match(rf"aiometrics: process {process.pid} cannot be attached to: ", message)
        assert "PYTHON_DISABLE_REMOTE_DEBUG" in message
        assert ("True\nTrue False\n", "") == end(process)


@NEWER
def test_what_is_no_process_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    """So is an option that is wrong."""
    assert 1 == main(["attach", "999999999"])
    assert "aiometrics: there is no process 999999999\n" == capsys.readouterr().err
    assert 1 == main(["attach", "1", "--port", "70000"])
    assert "port must be from 0 to 65535" in capsys.readouterr().err


@pytest.mark.skipif(sys.version_info >= (3, 14), reason="newer versions can attach")
def test_older_versions_say_why_not(capsys: pytest.CaptureFixture[str]) -> None:
    """And what to do instead."""
    assert 1 == main(["attach", str(os.getpid())])
    assert "attaching needs Python 3.14 or newer" in capsys.readouterr().err
