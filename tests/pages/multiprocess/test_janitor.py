"""The removal of directories that services left behind, as a starting service does it."""

from __future__ import annotations

import fcntl
import gc
import os
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest

from aiometrics.base.processes import Process
from aiometrics.pages.multiprocess import janitor
from aiometrics.pages.multiprocess.service_directory import ServiceDirectory

#: No process has ended with this identifier and start: there is none with it.
GONE = (1 << 30, 1)


@pytest.fixture
def left(tmp_path: Path) -> Path:
    """Return a directory with ten pages, which is removed at the end."""
    path = tmp_path / "left"
    path.mkdir()
    for number in range(10):
        (path / f"{number}.page").touch()
    return path


def test_pages_without_writers_are_removed(left: Path) -> None:
    """The directory goes with them."""
    assert janitor.remove_if_abandoned(str(left), *GONE)
    assert not left.exists()


@pytest.mark.filterwarnings("error")
def test_a_look_at_pages_with_writers_leaves_nothing_open(left: Path) -> None:
    """The first locked page is enough to know, and Python would warn of what stays open."""
    with ExitStack() as stack:
        for path in left.iterdir():
            page = stack.enter_context(path.open("rb"))
            fcntl.flock(page, fcntl.LOCK_EX)
        assert not janitor.remove_if_abandoned(str(left), *GONE)
    gc.collect()
    assert 10 == len(list(left.iterdir()))


def test_a_frozen_program_is_not_started_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its interpreter is itself, whatever its name, and would not take the janitor's arguments."""
    started = []

    def spawn(path: str, *_: object, **__: object) -> int:
        started.append(path)
        return 0

    monkeypatch.setattr(os, "posix_spawn", spawn)
    monkeypatch.setattr(os, "waitpid", lambda *_: (0, 0))
    service = ServiceDirectory("aiometrics-test", "frozen", Process(*GONE))
    service._start_janitor()
    monkeypatch.setattr(sys, "executable", "/opt/shop/python-shop")
    monkeypatch.setattr(sys, "frozen", True, raising=False)
    service._start_janitor()
    monkeypatch.setattr(sys, "executable", "/opt/shop/shop")
    service._start_janitor()
    assert 1 == len(started)
