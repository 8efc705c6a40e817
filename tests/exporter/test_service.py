"""Workers of one service find each other, without an option and on real servers.

They share one port and one private directory, of which nothing is left after them.
"""

from __future__ import annotations

import fcntl
import http.client
import itertools
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from soak import ports
from soak.metrics import Exposition
from support.prometheus_server import run_prometheus
from support.servers import (
    LOCAL,
    SERVERS,
    STARLETTE,
    UVICORN_4,
    Running,
    Server,
    running,
    until,
)
from support.service_life import (
    NEWEST,
    answering,
    counters,
    directories,
    falls,
    janitor,
    janitors,
    load,
    nothing_is_left,
    resets,
    scraped,
    threads,
)

from aiometrics.base.processes import root_process

pytestmark = pytest.mark.skipif(
    sys.platform != "linux", reason="only Linux tells who descends from whom"
)

UVICORN = Server(STARLETTE, tuple("2" if word == "4" else word for word in UVICORN_4))


#: The others start slowly, or are the same for us.
SOME = (
    "uvicorn, reload",
    "uvicorn.run in __main__, 2 workers",
    "gunicorn, uvicorn's workers",
    "gunicorn, preload",
    "hypercorn",
)


@pytest.mark.parametrize(
    "name",
    [name if name in SOME else pytest.param(name, marks=pytest.mark.once) for name in SERVERS],
)
def test_all_requests_are_counted_at_one_port(name: str, tmp_path: Path) -> None:
    """Whichever worker handles them. Nothing is left when the server has ended."""
    with running(SERVERS[name], tmp_path) as server:
        for _ in range(40):
            server.request()
        scraped(server)
        until(lambda: server.counted() == server.handled(), "all requests to be counted")
        assert 40 < server.handled()
        server.end()
    until(lambda: nothing_is_left(server), "the directory to be removed")
    assert "Traceback" not in server.log()


def test_workers_that_restart_continue_their_counters(tmp_path: Path) -> None:
    """Also the only worker of a service, so that no process is left to keep the counters."""
    arguments = (
        *("-m", "gunicorn", "web:app", "--bind", "127.0.0.1:{port}", "--no-control-socket"),
        *("-w", "1", "-k", "uvicorn_worker.UvicornWorker", "--max-requests", "5"),
    )
    pids: set[int] = set()
    with running(Server(STARLETTE, arguments), tmp_path) as server:
        seen = scraped(server)
        while len(pids) < 4:
            try:
                pids.add(server.request())
            except (OSError, http.client.HTTPException):
                continue
        later = scraped(server)
        assert [] == falls(seen, later)
        until(lambda: server.counted() == server.handled(), "all requests to be counted")
    until(lambda: nothing_is_left(server), "the directory to be removed")


def test_two_services_with_one_port_are_told_apart(tmp_path: Path) -> None:
    """The second one comes up, is told which has the port, and gets it when that one has ended."""
    first_directory, second_directory = tmp_path / "first", tmp_path / "second"
    first_directory.mkdir()
    second_directory.mkdir()
    with ports.reserved() as port, running(UVICORN, first_directory, metrics=port) as first:
        scraped(first)
        with running(UVICORN, second_directory, metrics=port) as second:
            for _ in range(10):
                second.request()
            first.request()
            assert first.counted() == first.handled()
            until(lambda: "cannot serve" in second.log(), "the process that leads to be told")
            told = re.findall(
                rf"cannot serve metrics on port {port} of .* Another service has it, "
                rf"process {first.process.pid} \(.*uvicorn web:app.*\): give each",
                second.log(),
            )
            assert 1 == len(told), second.log()
            first.end()
            until(lambda: second.exposition() is not None, "the second service to answer")
            assert second.counted() == second.handled() > 10
    until(lambda: nothing_is_left(second), "the directories to be removed")


#: How many workers are killed.
KILLS = int(os.environ.get("AIOMETRICS_TEST_KILLS", "16"))
RENEWALS = 4


def kill_a_worker(server: Running) -> None:
    """End a worker without warning; the supervisor starts another."""
    os.kill(answering(server), signal.SIGKILL)


def renew_all_workers(server: Running) -> None:
    """Have the supervisor end its workers and start others, and wait until it has."""
    before = [Path(f"/proc/{answering(server)}") for _ in range(50)]
    server.process.send_signal(signal.SIGHUP)
    until(lambda: not any(worker.exists() for worker in before), "the end of all workers")
    answering(server)


#: What is done to a service, how often, and how many counts may differ in the end: a worker that is
#: killed between its two counts has counted one of them.
HARMS = {
    "a worker is killed": (kill_a_worker, KILLS, KILLS),
    "all workers are renewed": (renew_all_workers, RENEWALS, 0),
}


@pytest.mark.once
@pytest.mark.parametrize("harm", HARMS)
def test_no_counter_falls_whatever_becomes_of_workers(
    harm: str,
    tmp_path: Path,
    binary: Callable[..., str],
    root: Path,
) -> None:
    """Not for scrapes all the time under load, nor for Prometheus; services do not mix."""
    do_harm, times, lost = HARMS[harm]
    seen: dict[int, list[Exposition]] = {}
    gunicorn, uvicorn = SERVERS["gunicorn, uvicorn's workers"], SERVERS["uvicorn, 4 workers"]
    places = [tmp_path / "gunicorn", tmp_path / "uvicorn"]
    for place in places:
        place.mkdir()
    with (
        running(gunicorn, places[0]) as one,
        running(uvicorn, places[1]) as two,
        run_prometheus(
            binary("prometheus", NEWEST),
            root,
            tmp_path,
            {job.name: f"{LOCAL}:{it.metrics}" for job, it in zip(places, (one, two), strict=True)},
            seconds=60,
        ) as prometheus,
        load() as asked,
    ):
        asked += [one, two]
        for job in ("gunicorn", "uvicorn"):
            counters(prometheus, job)  # it has seen the first workers
        for number in range(times):
            do_harm((one, two)[number % 2])
            for each in (one, two):
                seen.setdefault(each.port, []).append(scraped(each))
        asked.clear()
        for server in (one, two):
            shown = seen[server.port]
            assert [] == [fall for pair in itertools.pairwise(shown) for fall in falls(*pair)]
            until(lambda server=server: server.exposition() is not None, "an answer")  # type: ignore[misc]
            assert abs(server.counted() - server.handled()) <= lost
        assert {} == resets(prometheus, "gunicorn") | resets(prometheus, "uvicorn")


WAYS = {
    "SIGTERM": [signal.SIGTERM],
    "SIGINT": [signal.SIGINT],
    "SIGHUP": [signal.SIGHUP],
    "SIGQUIT": [signal.SIGQUIT],
    "SIGKILL": [signal.SIGKILL],
    "SIGINT twice": [signal.SIGINT, signal.SIGINT],
    "SIGKILL of all": [],
}


#: Ways in which a server leaves its workers behind, also without us.
ORPHANED = {
    ("gunicorn, uvicorn's workers", "SIGKILL"),
    ("uvicorn, 4 workers", "SIGKILL"),
    ("uvicorn.run in __main__, 2 workers", "SIGKILL"),
}


@pytest.mark.once
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    "name",
    ["uvicorn, 4 workers", "uvicorn.run in __main__, 2 workers", "gunicorn, uvicorn's workers"],
)
def test_nothing_is_left_behind(name: str, way: str, tmp_path: Path) -> None:
    """However the service ends, also if the signal goes to all processes, as systemd sends it."""
    hurry = {"GUNICORN_CMD_ARGS": "--graceful-timeout 1"}  # it sits that out at SIGQUIT
    ignored = {"SIGHUP"} if name.startswith("gunicorn") else {"SIGHUP", "SIGQUIT"}
    with running(SERVERS[name], tmp_path, environ=hurry) as server:
        scraped(server)
        remover = janitor(server)
        for number in WAYS[way]:
            if number != signal.SIGKILL:
                os.kill(remover, number)
            server.process.send_signal(number)
        if not WAYS[way]:
            os.killpg(server.process.pid, signal.SIGKILL)
        if way in ignored:
            server.process.terminate()
        server.process.wait(300)
        if (name, way) not in ORPHANED:
            until(lambda: not threads(server), "the end of all processes and their threads")
    until(lambda: nothing_is_left(server), "the directory to be removed")


def test_what_was_left_behind_is_removed_by_the_next_service(
    tmp_path: Path, free_port: int
) -> None:
    """Also if that one is a single process, and has no directory of its own."""
    with running(UVICORN, tmp_path) as server:
        remover = janitor(server)
        (directory,) = directories(server)
        with (directory / "held").open("wb") as held:
            # Until it is closed, no service that a test beside this one starts may remove it.
            fcntl.flock(held, fcntl.LOCK_EX)
            os.kill(remover, signal.SIGKILL)
            os.killpg(server.process.pid, signal.SIGKILL)
            server.process.wait()
            until(lambda: not janitors(server) and not threads(server), "the end of all processes")
            assert [directory] == directories(server)
    subprocess.run([sys.executable, "-c", SINGLE, str(free_port)], check=True)
    assert [] == directories(server)


SINGLE = """
import sys, aiometrics
aiometrics.start_exporter(int(sys.argv[1]), "127.0.0.1").stop()
"""

METHODS = """
import asyncio, multiprocessing, os, sys, urllib.request
import aiometrics
exporter = aiometrics.start_exporter(int(sys.argv[2]), "127.0.0.1", registry=None)

async def work():
    await asyncio.sleep(0)

async def main():
    for _ in range(10):
        await asyncio.create_task(work())

def child():
    asyncio.run(main())

if __name__ == "__main__":
    context = multiprocessing.get_context(sys.argv[1])
    asyncio.run(main())
    for _ in range(3):
        process = context.Process(target=child)
        process.start()
        process.join()
        assert 0 == process.exitcode
    for line in urllib.request.urlopen(exporter.url).read().decode().splitlines():
        if line.startswith("asyncio_tasks_created_total") and ".work" in line:
            print(line.split()[-1])
"""


@pytest.mark.parametrize("method", ["spawn", "forkserver", "fork"])
def test_children_of_multiprocessing_are_counted(
    method: str, tmp_path: Path, free_port: int
) -> None:
    """Whichever way they are started, and although they have ended when the page is shown."""
    (tmp_path / "program.py").write_text(METHODS)
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "program.py", method, str(free_port)],
        check=False,
        capture_output=True,
        text=True,
        cwd=tmp_path,
    )
    counts = [float(line) for line in done.stdout.split()]
    # The module of the child of spawn has another name: __mp_main__.
    assert (0, 40) == (done.returncode, sum(counts)), (done.stdout, done.stderr)


OWN = """
import os, sys
import aiometrics
first = aiometrics.start_exporter(int(sys.argv[1]), "127.0.0.1", registry=None)
child = os.fork()
if child:
    sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
again = aiometrics.start_exporter(int(sys.argv[1]), "127.0.0.1", registry=None)
own = aiometrics.start_exporter(0, "127.0.0.1", registry=None)
print(again is first, own is first, own.port > 0, flush=True)
os._exit(0)
"""


def test_a_forked_child_may_have_an_exporter_of_its_own(free_port: int) -> None:
    """The same call gives the one that it inherited, another port another one."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", OWN, str(free_port)],
        check=False,
        capture_output=True,
        text=True,
    )
    assert (0, "True False True\n", "") == (done.returncode, done.stdout, done.stderr)


ROOT = "from aiometrics.base.processes import root_process; print(root_process().pid)"


def test_another_program_is_no_worker() -> None:
    """What a process starts by ``subprocess`` is its own root, as is this process."""
    found = root_process()
    assert found is not None
    with subprocess.Popen([sys.executable, "-c", ROOT], stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        assert child.pid == int(child.stdout.read())
