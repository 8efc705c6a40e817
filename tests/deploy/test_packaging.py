"""The installed package: its metadata, its files, and its C recorder, which is optional."""

from __future__ import annotations

import os
import runpy
import shutil
import subprocess
import sys
import sysconfig
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
import setuptools

import aiometrics

DISTRIBUTION = "aiometrics-exporter"
INSTALLED = Path(aiometrics.__file__).parent
FRAMEWORKS = (
    "aiohttp",
    "bcrypt",
    "fastapi",
    "gunicorn",
    "opentelemetry",
    "starlette",
    "textual",
    "uvicorn",
    "uvloop",
)


def python(*arguments: str, **environ: str) -> str:
    """Return what a fresh interpreter prints, without this directory and ``PYTHON*`` variables."""
    env = {
        name: value for name, value in os.environ.items() if name != "AIOMETRICS_NO_EXTENSIONS"
    } | environ
    return subprocess.run(
        [sys.executable, "-I", *arguments], env=env, check=True, capture_output=True, text=True
    ).stdout.strip()


def test_tests_see_the_installed_package() -> None:
    """The tests import the package that pip installed, not a source tree nearby."""
    assert python("-c", "import aiometrics; print(aiometrics.__file__)") == aiometrics.__file__


def test_metadata_has_the_version_of_the_package() -> None:
    """The version is written in one place only."""
    assert aiometrics.__version__ == metadata.version(DISTRIBUTION)


def test_prometheus_client_is_the_only_runtime_dependency() -> None:
    """A plain install brings one other package; all others are extras."""
    plain = [
        requirement
        for requirement in metadata.requires(DISTRIBUTION) or ()
        if "extra ==" not in requirement
    ]
    assert ["prometheus-client"] == [requirement.partition(">=")[0] for requirement in plain]


def test_every_file_of_the_package_is_installed(root: Path) -> None:
    """Modules, stubs, type marker and assets are installed; the C recorder's sources are not."""
    source = root / "aiometrics"
    unwanted = {".c", ".h", ".pyc", ".so"}
    wanted = {
        path.relative_to(source)
        for path in source.rglob("*")
        if path.is_file() and path.suffix not in unwanted
    }
    assert set() == {str(path) for path in wanted if not (INSTALLED / path).is_file()}


def test_importing_the_facade_imports_no_framework() -> None:
    """``import aiometrics`` imports no servers and loops that the application may not use."""
    assert (
        python("-c", f"import sys, aiometrics; print(set({FRAMEWORKS}) & set(sys.modules) or None)")
        == "None"
    )


def test_the_c_recorder_is_used_if_it_was_built() -> None:
    """A package with the extension uses it; one without it uses the Python recorder."""
    expected = (
        "c"
        if [*INSTALLED.glob("recorder/_core.*.so"), *INSTALLED.glob("recorder/_core.*.pyd")]
        else "python"
    )
    assert expected == python("-c", "import aiometrics; print(aiometrics.IMPLEMENTATION)")


def test_the_environment_switches_the_c_recorder_off() -> None:
    """``AIOMETRICS_NO_EXTENSIONS=1`` selects the Python recorder at run time."""
    assert (
        python(
            "-c",
            "import aiometrics; print(aiometrics.IMPLEMENTATION)",
            AIOMETRICS_NO_EXTENSIONS="1",
        )
        == "python"
    )


@pytest.fixture
def checkout(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a tree with ``setup.py`` and one C source, and make it the current directory."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("AIOMETRICS_NO_EXTENSIONS", raising=False)
    shutil.copy(root / "setup.py", tmp_path)
    (tmp_path / "aiometrics/recorder/csrc").mkdir(parents=True)
    (tmp_path / "aiometrics/recorder/csrc/core.c").write_text("#error this does not compile\n")
    return tmp_path


def extensions(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Return the ``ext_modules`` that ``setup.py`` passes to setuptools."""
    given: dict[str, list[Any]] = {}
    monkeypatch.setattr(setuptools, "setup", given.update)
    runpy.run_path(str(checkout / "setup.py"), run_name="__main__")
    return given["ext_modules"]


def test_setup_builds_one_optional_extension(
    checkout: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All C sources make one extension, and an install succeeds without it."""
    monkeypatch.setattr(sys.implementation, "name", "cpython")
    monkeypatch.setattr(sysconfig, "get_config_var", lambda _name: 0)
    (extension,) = extensions(checkout, monkeypatch)
    assert ("aiometrics.recorder._core", ["aiometrics/recorder/csrc/core.c"], True) == (
        extension.name,
        extension.sources,
        extension.optional,
    )


@pytest.mark.parametrize("value", ["", "0", "false", "No", "off"])
def test_setup_builds_the_extension_if_the_variable_is_off(
    checkout: Path, monkeypatch: pytest.MonkeyPatch, value: str
) -> None:
    """``AIOMETRICS_NO_EXTENSIONS=0`` is the same as unset."""
    monkeypatch.setenv("AIOMETRICS_NO_EXTENSIONS", value)
    monkeypatch.setattr(sys.implementation, "name", "cpython")
    monkeypatch.setattr(sysconfig, "get_config_var", lambda _name: 0)
    assert len(extensions(checkout, monkeypatch)) == 1


@pytest.mark.parametrize("value", ["1", "true"])
def test_setup_leaves_out_the_extension_on_request(
    checkout: Path, monkeypatch: pytest.MonkeyPatch, value: str
) -> None:
    """``AIOMETRICS_NO_EXTENSIONS`` works at build time too."""
    monkeypatch.setenv("AIOMETRICS_NO_EXTENSIONS", value)
    assert extensions(checkout, monkeypatch) == []


def test_setup_leaves_out_the_extension_without_a_gil(
    checkout: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A free-threaded Python gets the Python recorder."""
    monkeypatch.setattr(sysconfig, "get_config_var", {"Py_GIL_DISABLED": 1}.get)
    assert extensions(checkout, monkeypatch) == []


def test_setup_leaves_out_the_extension_on_other_interpreters(
    checkout: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """PyPy gets the Python recorder."""
    monkeypatch.setattr(sys.implementation, "name", "pypy")
    assert extensions(checkout, monkeypatch) == []


def test_setup_leaves_out_the_extension_without_sources(
    checkout: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A tree without C sources can still be installed."""
    (checkout / "aiometrics/recorder/csrc/core.c").unlink()
    assert extensions(checkout, monkeypatch) == []


def test_an_extension_that_does_not_compile_does_not_fail_the_build(checkout: Path) -> None:
    """With broken C or no compiler, the build succeeds and has no extension."""
    done = subprocess.run(
        [sys.executable, "setup.py", "build_ext", "--build-lib", "out"],
        check=False,
        capture_output=True,
        text=True,
    )
    assert (0, []) == (done.returncode, list(checkout.rglob("_core*.so")))
    assert 'building extension "aiometrics.recorder._core" failed' in done.stdout + done.stderr
