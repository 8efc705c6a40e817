"""``export-assets``: users who only have the package get the files of the checkout."""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipapp
from collections.abc import Callable
from pathlib import Path

import pytest

from aiometrics.__main__ import main
from aiometrics.exporter import assets


def maintained(root: Path) -> dict[str, bytes]:
    """Return the files to be exported, as the checkout has them."""
    folders = {
        "": "prometheus.yml",
        "rules": "*.yml",
        "grafana": "kustomization.yaml",
        "grafana/dashboards": "*.json",
        "grafana/dashboards-v2": "*.json",
        "deploy/kubernetes": "*.yaml",
    }
    paths = [path for folder, pattern in folders.items() for path in (root / folder).glob(pattern)]
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in paths}


def exported(directory: Path) -> dict[str, bytes]:
    """Return every file below ``directory``."""
    return {
        path.relative_to(directory).as_posix(): path.read_bytes()
        for path in directory.rglob("*")
        if path.is_file()
    }


def test_every_asset_is_written_as_the_checkout_has_it(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The command writes every file, byte for byte, and prints its path."""
    directory = tmp_path / "new" / "directory"
    assert 0 == main(["export-assets", str(directory)])
    assert maintained(root) == exported(directory)
    assert sorted(str(directory / name) for name in maintained(root)) == sorted(
        capsys.readouterr().out.splitlines()
    )


def test_prometheus_accepts_what_was_exported(tmp_path: Path, binary: Callable[[str], str]) -> None:
    """The configuration finds the rules beside it."""
    assets.export(tmp_path)
    done = subprocess.run(
        [binary("promtool"), "check", "config", tmp_path / "prometheus.yml"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (0, True) == (done.returncode, "2 rule files found" in done.stdout), done.stderr


def test_a_changed_file_is_kept(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Nothing is written if a file would be lost; one line says which one, and what to do."""
    mine = tmp_path / "rules" / "aiometrics.alerts.yml"
    mine.parent.mkdir()
    mine.write_bytes(b"groups: []\n")
    assert 1 == main(["export-assets", str(tmp_path)])
    assert (
        f"aiometrics: {mine} exists and differs: "
        "name another directory, or replace it with --force\n" == capsys.readouterr().err
    )
    assert {"rules/aiometrics.alerts.yml": b"groups: []\n"} == exported(tmp_path)


def test_force_replaces_changed_files(root: Path, tmp_path: Path) -> None:
    """``--force`` writes the files of this version; identical files are no obstacle."""
    (tmp_path / "prometheus.yml").write_bytes(b"global: {}\n")
    assert [0, 0] == [
        main(["export-assets", str(tmp_path), "--force"]),
        main(["export-assets", str(tmp_path)]),
    ]
    assert maintained(root) == exported(tmp_path)


def test_a_package_without_assets_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A package that was copied by hand has no assets: the error names what is missing."""
    monkeypatch.setattr(assets, "INSTALLED", tmp_path)
    with pytest.raises(
        FileNotFoundError, match=r"prometheus\.yml does not exist: reinstall aiometrics-exporter"
    ):
        assets.export(tmp_path / "out")


def test_a_frozen_program_is_not_told_to_reinstall(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was built without the assets, which no new installation changes."""
    monkeypatch.setattr(assets, "INSTALLED", tmp_path)
    monkeypatch.setattr(sys, "frozen", True, raising=False)
    with pytest.raises(FileNotFoundError, match="PyInstaller --collect-data aiometrics"):
        assets.export(tmp_path / "out")


def test_a_program_in_an_archive_is_not_told_to_reinstall(tmp_path: Path) -> None:
    """An archive that zipapp makes has the package, but not as files."""
    program = tmp_path / "program"
    shutil.copytree(
        assets.PACKAGE, program / "aiometrics", ignore=shutil.ignore_patterns("*.so", "__pycache__")
    )
    (program / "__main__.py").write_text(
        "from aiometrics.exporter.assets import export\nfrom pathlib import Path\n"
        "export(Path('out'))\n"
    )
    zipapp.create_archive(program, tmp_path / "program.pyz")
    told = subprocess.run(
        [sys.executable, "-I", tmp_path / "program.pyz"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert "export them where aiometrics-exporter is installed" in told.stderr
    assert "reinstall" not in told.stderr


def test_a_failure_to_create_the_directory_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """If the name is that of a file, an error message is printed, without a traceback."""
    (tmp_path / "file").touch()
    assert 1 == main(["export-assets", str(tmp_path / "file")])
    assert capsys.readouterr().err.startswith("aiometrics: ")
