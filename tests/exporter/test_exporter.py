"""The exporter from end to end: one call, HTTP, and everything back as it was."""

from __future__ import annotations

import asyncio
import gc
import http.client
import logging
import os
import re
import socket
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry, Counter, Metric
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text
from prometheus_client.registry import Collector as PrometheusCollector

import aiometrics
from aiometrics.exporter.session import process
from aiometrics.exposition.metrics import METRICS
from aiometrics.instrumentation.watchdog import Watchdog

LOCAL = "127.0.0.1"
OPENMETRICS = "application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5"


@pytest.fixture
def exporter() -> Iterator[aiometrics.Exporter]:
    """A running exporter of our metrics alone."""
    with aiometrics.start_exporter(0, LOCAL, registry=None) as running:
        yield running


def get(
    exporter: aiometrics.Exporter, path: str = "/metrics", **headers: str
) -> tuple[int, str, str]:
    """Return status, content type and text of a response."""
    connection = http.client.HTTPConnection(LOCAL, exporter.port, timeout=300)
    try:
        connection.request("GET", path, headers=headers)
        answer = connection.getresponse()
        return answer.status, answer.getheader("Content-Type", ""), answer.read().decode()
    finally:
        connection.close()


def values(text: str, name: str) -> dict[tuple[str, ...], float]:
    """Return the samples of one name by the values of their labels."""
    found = [
        sample for family in parse_text(text) for sample in family.samples if sample.name == name
    ]
    return {tuple(sample.labels.values()): sample.value for sample in found}


async def works() -> None:
    """The application's work in these tests."""
    await asyncio.sleep(0)


WORKS = f"{__name__}.works"


@pytest.mark.parametrize(
    ("accept", "content_type", "parse"),
    [
        ("", "text/plain; version=0.0.4", parse_text),
        (OPENMETRICS, "application/openmetrics-text; version=1.0.0", parse_openmetrics),
    ],
)
def test_metrics_are_served_in_both_formats(
    exporter: aiometrics.Exporter, accept: str, content_type: str, parse: Any
) -> None:
    """Each response parses with prometheus_client's parser, and has every metric and the tasks."""
    asyncio.run(works())
    status, kind, text = get(exporter, **({"Accept": accept} if accept else {}))
    families = {family.name: family for family in parse(text)}
    assert (200, content_type) == (status, kind.partition("; charset")[0])
    expected = {metric.family for metric in METRICS}
    assert expected == set(families)
    created = {
        sample.labels["coroutine"]: sample.value
        for sample in families["asyncio_tasks_created"].samples
    }
    assert 1 == created[WORKS]


def test_index_and_health_check(exporter: aiometrics.Exporter) -> None:
    """``/`` is a page that links the metrics; ``/-/healthy`` says OK."""
    status, kind, text = get(exporter, "/")
    assert (200, "text/html; charset=utf-8") == (status, kind)
    assert '<a href="/metrics">' in text
    assert (200, "OK\n") == get(exporter, "/-/healthy")[::2]
    assert 404 == get(exporter, "/elsewhere")[0]


def test_the_address_is_known(exporter: aiometrics.Exporter) -> None:
    """Port 0 takes a free one, and ``url`` leads there."""
    assert f"http://127.0.0.1:{exporter.port}/metrics" == exporter.url
    assert 0 != exporter.port
    assert f"<Exporter at {exporter.url}>" == repr(exporter)


def test_metrics_of_the_application_follow() -> None:
    """Its metrics are in the same response, in the same format."""
    registry = CollectorRegistry()
    Counter("orders", "Orders taken.", registry=registry).inc(3)
    with aiometrics.start_exporter(0, LOCAL, registry=registry) as exporter:
        assert {(): 3.0} == values(get(exporter)[2], "orders_total")


def test_a_collector_of_the_application_that_fails_is_asked_again(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Its error is logged once, saying that the probe stays on, and is counted each time."""

    class Broken(PrometheusCollector):
        def describe(self) -> list[Metric]:
            return []

        def collect(self) -> list[Metric]:
            raise LookupError("not there yet")

    registry = CollectorRegistry()
    registry.register(Broken())
    with aiometrics.start_exporter(0, LOCAL, registry=registry) as running:
        seen = [values(get(running)[2], "aiometrics_errors_total") for _ in range(3)]
    assert [{}, {("registry",): 1}, {("registry",): 2}] == seen
    expected = (
        "aiometrics: internal error in probe 'registry', which stays on; "
        "the application is not affected"
    )
    assert [expected] == [
        record.getMessage() for record in caplog.records if record.name == "aiometrics"
    ]


def test_a_blocked_loop_is_scraped_while_it_is_blocked(exporter: aiometrics.Exporter) -> None:
    """The response comes at once, and has the segment in progress by name."""
    exporter.stop()
    entered, released = threading.Event(), threading.Event()
    answers: list[str] = []

    async def blocks() -> None:
        await asyncio.sleep(0)
        entered.set()
        assert released.wait(timeout=300)

    def scrape(exporter: aiometrics.Exporter) -> None:
        assert entered.wait(timeout=300)
        answers.extend(get(exporter)[2] for _ in range(2))
        released.set()

    # Every segment counts as blocking, so that none must last long here.
    with aiometrics.start_exporter(0, LOCAL, registry=None, blocking_threshold=1e-9) as running:
        thread = threading.Thread(target=scrape, args=(running,))
        thread.start()
        asyncio.run(blocks())
        thread.join()
        after = get(running)[2]
    name = f"{__name__}.{blocks.__qualname__}"
    one, two, three = [
        values(text, "asyncio_blocking_seconds_total")[name, "(running)", "(running)"]
        for text in (*answers, after)
    ]
    assert 0 < one < two <= three
    loops = [values(text, "asyncio_loop_blocking_seconds_total") for text in (*answers, after)]
    assert all(
        earlier[loop] < later[loop] for earlier, later in pairwise(loops) for loop in earlier
    )


def test_a_taken_port_is_refused_at_the_call_if_asked() -> None:
    """The error names port, address and what to do, and nothing has changed."""
    before = asyncio.Task, vars(asyncio.BaseEventLoop)["create_task"]
    with aiometrics.start_exporter(0, LOCAL, registry=None) as exporter:
        taken = exporter.port
        code = (
            f"import aiometrics\naiometrics.start_exporter({taken}, '127.0.0.1', on_error='raise')"
        )
        done = subprocess.run(
            [sys.executable, "-c", code], check=False, capture_output=True, text=True
        )
    assert 1 == done.returncode
    assert re.search(
        rf"OSError: .*cannot serve metrics on port {taken} of '127.0.0.1': .*port=0", done.stderr
    )
    assert before == (asyncio.Task, vars(asyncio.BaseEventLoop)["create_task"])


def test_a_second_start_gives_the_running_exporter(
    exporter: aiometrics.Exporter, caplog: pytest.LogCaptureFixture
) -> None:
    """Options that it was not started with are named in a warning; after stop() another may start.

    A module that starts an exporter is imported twice if the program runs it and a server imports
    it.
    """
    assert aiometrics.start_exporter(0, LOCAL, registry=None) is exporter
    assert [] == caplog.messages
    assert aiometrics.start_exporter(0, LOCAL, registry=None, sample=0.5) is exporter
    warning = (
        f"aiometrics: the exporter at {exporter.url} goes on with sample=1.0, not with sample=0.5: "
        "start it once with all options, or call its stop() before starting another"
    )
    assert [warning] == caplog.messages
    with pytest.raises(ValueError, match="sample"):
        aiometrics.start_exporter(0, LOCAL, registry=None, sample=3)
    assert 200 == get(exporter)[0]
    exporter.stop()
    exporter.stop()
    with aiometrics.start_exporter(0, LOCAL, registry=None) as another:
        assert 200 == get(another)[0]
        # The first one does not stop another.
        exporter.stop()
        assert 200 == get(another)[0]


def test_a_taken_port_does_not_stop_a_service(
    free_port: int, caplog: pytest.LogCaptureFixture
) -> None:
    """It is traced meanwhile, a warning is logged once, and it has the port when that is free."""
    caplog.set_level(logging.INFO)
    with socket.socket() as stranger:
        stranger.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        stranger.bind((LOCAL, free_port))
        stranger.listen()
        exporter = aiometrics.start_exporter(free_port, LOCAL, registry=None)
        asyncio.run(works())
        for _ in range(2):
            exporter._endpoints.take_over()
        assert 1 == len(caplog.messages)
        assert f"cannot serve metrics on port {free_port}" in caplog.messages[0]
        assert "tries again every second" in caplog.messages[0]
    with exporter:
        while not exporter._endpoints.bound:
            time.sleep(0.01)
        text = get(exporter)[2]
    assert 1 == values(text, "asyncio_tasks_created_total")[WORKS,]


TWICE = """
import asyncio, sys
import aiometrics
exporter = aiometrics.start_exporter(port=0, addr="127.0.0.1")
if __name__ == "__main__":
    import twice
    print(twice.exporter is exporter)
"""


def test_a_module_that_is_imported_twice_starts_one_exporter(tmp_path: Path) -> None:
    """As with ``uvicorn.run("web:app")`` at the end of ``web.py``."""
    (tmp_path / "twice.py").write_text(TWICE)
    done = subprocess.run(
        [sys.executable, "twice.py"], check=False, capture_output=True, text=True, cwd=tmp_path
    )
    assert (0, "True\n", "") == (done.returncode, done.stdout, done.stderr)


def test_it_starts_in_code_without_a_name() -> None:
    """As ``exec(code, {})`` runs it."""
    code = "import aiometrics; aiometrics.start_exporter(0, '127.0.0.1', registry=None).stop()"
    exec(code, {})  # noqa: S102 - the test is about it


IN_SUB_INTERPRETER = """
import aiometrics
with aiometrics.start_exporter(0, "127.0.0.1") as exporter:
    print("up", flush=True)
try:
    aiometrics.start_exporter(0, "127.0.0.1", on_error="raise")
except RuntimeError as error:
    print(error, flush=True)
"""
SUB_INTERPRETER = """
import sys
from concurrent import interpreters
interpreter = interpreters.create()
interpreter.exec(sys.argv[1])
interpreter.close()
"""


@pytest.mark.skipif(
    sys.version_info < (3, 14),
    reason="importing asyncio in a sub-interpreter crashes before Python 3.13, and only "
    "Python 3.14 has a public way to make one",
)
def test_a_sub_interpreter_without_daemon_threads_is_left_alone() -> None:
    """Nothing is traced there, and the log says why."""
    done = subprocess.run(
        [sys.executable, "-c", SUB_INTERPRETER, IN_SUB_INTERPRETER],
        check=False,
        capture_output=True,
        text=True,
    )
    reason = (
        "this sub-interpreter allows no daemon threads, which aiometrics needs: nothing is traced "
        "here; start the exporter in the main interpreter"
    )
    assert (0, f"up\n{reason}\n") == (done.returncode, done.stdout), done.stderr
    assert f"aiometrics: {reason}\n" == done.stderr


@pytest.mark.parametrize(
    "wrong", [{"port": -1}, {"sample": 3}, {"application": "shop"}, {"blocking_threshold": "1"}]
)
def test_wrong_options_change_nothing(wrong: dict[str, Any]) -> None:
    """They are refused before anything is installed."""
    before = asyncio.Task, asyncio.Task.__init__, vars(asyncio.BaseEventLoop)["create_task"]
    with pytest.raises((TypeError, ValueError), match=next(iter(wrong))):
        aiometrics.start_exporter(**wrong)
    assert before == (
        asyncio.Task,
        asyncio.Task.__init__,
        vars(asyncio.BaseEventLoop)["create_task"],
    )
    with aiometrics.start_exporter(0, LOCAL, registry=None) as exporter:
        assert 200 == get(exporter)[0]


def test_options_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """An option that is not given as an argument has its variable's value."""
    monkeypatch.setenv("AIOMETRICS_PORT", "0")
    monkeypatch.setenv("AIOMETRICS_ADDR", LOCAL)
    monkeypatch.setenv("AIOMETRICS_SAMPLE", "1/4")
    with aiometrics.start_exporter(registry=None, max_loops=3) as exporter:
        assert (0, LOCAL, 0.25, 3) == (
            exporter.serving.port,
            exporter.serving.addr,
            exporter.recording.sample,
            exporter.recording.max_loops,
        )


def test_it_may_be_started_inside_a_running_loop() -> None:
    """Tasks that are created afterwards are traced; the running one is too, by the C recorder."""

    async def main() -> dict[str, int]:
        with aiometrics.start_exporter(0, LOCAL, registry=None) as exporter:
            await asyncio.create_task(works())
            seen = exporter.snapshot()
            return {
                "untraced": seen.untraced_tasks,
                **{entry.coroutine: entry.created for entry in seen.coroutines if entry.created},
            }

    untraced = 0 if aiometrics.IMPLEMENTATION == "c" else 1
    assert {"untraced": untraced, WORKS: 1} == asyncio.run(main())


def test_numbers_outlast_the_exporter(exporter: aiometrics.Exporter) -> None:
    """After stop() the exporter still shows its numbers; the module's functions raise."""
    asyncio.run(works())
    exporter.stop()
    asyncio.run(works())
    assert 1 == exporter.snapshot().coroutine(WORKS).created
    for function in (aiometrics.snapshot, aiometrics.hotspots):
        with pytest.raises(
            RuntimeError,
            match=r"nothing is instrumented: call aiometrics.start_exporter\(\) or "
            r"aiometrics.instrument\(loop\) first",
        ):
            function()


def test_a_stopped_exporter_lets_go_of_the_registry() -> None:
    """It and its collectors are gone with their last user, not with the next collection."""
    registry = CollectorRegistry()
    Counter("shop_orders", "Orders.", registry=registry)
    running = aiometrics.start_exporter(0, LOCAL, registry=registry)
    assert "shop_orders_total" in get(running)[2]
    left = weakref.ref(registry)
    gc.collect()
    gc.disable()
    try:
        running.stop()
        del running, registry
        deadline = time.monotonic() + 60
        while left() is not None and time.monotonic() < deadline:
            time.sleep(0.01)  # until the thread that asked the collectors has ended
        assert left() is None
    finally:
        gc.enable()


def test_one_loop_can_be_traced_without_a_server() -> None:
    """instrument(loop) is enough for snapshot(), hotspots() and a Collector."""
    registry = CollectorRegistry()
    registry.register(aiometrics.Collector())
    loop = asyncio.new_event_loop()
    assert registry.get_sample_value("asyncio_tasks_created_total", {"coroutine": WORKS}) is None
    aiometrics.instrument(loop)
    loop.run_until_complete(works())
    assert 1 == aiometrics.snapshot().coroutine(WORKS).created
    assert 1.0 == registry.get_sample_value("asyncio_tasks_created_total", {"coroutine": WORKS})
    assert "works" in str(aiometrics.hotspots(top=50))
    with pytest.raises(
        RuntimeError,
        match=r"instrument\(loop\) already traces with .*: "
        r"uninstrument\(loop\) first, or give the same options",
    ):
        aiometrics.start_exporter(0, LOCAL, sample=0.5)
    with aiometrics.start_exporter(0, LOCAL, registry=None) as exporter:
        loop.run_until_complete(works())
        assert 2.0 == values(get(exporter)[2], "asyncio_tasks_created_total")[WORKS,]
    aiometrics.uninstrument(loop)
    aiometrics.uninstrument(loop)
    loop.close()


def test_uninstrument_puts_everything_back() -> None:
    """Without its last loop the instrumentation removes its hooks."""
    before = asyncio.Task, asyncio.Task.__init__, vars(asyncio.BaseEventLoop)["create_task"]
    loops = [asyncio.new_event_loop() for _ in range(2)]
    for loop in loops:
        aiometrics.instrument(loop)
    for loop in loops:
        aiometrics.uninstrument(loop)
        loop.close()
    assert before == (
        asyncio.Task,
        asyncio.Task.__init__,
        vars(asyncio.BaseEventLoop)["create_task"],
    )
    process.instrumentation = None


def test_the_callers_package_is_application_wherever_it_is_installed(tmp_path: Path) -> None:
    """In a container the service itself is installed with pip."""
    package = tmp_path / "site-packages" / "shopsvc"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("")
    (package / "main.py").write_text(
        "import asyncio, aiometrics\n"
        "async def handler():\n    await asyncio.sleep(0)\n"
        "with aiometrics.start_exporter(0, '127.0.0.1', application=['extra']) as exporter:\n"
        "    asyncio.run(handler())\n"
        "    points = exporter.snapshot().yield_points\n"
        "    print(exporter.recording.application, points[0].yield_point)\n"
    )
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join([str(package.parent), *sys.path])}
    done = subprocess.run(
        [sys.executable, "-c", "import shopsvc.main"],
        check=True,
        capture_output=True,
        text=True,
        env=environ,
    )
    assert "('extra', 'shopsvc') shopsvc/main.py:3 handler\n" == done.stdout


FORK = """
import asyncio, os, sys, threading
import aiometrics

async def works():
    await asyncio.sleep(0)

async def main():
    loop, main_task = asyncio.get_running_loop(), asyncio.current_task()
    task = asyncio.create_task(works())
    child = os.fork()
    if child:
        await task
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    try:
        try:
            aiometrics.snapshot()
        except RuntimeError as error:
            assert "nothing is instrumented" in str(error)
        # From Python 3.14 on a child must set and leave these, to run a task of its parent's and
        # then another loop.
        asyncio._set_running_loop(loop)
        if asyncio.current_task() is None:
            asyncio._enter_task(loop, main_task)
        await task
        asyncio._leave_task(loop, main_task)
        asyncio._set_running_loop(None)
        asyncio.run(works())
        with aiometrics.start_exporter(0, "127.0.0.1", registry=None) as own:
            asyncio.run(works())
            assert 1 == own.snapshot().coroutine("__main__.works").created, own.snapshot()
    except BaseException as error:
        print(repr(error), flush=True)
        os._exit(1)
    os._exit(0)

if __name__ == "__main__":
    options = {"registry": None, "blocking_threshold": 1e6}
    with aiometrics.start_exporter(0, "127.0.0.1", **options) as exporter:
        code = asyncio.run(main())
        import http.client
        connection = http.client.HTTPConnection("127.0.0.1", exporter.port, timeout=300)
        connection.request("GET", "/metrics")
        text = connection.getresponse().read().decode()
        assert 'asyncio_tasks_created_total{coroutine="__main__.works"} 1' in text, text
        print(aiometrics.IMPLEMENTATION, code)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
def test_a_forked_child_has_no_exporter(implementation: str) -> None:
    """A forked child is not traced and may start its own exporter.

    The parent goes on serving, without the child's numbers.
    """
    environ = {**os.environ, "AIOMETRICS_NO_EXTENSIONS": "" if implementation == "c" else "1"}
    command = [sys.executable, "-W", "ignore::DeprecationWarning", "-c", FORK]
    done = subprocess.run(
        command, check=False, capture_output=True, text=True, env=environ, timeout=300
    )
    assert (f"{implementation} 0\n", "") == (done.stdout, done.stderr)


PENDING = """
import asyncio, aiometrics
exporter = aiometrics.start_exporter(0, "127.0.0.1")

async def waits():
    await asyncio.get_running_loop().create_future()

async def main():
    global task
    task = asyncio.create_task(waits())
    await asyncio.sleep(0)

loop = asyncio.new_event_loop()
loop.run_until_complete(main())
{end}
"""


@pytest.mark.parametrize(
    "end",
    [
        "",
        "exporter.stop()",
        "loop.close()",
        "raise SystemExit",
        "import os, signal; os.kill(os.getpid(), signal.SIGINT)",
    ],
)
def test_a_program_may_end_at_any_time(implementation: str, end: str) -> None:
    """With pending tasks and an exporter, a program prints the same as without aiometrics."""
    environ = {**os.environ, "AIOMETRICS_NO_EXTENSIONS": "" if implementation == "c" else "1"}

    def output(code: str) -> tuple[int, str]:
        done = subprocess.run(
            [sys.executable, "-c", code],
            check=False,
            capture_output=True,
            text=True,
            env=environ,
            timeout=300,
        )
        return done.returncode, re.sub(r"0x[0-9a-f]+|Task-\d+|line \d+", "#", done.stderr)

    bare = re.sub("exporter = .*", "", PENDING).format(end="" if "exporter" in end else end)
    assert output(bare) == output(PENDING.format(end=end))


def test_an_exporter_that_cannot_start_leaves_nothing_behind(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, free_port: int
) -> None:
    """There is no port, no thread and no tracing: another attempt succeeds."""

    def no_thread(_: Watchdog) -> None:
        raise RuntimeError("can't start new thread")

    before = set(threading.enumerate())
    with monkeypatch.context() as short:
        short.setattr(Watchdog, "start", no_thread)
        with pytest.raises(RuntimeError, match="can't start new thread"):
            aiometrics.start_exporter(
                free_port, LOCAL, registry=None, directory=tmp_path / "shared"
            )
    assert [] == [
        thread.name
        for thread in set(threading.enumerate()) - before
        if thread.name.startswith("aiometrics")
    ]
    with aiometrics.start_exporter(free_port, LOCAL, registry=None) as exporter:
        assert free_port == exporter.port
