"""A service as it is seen from outside, from its first process to what is left after its last."""

from __future__ import annotations

import http.client
import os
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from soak.metrics import Exposition

from support.prometheus_server import Prometheus
from support.servers import Running, until

#: Where the newest Prometheus is, if it is not on ``PATH``.
NEWEST = f"/opt/debian-forky/bin{os.pathsep}{os.environ.get('PATH', os.defpath)}"
SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 - where the directories are
#: States of what has ended: a zombie, and what is gone.
_ENDED = "ZX"
COUNTERS = r"(asyncio|aiometrics)_.+_(total|bucket|count|sum)"


def directories(server: Running) -> list[Path]:
    """Return the directories of the services that were given the port of ``server``."""
    return list(SHARED_MEMORY.glob(f"aiometrics-*-{server.metrics}-*-*"))


def janitors(server: Running) -> list[int]:
    """Return the processes that remove these directories."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes()
        except OSError:
            continue
        if b"janitor.py" in words and f"-{server.metrics}-".encode() in words:
            found.append(int(path.parent.name))
    return found


def janitor(server: Running) -> int:
    """Return the process that will remove the only directory, once signals cannot end it.

    Before that the process that starts it is still there, or it is not a session of its own yet.
    """

    def ready() -> bool:
        found = janitors(server)
        return 1 == len(directories(server)) == len(found) and _stat(_process(found[0]))[1] in found

    until(ready, "one directory, and the process that will remove it")
    return janitors(server)[0]


def threads(server: Running) -> list[int]:
    """Return the threads of the server's processes that have not ended."""
    stats = {path: _stat(path) for path in Path("/proc").glob("[0-9]*/task/[0-9]*/stat")}
    return [
        int(path.parent.name)
        for path, (state, session) in stats.items()
        if state not in _ENDED and session == server.process.pid
    ]


def ended(pid: int) -> bool:
    """Return whether a process has ended, also if its parent has not waited for it."""
    return _stat(_process(pid))[0] in _ENDED


def _process(pid: int) -> Path:
    return Path(f"/proc/{pid}/stat")


def _stat(path: Path) -> tuple[str, int]:
    """Return the state of a process or thread, and its session."""
    try:
        state, _, _, session = (
            path.read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()[:4]
        )
    except OSError:
        return "X", 0
    return state, int(session)


def nothing_is_left(server: Running) -> bool:
    """Return whether the directories and the processes of a service are gone."""
    return not directories(server) and not janitors(server)


def falls(earlier: Exposition, later: Exposition) -> list[object]:
    """Return the counters of ours that went down or vanished.

    Those of ``prometheus_client`` are of the process that answers.
    """
    return [
        (key, value, later.samples.get(key))
        for key, value in earlier.samples.items()
        if re.fullmatch(COUNTERS, key[0]) and later.samples.get(key, -1.0) < value
    ]


def counters(prometheus: Prometheus, job: str) -> list[str]:
    """Return the names of our counters that Prometheus has of a job, as soon as it has some."""

    def ours() -> list[str]:
        names = prometheus.get("label/__name__/values", **{"match[]": f'{{job="{job}"}}'})
        return [name for name in names if re.fullmatch(COUNTERS, name)]

    found: list[str] = prometheus.until(bool, ours)
    assert found
    return found


def resets(prometheus: Prometheus, job: str) -> dict[str, float]:
    """Return how often a counter of ours began anew, as Prometheus sees it, if it ever did.

    Of the series of one name, that which did so most often counts.
    """
    ours = counters(prometheus, job)
    most = ((name, prometheus.ask(f'max(resets({name}{{job="{job}"}}[1h]))')) for name in ours)
    return {name: found[0][1] for name, found in most if found and found[0][1]}


def scraped(server: Running) -> Exposition:
    """Return what the port shows as soon as a process answers."""
    found: list[Exposition] = []

    def answered() -> bool:
        answer = server.exposition()
        if answer is not None:
            found.append(answer)
        return answer is not None

    until(answered, "a process to answer scrapes")
    return found[0]


def answering(server: Running) -> int:
    """Return the worker that answers a request, as soon as one does."""
    found: list[int] = []

    def answered() -> bool:
        try:
            found.append(server.request())
        except (OSError, http.client.HTTPException):
            return False
        return True

    until(answered, "a worker to answer")
    return found[0]


@contextmanager
def load() -> Iterator[list[Running]]:
    """Yield a list: servers in it get requests all the time, whatever becomes of them."""
    servers: list[Running] = []
    over = threading.Event()

    def ask() -> None:
        while not over.wait(0.002):
            for server in servers:
                try:
                    server.request()
                except (OSError, http.client.HTTPException, AssertionError):
                    continue

    clients = [threading.Thread(target=ask) for _ in range(2)]
    for client in clients:
        client.start()
    try:
        yield servers
    finally:
        over.set()
        for client in clients:
            client.join()
