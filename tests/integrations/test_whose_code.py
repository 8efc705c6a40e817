"""Tells whose code it is that was frozen, zipped, installed in place or typed in.

Each program is built and run by the real tool, in a process of its own.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from textwrap import dedent
from typing import Any
from zipfile import ZipFile

import pytest

#: A library, and an application that awaits it.
DRIVER = "import asyncio\n\nasync def fetch():\n    await asyncio.sleep(0)\n"
SHOP = "import driver\n\nasync def query():\n    await driver.fetch()\n"
#: Runs the application as a task and prints where that waited.
RUN = """
import asyncio, json, sys
from aiometrics.testing import traced_loop
{imports}

def run():
    with traced_loop(implementation="{implementation}") as traced:
        traced.run({query}())
        points = [point for point in traced.snapshot().yield_points if point.waits.count]
        print(json.dumps([(one.coroutine, one.yield_point, one.awaits) for one in points]))

run()
"""
RECORD = {"driver-1.0.dist-info/METADATA": "", "driver-1.0.dist-info/RECORD": "driver.py,,\n"}


def run(command: list[Any], folder: Path, **environ: str) -> list[list[str]]:
    """Run a program and return what it printed: coroutine, yield point and awaits of each wait."""
    done = subprocess.run(
        [*map(str, command)],
        cwd=folder,
        check=False,
        capture_output=True,
        text=True,
        env={**os.environ, **environ},
        timeout=300,
    )
    assert 0 == done.returncode, done.stdout + done.stderr
    found: list[list[str]] = json.loads(done.stdout.splitlines()[-1])
    return found


def program(implementation: str, query: str = "shop.query", imports: str = "import shop") -> str:
    """Return the source of a program that runs ``query()`` as a task."""
    return RUN.format(implementation=implementation, query=query, imports=imports)


def write(folder: Path, **files: str) -> Path:
    """Write modules into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, source in files.items():
        (folder / f"{name}.py").write_text(source)
    return folder


EXPECTED = [["shop.query", "shop.py:4 query", "driver.fetch"]]


def test_an_archive_may_hold_the_application_and_its_libraries(
    implementation: str, tmp_path: Path
) -> None:
    """The metadata beside a library in the archive tells that it was installed."""
    with ZipFile(tmp_path / "app.pyz", "w") as archive:
        for name, text in {"driver.py": DRIVER, "shop.py": SHOP, **RECORD}.items():
            archive.writestr(name, text)
        archive.writestr("__main__.py", program(implementation))
    assert EXPECTED == run([sys.executable, "app.pyz"], tmp_path)


def test_what_is_installed_beside_the_application_is_a_library(
    implementation: str, tmp_path: Path
) -> None:
    """As by ``pip install --target``; no folder is called site-packages then."""
    write(tmp_path, driver=DRIVER, shop=SHOP, main=program(implementation))
    (tmp_path / "driver-1.0.dist-info").mkdir()
    for name, text in RECORD.items():
        (tmp_path / name).write_text(text)
    (tmp_path / "odd-1.0.dist-info").mkdir()
    (tmp_path / "odd-1.0.dist-info" / "RECORD").write_bytes("größe.py,,\n".encode("latin-1"))
    assert EXPECTED == run([sys.executable, "main.py"], tmp_path)


PROJECT = """
[build-system]
requires = ["setuptools"]
build-backend = "setuptools.build_meta"
[project]
name = "{name}"
version = "1.0"
[tool.setuptools]
py-modules = ["{name}"]
"""


@pytest.mark.once
def test_what_pip_installs_tells_whose_it_is(implementation: str, tmp_path: Path) -> None:
    """An editable install is the application, and what was installed into a folder a library."""
    for name, source in (("driver", DRIVER), ("shop", SHOP)):
        write(tmp_path / name, **{name: source})
        (tmp_path / name / "pyproject.toml").write_text(PROJECT.format(name=name))
    pip = [sys.executable, "-m", "pip", "-q", "--disable-pip-version-check", "install"]
    pip += ["--no-index", "--no-deps", "--no-build-isolation", "--root-user-action=ignore"]
    prefix = tmp_path / "prefix"
    for where in (
        ["--target", tmp_path / "target", "./driver"],
        ["--prefix", prefix, "--ignore-installed", "--editable", "./shop"],
    ):
        subprocess.run([*pip, *map(str, where)], cwd=tmp_path, check=True, capture_output=True)
    (site,) = prefix.glob("lib*/python*/site-packages")
    (tmp_path / "target" / "main.py").write_text(
        f"import site\nsite.addsitedir({str(site)!r})\n{program(implementation)}"
    )
    assert EXPECTED == run([sys.executable, "target/main.py"], tmp_path)


FROZEN = """
import asyncio, json, sys
import aiometrics
import shop

async def main():
    await shop.query()

async def run():
    aiometrics.instrument(asyncio.get_running_loop())
    await asyncio.create_task(main())
    points = aiometrics.snapshot().yield_points_of("__main__.main")
    waited = [point for point in points if point.waits.count]
    print(json.dumps([(one.coroutine, one.yield_point, one.awaits) for one in waited]))

if "assets" in sys.argv:
    from aiometrics.exporter.assets import assets
    assets()
if "scraped" in sys.argv:
    import urllib.request
    with aiometrics.start_exporter(0, "127.0.0.1") as exporter:
        asyncio.run(main())
        pages = exporter.url, exporter.url.removesuffix("metrics")
        print([urllib.request.urlopen(url).status for url in pages], exporter.snapshot().errors)
    sys.exit()
asyncio.run(run())
"""


@pytest.fixture(scope="module")
def frozen(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A program made by PyInstaller; processes that share the tests of this file share it, too."""
    pytest.importorskip("PyInstaller")
    fcntl = pytest.importorskip("fcntl")
    folder = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent
    folder /= "frozen"
    folder.mkdir(exist_ok=True)
    program = folder / "dist" / "frozen" / "frozen"
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "complete").exists():
            freeze(folder)
            (folder / "complete").touch()
    return program


def freeze(folder: Path) -> None:
    """Let PyInstaller make the program."""
    write(folder, driver=DRIVER, shop=SHOP, frozen=FROZEN)
    options = ["--noconfirm", "--onedir", "--log-level=ERROR"]
    options += ["--hidden-import=aiometrics.recorder._core"]
    # Not used, and large.
    options += [f"--exclude-module={name}" for name in ("aiohttp", "starlette", "opentelemetry")]
    built = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "PyInstaller", *options, "frozen.py"],
        cwd=folder,
        check=False,
        capture_output=True,
        text=True,
        env={**os.environ, "PYINSTALLER_CONFIG_DIR": str(folder / "cache")},
    )
    if "Python shared library" in built.stderr:
        pytest.skip("PyInstaller needs the shared library of this Python, which is not installed")
    assert built.returncode == 0, built.stderr


@pytest.mark.long
@pytest.mark.parametrize(
    ("application", "expected"),
    [("", ["frozen.py:7 main", "shop.query"]), ("shop", ["shop.py:4 query", "driver.fetch"])],
)
def test_a_frozen_program_is_the_application(
    implementation: str, frozen: Path, application: str, expected: list[str]
) -> None:
    """PyInstaller leaves no paths: the main program is the application, and what one names."""
    seen = run(
        [frozen],
        frozen.parent,
        AIOMETRICS_APPLICATION=application,
        AIOMETRICS_NO_EXTENSIONS="" if implementation == "c" else "1",
    )
    assert [["__main__.main", *expected]] == seen


@pytest.mark.long
def test_a_frozen_program_says_what_it_was_built_without(frozen: Path, tmp_path: Path) -> None:
    """It is no internal error, and a new installation would not help."""
    told = subprocess.run(
        [frozen, "assets"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert 1 == told.returncode, told.stderr
    assert "or give PyInstaller --collect-data aiometrics" in told.stderr
    assert "reinstall" not in told.stderr
    scraped = subprocess.run([frozen, "scraped"], capture_output=True, text=True, check=False)
    assert ("[200, 200] {}\n", "") == (scraped.stdout, scraped.stderr)


CELL = """
import driver
async def query():
    await driver.fetch()
"""


@pytest.fixture
def driver(tmp_path: Path) -> Path:
    """A folder in which the driver is a library."""
    return write(tmp_path / "site-packages", driver=DRIVER)


def test_what_is_typed_into_ipython_is_the_application(
    implementation: str, tmp_path: Path, driver: Path
) -> None:
    """A place shows the number of its cell."""
    pytest.importorskip("IPython")
    cells = [dedent(CELL).strip(), "", "import aiometrics", program(implementation, "query", "")]
    source = (
        "from IPython.core.interactiveshell import InteractiveShell\n"
        "shell = InteractiveShell.instance()\n"
        f"for cell in {cells!r}:\n    shell.run_cell(cell, store_history=True).raise_error()\n"
    )
    seen = run(
        [sys.executable, "-W", "ignore", "-c", source],
        tmp_path,
        PYTHONPATH=str(driver),
        IPYTHONDIR=str(tmp_path / "ipython"),
    )
    assert [["__main__.query", "In[1]:3 query", "driver.fetch"]] == seen


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder with a path short enough for sockets."""
    with TemporaryDirectory() as name:
        yield Path(name)


@pytest.mark.once
def test_the_cells_of_a_notebook_are_the_application(
    implementation: str, tmp_path: Path, driver: Path, folder: Path
) -> None:
    """A kernel of Jupyter makes a file name of the text of each cell."""
    client_module = pytest.importorskip("jupyter_client")
    pytest.importorskip("ipykernel")
    environ = {**os.environ, "PYTHONPATH": str(driver), "IPYTHONDIR": str(tmp_path / "ipython")}
    # Ports would be free when they are chosen, and perhaps no longer when the kernel takes them.
    sockets = {"transport": "ipc", "ip": str(folder / "kernel")}
    manager = client_module.KernelManager(kernel_name="python3", **sockets)
    manager.kernel_spec.argv[0] = sys.executable
    manager.start_kernel(cwd=str(tmp_path), env=environ)
    printed: list[str] = []

    def show(message: Any) -> None:
        if message["msg_type"] in ("stream", "error"):
            printed.append(message["content"].get("text") or str(message["content"]))

    try:
        client = manager.blocking_client()
        client.start_channels()
        client.wait_for_ready(timeout=120)
        threaded = program(implementation, "query", "").replace("\nrun()\n", IN_THREAD)
        for cell in (CELL.strip(), threaded):
            client.execute_interactive(cell, timeout=120, output_hook=show)
        client.stop_channels()
    finally:
        manager.shutdown_kernel(now=True)
    seen = json.loads("".join(printed).splitlines()[-1])
    assert [["__main__.query", "In[1]:3 query", "driver.fetch"]] == seen


#: The kernel's own loop runs in the main thread.
IN_THREAD = """
import threading
thread = threading.Thread(target=run)
thread.start()
thread.join()
"""
