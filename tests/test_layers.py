"""The import contracts: an import that breaks the architecture is found.

Runs with ``make lint``, whose tools include import-linter.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.once
pytest.importorskip("importlinter")


@pytest.fixture
def tree(root: Path, tmp_path: Path) -> Path:
    """A copy of the package and its contracts."""
    shutil.copytree(root / "aiometrics", tmp_path / "aiometrics")
    shutil.copy(root / "pyproject.toml", tmp_path)
    return tmp_path


def lint(tree: Path) -> subprocess.CompletedProcess[str]:
    """Check the contracts of a tree."""
    program = "from importlinter.cli import lint_imports_command; lint_imports_command()"
    return subprocess.run(
        [sys.executable, "-c", program, "--no-cache"],
        cwd=tree,
        env={**os.environ, "PYTHONPATH": str(tree)},
        capture_output=True,
        text=True,
        check=False,
    )


def test_contracts_are_kept(tree: Path) -> None:
    """The package as it is breaks none of them."""
    linted = lint(tree)
    assert (0, True) == (linted.returncode, " 0 broken" in linted.stdout), linted.stdout


@pytest.mark.parametrize(
    ("importer", "imported"),
    [
        ("base.http.tls", "instrumentation.instrumentation"),
        ("base.http.messages", "base.http.server"),
        ("requests.request", "base.http.messages"),
        ("pages.layout", "instrumentation.instrumentation"),
        ("base.clock", "ecs"),
        ("base.version", "pages.layout"),
        ("recorder.places", "exposition.families"),
        ("exposition.families", "recorder.places"),
        ("testing", "exporter.session"),
        ("base.options", "pages.layout"),
        ("base.options", "base.http.listener"),
        ("exporter.session", "demo.faults"),
    ],
)
def test_a_forbidden_import_is_found(tree: Path, importer: str, imported: str) -> None:
    """The report names the two modules."""
    path = tree / "aiometrics" / f"{importer.replace('.', '/')}.py"
    with path.open("a", encoding="utf-8") as module:
        module.write(f"\nimport aiometrics.{imported}\n")
    linted = lint(tree)
    assert 1 == linted.returncode, linted.stdout
    assert f"aiometrics.{importer} -> aiometrics.{imported}" in linted.stdout


def test_prometheus_client_is_kept_out_of_the_recorder(tree: Path) -> None:
    """Only the edges may import it."""
    with (tree / "aiometrics/recorder/places.py").open("a", encoding="utf-8") as module:
        module.write("\nimport prometheus_client\n")
    linted = lint(tree)
    assert 1 == linted.returncode, linted.stdout
    assert "aiometrics.recorder.places -> prometheus_client" in linted.stdout
