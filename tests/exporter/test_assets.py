"""``export-assets``: who only has the package gets the files of the checkout, and keeps what is theirs."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from aiometrics.__main__ import main
from aiometrics.exporter import assets


def maintained(root: Path) -> dict[str, bytes]:
    """The files that people are to get, as the checkout has them."""
    folders = {
        "": "prometheus.yml",
        "rules": "*.yml",
        "grafana": "kustomization.yaml",
        "grafana/dashboards": "*.json",
        "deploy/kubernetes": "*.yaml",
    }
    paths = [path for folder, pattern in folders.items() for path in (root / folder).glob(pattern)]
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in paths}


def exported(directory: Path) -> dict[str, bytes]:
    """Every file below ``directory``."""
    return {
        path.relative_to(directory).as_posix(): path.read_bytes()
        for path in directory.rglob("*")
        if path.is_file()
    }


def test_every_asset_is_written_as_the_checkout_has_it(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The command writes dashboards, rules, configuration and manifests, byte for byte, and prints where each is."""
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


def test_a_file_that_was_changed_is_kept(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nothing at all is written where a file would be lost, and one line says which one and what to do."""
    mine = tmp_path / "rules" / "aiometrics.alerts.yml"
    mine.parent.mkdir()
    mine.write_bytes(b"groups: []\n")
    assert 1 == main(["export-assets", str(tmp_path)])
    assert (
        f"aiometrics: {mine} is there and differs: name another directory, or replace it with --force\n"
        == capsys.readouterr().err
    )
    assert {"rules/aiometrics.alerts.yml": b"groups: []\n"} == exported(tmp_path)


def test_force_replaces_and_a_second_time_is_no_error(root: Path, tmp_path: Path) -> None:
    """``--force`` brings the files of this version; files that are the same already are in nobody's way."""
    (tmp_path / "prometheus.yml").write_bytes(b"global: {}\n")
    assert [0, 0] == [
        main(["export-assets", str(tmp_path), "--force"]),
        main(["export-assets", str(tmp_path)]),
    ]
    assert maintained(root) == exported(tmp_path)


def test_a_package_without_assets_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A package that was copied by hand has none: the error names what is missing."""
    monkeypatch.setattr(assets, "INSTALLED", tmp_path)
    with pytest.raises(
        FileNotFoundError, match=r"prometheus\.yml does not exist: install aiometrics-exporter anew"
    ):
        assets.export(tmp_path / "out")


def test_a_directory_that_cannot_be_made_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A name that is a file's ends in an error message, not in a traceback."""
    (tmp_path / "file").touch()
    assert 1 == main(["export-assets", str(tmp_path / "file")])
    assert capsys.readouterr().err.startswith("aiometrics: ")
