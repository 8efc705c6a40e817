"""``aiometrics run``: programs that know nothing of it are traced, on real servers."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from soak.metrics import Exposition
from support.servers import SERVERS, Running, Server, counted, running, until

from aiometrics.__main__ import main
from aiometrics.launch.command import PATH, environment

pytestmark = pytest.mark.skipif(
    sys.platform != "linux", reason="only Linux tells who descends from whom"
)

RUN = (sys.executable, "-m", "aiometrics", "run", "--port", "{metrics}", "--addr", "127.0.0.1")
ROUTE = "GET /orders/{id}"
#: The others start slowly, or are the same for us.
SOME = ("uvicorn", "gunicorn, uvicorn's workers", "aiohttp.run_app")


def shown(server: Running, *, routes: bool = True) -> Exposition:
    """Return what the port shows once all requests are in it, also by type if they have ``routes``.

    A client has its response before the request is over.
    """
    found: list[Exposition] = []

    def complete() -> bool:
        answer = server.exposition()
        if answer is None:
            return False
        found[:] = [answer]
        shown = [counted(answer), *([sum(requests(answer).values())] if routes else ())]
        return {server.handled()} == set(shown)

    until(complete, "all requests to be counted")
    return found[0]


def requests(metrics: Exposition) -> dict[str, float]:
    """Return the number of requests by type."""
    return metrics.by("request", "asyncio_request_wall_seconds_count")


@pytest.mark.parametrize(
    "name",
    [name if name in SOME else pytest.param(name, marks=pytest.mark.once) for name in SERVERS],
)
def test_a_server_is_traced_as_it_is(name: str, tmp_path: Path) -> None:
    """All requests are counted at one port, in tasks and by route."""
    with running(SERVERS[name], tmp_path, line=False, before=(*RUN, "--")) as server:
        for _ in range(40):
            server.request()
        metrics = shown(server, routes=SERVERS[name].routes)
        if SERVERS[name].routes:
            assert {ROUTE: server.handled()} == requests(metrics)
    assert "Traceback" not in server.log()


@pytest.mark.parametrize("name", ["uvicorn", "aiohttp.run_app"])
def test_a_program_that_knows_it_is_counted_once(name: str, tmp_path: Path) -> None:
    """The line of code finds the exporter that runs, and the middleware is not added twice."""
    own = {
        "uvicorn": "from aiometrics.integrations.asgi import RequestMiddleware\n"
        "app.add_middleware(RequestMiddleware)\n",
        "aiohttp.run_app": "",
    }
    web = SERVERS[name].web.replace("\nif __name__", f"\n{own[name]}\nif __name__")
    web = web.replace(
        "web.Application()",
        "web.Application(middlewares=[__import__('aiometrics.integrations.aiohttp')"
        ".integrations.aiohttp.request_middleware()])",
    )
    server = Server(web, SERVERS[name].arguments)
    with running(server, tmp_path, line=True, before=(*RUN, "--")) as found:
        found.request()
        assert {ROUTE: found.handled()} == requests(shown(found))
    assert "goes on with" not in found.log()


def test_middleware_can_be_left_out(tmp_path: Path) -> None:
    """Tasks are counted all the same."""
    before = (*RUN, "--no-middleware", "--")
    with running(SERVERS["uvicorn"], tmp_path, line=False, before=before) as server:
        assert {} == requests(shown(server, routes=False))


#: Prints what a program sees of being run, and whether it and its child are traced.
PROGRAM = """
import asyncio, os, subprocess, sys
import sitecustomize
traced = "aiometrics" in sys.modules
child = "import asyncio, sys; print('aiometrics' in sys.modules)"
if len(sys.argv) > 1:
    print(traced, sitecustomize.__file__, [each for each in sys.path if "aiometrics" in each])
    print(os.environ.get("PYTHONPATH"), flush=True)
    subprocess.run([sys.executable, "-c", child])
"""


def ran(directory: Path, *options: str, path: str) -> list[str]:
    """Return the lines that the program prints when it is run with ``options``."""
    (directory / "program.py").write_text(PROGRAM)
    done = subprocess.run(
        [
            *(sys.executable, "-m", "aiometrics", "run", "--port", "0", "--addr", "127.0.0.1"),
            *(*options, "--", sys.executable, "program.py", "print"),
        ],
        cwd=directory,
        env={**environment({}, {"PYTHONPATH": path}), "PYTHONPATH": path},
        check=False,
        capture_output=True,
        text=True,
    )
    assert (0, "") == (done.returncode, done.stderr)
    return done.stdout.splitlines()


def test_a_sitecustomize_of_the_user_is_imported(tmp_path: Path) -> None:
    """The program sees that one, and the path that it would have. Its child is traced."""
    (tmp_path / "user").mkdir()
    hidden = tmp_path / "user" / "sitecustomize.py"
    hidden.write_text("")
    expected = [f"True {hidden} []", f"{PATH}:{hidden.parent}", "True"]
    assert expected == ran(tmp_path, path=str(hidden.parent))


def test_children_can_be_left_alone(tmp_path: Path) -> None:
    """Then the environment is what it was as well."""
    printed = ran(tmp_path, "--no-children", path=str(tmp_path))
    assert [True, str(tmp_path), "False"] == [printed[0].startswith("True "), *printed[1:]]


def test_an_interpreter_without_the_package_runs_the_program() -> None:
    """One line says that it is not traced."""
    bare = sys._base_executable  # type: ignore[attr-defined]  # the one that made the environment
    done = subprocess.run(
        [bare, "-c", "import asyncio; print('runs')"],
        env={"PYTHONPATH": PATH, "PYTHONNOUSERSITE": "1"},
        check=False,
        capture_output=True,
        text=True,
    )
    assert (0, "runs\n") == (done.returncode, done.stdout)
    assert done.stderr.startswith(f"aiometrics: not traced, since {bare} lacks it: ")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--port", "70000", "--", "true"], "port must be from 0 to 65535, not 70000"),
        ([], "name the program to run: aiometrics run -- uvicorn web:app"),
        (["--", "no-such-program"], "cannot run 'no-such-program': No such file or directory"),
    ],
)
def test_what_cannot_be_run_is_refused(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """One line says why, and nothing is run."""
    assert 1 == main(["run", *arguments])
    assert f"aiometrics: {message}\n" == capsys.readouterr().err


def test_the_directory_for_the_environment_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    """For containers, which set ``PYTHONPATH``."""
    assert 0 == main(["run", "--print-path"])
    assert (Path(capsys.readouterr().out.strip()) / "sitecustomize.py").is_file()


HOOKED = """
import sys
from aiometrics.launch.path._aiometrics_imports import when_imported
seen = []
before = list(sys.meta_path)
when_imported("colorsys", lambda module: seen.append(module.rgb_to_hsv is not None))
import colorsys
when_imported("colorsys", lambda module: seen.append(True))
print(seen, before == sys.meta_path, type(colorsys.__loader__).__name__,
      colorsys.__spec__.loader is colorsys.__loader__)
"""


def test_an_import_looks_as_it_would() -> None:
    """The loader is the module's own again, and the path of finders as it was."""
    done = subprocess.run(
        [sys.executable, "-c", HOOKED], check=True, capture_output=True, text=True
    )
    assert "[True, True] True SourceFileLoader True\n" == done.stdout


AMONG_OTHERS = """
import importlib.util, sys
from aiometrics.launch.path._aiometrics_imports import when_imported
seen = []
when_imported("colorsys", lambda module: seen.append(module.__name__))

class Asking:
    asks = False

    def find_spec(self, name, path=None, target=None):
        if self.asks:
            return None
        self.asks = True
        try:
            return importlib.util.find_spec(name)
        finally:
            self.asks = False

sys.meta_path.insert(int(sys.argv[1]), Asking())
import colorsys
print(seen, type(colorsys.__loader__).__name__)
"""


@pytest.mark.parametrize("place", ["0", "1"])
def test_a_finder_may_ask_all_finders(place: str) -> None:
    """As ddtrace's does, before or after ours: the function is called once."""
    done = subprocess.run(
        [sys.executable, "-c", AMONG_OTHERS, place], check=True, capture_output=True, text=True
    )
    assert "['colorsys'] SourceFileLoader\n" == done.stdout
