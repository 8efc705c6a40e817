"""Puts broken pages into a shared directory: readers skip them, and a process still gets a slot."""

from __future__ import annotations

import logging
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from aiometrics.pages.header import PageFormat
from aiometrics.pages.multiprocess.directory import SharedDirectory
from aiometrics.pages.reader import read

_IN_MEMORY = "/dev/shm"  # noqa: S108 - a new directory is created in there


@contextmanager
def directory() -> Iterator[Path]:
    """Create a temporary directory, in memory if possible; warnings are not logged meanwhile."""
    disabled = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with tempfile.TemporaryDirectory(
            dir=_IN_MEMORY if Path(_IN_MEMORY).is_dir() else None
        ) as path:
            yield Path(path)
    finally:
        logging.disable(disabled)


def check_in_directory(
    data: bytes, path: Path, page_format: PageFormat, now_ns: int, unix_ns: int
) -> None:
    """Put the page into the directory, read it, and claim the slot.

    It is read as a sidecar and as a process of the service do.
    """
    file = path / "0.page"
    file.write_bytes(data)
    file.chmod(0o600)
    shared = SharedDirectory(os.fspath(path))
    for expected_format in (None, page_format):
        view = shared.read((), expected_format, now_ns, unix_ns)
        if len(view.pages) + sum(view.skipped.values()) != 1:
            raise AssertionError(f"one page was neither read nor left out: {view}")
    slot = shared.claim(page_format)
    try:
        read(slot.page.copy(), now_ns, unix_ns)
    finally:
        slot.release()
        for remaining in path.iterdir():
            remaining.unlink()
