"""Whose file code is from is asked while the application runs, whatever that has replaced."""

from __future__ import annotations

import builtins
import io
import os
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from aiometrics.recorder import files

RECORD = {
    "driver-1.0.dist-info/METADATA": "",
    "driver-1.0.dist-info/RECORD": "driver.py,,\nkit/__init__.py,,\n",
    "debian-1.0.dist-info/METADATA": "",
}


@pytest.fixture(autouse=True)
def nothing_remembered() -> Iterator[None]:
    """What was found in a folder is remembered."""
    files._installed_in.cache_clear()
    yield
    files._installed_in.cache_clear()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder into which distributions were installed."""
    for name, text in RECORD.items():
        path = tmp_path / "target" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return tmp_path / "target"


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    """An archive with distributions in it."""
    path = tmp_path / "target.zip"
    with zipfile.ZipFile(path, "w") as made:
        for name, text in RECORD.items():
            made.writestr(name, text)
    return path


def refuse(*_: object, **__: object) -> Any:
    """Refuse, as a tool does that forbids blocking calls in a loop."""
    raise RuntimeError("not in this thread")


@pytest.mark.parametrize("kind", ["folder", "archive"])
def test_what_is_beside_its_metadata_is_installed(
    kind: str, request: pytest.FixtureRequest
) -> None:
    """In a folder or an archive; what no distribution lists is the application's."""
    root = request.getfixturevalue(kind)
    assert files.is_installed(f"{root}/driver.py", "driver")
    assert files.is_installed(f"{root}/kit/parts/nut.py", "kit.parts.nut")
    assert files.is_installed(f"{root}/kit/__init__.py", "kit")
    assert not files.is_installed(f"{root}/shop.py", "shop")


def test_what_cannot_be_read_is_not_installed(tmp_path: Path) -> None:
    """A folder that is gone, a file that is no archive, a metadata file that is a folder."""
    assert not files.is_installed(f"{tmp_path}/gone/driver.py", "driver")
    (tmp_path / "file").write_bytes(b"no archive")
    assert not files.is_installed(f"{tmp_path}/file/driver.py", "driver")
    (tmp_path / "driver-1.0.dist-info" / "RECORD").mkdir(parents=True)
    assert not files.is_installed(f"{tmp_path}/driver.py", "driver")


def test_calls_that_the_application_has_replaced_are_not_used(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its tests mock them, and some tools forbid them where a loop runs."""
    with monkeypatch.context() as patched:
        for owner, name in (
            (os, "stat"),
            (os, "scandir"),
            (os, "listdir"),
            (os, "open"),
            (os, "read"),
            (os.path, "isdir"),
            (io, "open"),
            (builtins, "open"),
            (Path, "iterdir"),
            (Path, "is_file"),
            (Path, "read_text"),
        ):
            patched.setattr(owner, name, refuse)
        found = files.is_installed(f"{folder}/driver.py", "driver")
    assert found
