"""A service whose supervisor is replaced, as a real Prometheus sees it.

With its supervisor a service ends, unless the new one belongs to it. Within the life of a service
no counter falls, and the next one begins at 0.
"""

from __future__ import annotations

import itertools
import os
import re
import signal
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from soak import ports
from soak.metrics import Exposition
from support.prometheus_server import Prometheus, run_prometheus
from support.servers import LOCAL, SERVERS, Running, counted, running, until
from support.service_life import (
    NEWEST,
    answering,
    counters,
    ended,
    falls,
    load,
    nothing_is_left,
    resets,
    scraped,
)

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells who descends from whom"),
    pytest.mark.once,
]

GUNICORN, UVICORN = SERVERS["gunicorn, uvicorn's workers"], SERVERS["uvicorn, 4 workers"]
RUN = (sys.executable, "-m", "aiometrics", "run", "--port", "{metrics}", "--addr", LOCAL, "--")
SECONDS = 300.0


def never_falls(shown: Sequence[Exposition]) -> None:
    """Assert that no counter falls from one scrape to the next."""
    assert [] == [fall for pair in itertools.pairwise(shown) for fall in falls(*pair)]


def complete(server: Running, prometheus: Prometheus, job: str, handled: int) -> None:
    """Assert that the port shows so many requests soon, and then Prometheus."""

    def shown() -> float | None:
        answer = server.exposition()
        return None if answer is None else counted(answer)

    until(lambda: shown() == handled, f"{handled} requests to be counted, not {shown()}")
    query = f'sum(asyncio_wait_seconds_count{{job="{job}", yield_point=~"(.*/)?web.py:.* work"}})'
    assert [({}, handled)] == prometheus.until(
        lambda found: [({}, handled)] == found, lambda: prometheus.ask(query)
    )


def test_a_service_that_is_started_again_leaves_others_alone(
    tmp_path: Path, binary: Callable[..., str], root: Path
) -> None:
    """Its supervisor and workers end, and start again on the same port; another one runs beside."""
    lives = 3
    beside = tmp_path / "beside"
    beside.mkdir()
    with (
        ports.reserved() as port,
        running(UVICORN, beside) as other,
        run_prometheus(
            binary("prometheus", NEWEST),
            root,
            tmp_path,
            {"shop": f"{LOCAL}:{port}", "other": f"{LOCAL}:{other.metrics}"},
            seconds=SECONDS,
        ) as prometheus,
    ):
        others = [scraped(other)]
        for life in range(lives):
            place = tmp_path / str(life)
            place.mkdir()
            with running(GUNICORN, place, metrics=port) as server:
                shown = [scraped(server)]
                with load() as asked:
                    asked += [server, other]
                    while server.handled() < 50:
                        shown.append(scraped(server))
                        others.append(scraped(other))
                never_falls(shown)
                complete(server, prometheus, "shop", server.handled())
                server.end((signal.SIGTERM, signal.SIGKILL)[life % 2])
            until(lambda server=server: nothing_is_left(server), "the end of the service")  # type: ignore[misc]
        never_falls(others)
        complete(other, prometheus, "other", other.handled())
        assert {} == resets(prometheus, "other")
        assert 1 <= max(resets(prometheus, "shop").values()) <= lives - 1


#: A master runs itself again as it was run: by ``-m``, it would import modules of gunicorn by wrong
#: names.
UPGRADABLE = replace(
    GUNICORN,
    arguments=(str(Path(sys.executable).with_name("gunicorn")), *GUNICORN.arguments[2:]),
)
#: Has the workers of each master count what they handle in a file of their own.
OF_MASTER = 'import os\nos.environ["HANDLED"] = os.path.abspath(f"handled-{os.getpid()}")\n'


def handled(server: Running, *masters: int) -> int:
    """Return how many requests the workers of these masters have counted."""
    files = (server.directory / f"handled-{master}" for master in masters)
    return sum(file.stat().st_size for file in files if file.exists())


def newest_master(server: Running) -> int:
    """Return the master that was the last to listen."""
    return int(re.findall(r"Listening at: .* \((\d+)\)", server.log())[-1])


def upgrade(server: Running, old: int) -> int:
    """Replace a master by another one, which handles requests before the old one ends."""
    os.kill(old, signal.SIGUSR2)
    until(lambda: newest_master(server) != old, "another master")
    new = newest_master(server)
    until(lambda: handled(server, new) > 0, "the new workers to handle a request")
    os.kill(old, signal.SIGTERM)
    until(lambda: ended(old), "the end of the old master")
    return new


def renew_workers(server: Running, master: int) -> None:
    """Have a master end its workers and start others, and wait until it has."""
    before = {answering(server) for _ in range(50)}
    os.kill(master, signal.SIGHUP)
    until(lambda: all(map(ended, before)), "the end of all workers")
    answering(server)


@pytest.mark.parametrize("way", ["line", "directory", "run"])
def test_a_binary_upgrade_of_gunicorn_loses_no_count(
    way: str, tmp_path: Path, binary: Callable[..., str], root: Path
) -> None:
    """Both masters handle requests for a while.

    By the line of code each is a service of its own, and the second one gets the port when the
    first has ended. In a directory of one's own, and by ``run``, they are one service.
    """
    (tmp_path / "gunicorn.conf.py").write_text(OF_MASTER)
    with (
        ports.reserved() as port,
        run_prometheus(
            binary("prometheus", NEWEST),
            root,
            tmp_path,
            {"shop": f"{LOCAL}:{port}"},
            seconds=SECONDS,
        ) as prometheus,
        running(
            UPGRADABLE,
            tmp_path,
            line=way != "run",
            before=RUN if way == "run" else (),
            metrics=port,
            environ={"AIOMETRICS_DIR": str(tmp_path / "pages")} if way == "directory" else {},
        ) as server,
    ):
        masters = [server.process.pid]
        shown = [scraped(server)]
        counters(prometheus, "shop")  # it has seen the first master
        with load() as asked:
            asked.append(server)
            for _ in range(2):
                masters.append(upgrade(server, masters[-1]))
                shown.append(scraped(server))
                renew_workers(server, masters[-1])
                shown.append(scraped(server))
        served = masters[-1:] if way == "line" else masters
        complete(server, prometheus, "shop", handled(server, *served))
        begun_anew = resets(prometheus, "shop")
        if way == "line":
            assert max(begun_anew.values(), default=0) <= len(masters) - 1
        else:
            never_falls(shown)
            assert {} == begun_anew
    until(lambda: nothing_is_left(server), "the directories to be removed")


def test_a_daemon_of_run_keeps_its_counters(tmp_path: Path) -> None:
    """The process that ``run`` became has ended, and its only worker is replaced several times."""
    file = tmp_path / "pid"
    arguments = ("--daemon", "--pid", str(file), "-w", "1", "--max-requests", "5")
    daemon = replace(UPGRADABLE, arguments=(*UPGRADABLE.arguments, *arguments))
    try:
        with running(daemon, tmp_path, line=False, before=RUN) as server:
            shown, pids = [scraped(server)], set[int]()
            while len(pids) < 4:
                pids.add(answering(server))
                shown.append(scraped(server))
            never_falls(shown)
            until(lambda: server.counted() == server.handled(), "all requests to be counted")
    finally:
        os.kill(int(file.read_text()), signal.SIGTERM)
    until(lambda: nothing_is_left(server), "the directory to be removed")
