"""A shared directory with a broken page in it: readers leave it out, and a process that needs a slot gets one."""

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

_IN_MEMORY = "/dev/shm"  # noqa: S108 - a directory of its own is made in there


@contextmanager
def directory() -> Iterator[Path]:
    """A directory of our own, in memory if possible. What a shelf has to complain about is not logged meanwhile."""
    disabled = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with tempfile.TemporaryDirectory(
            dir=_IN_MEMORY if Path(_IN_MEMORY).is_dir() else None
        ) as path:
            yield Path(path)
    finally:
        logging.disable(disabled)


def shelve(data: bytes, path: Path, page_format: PageFormat, now_ns: int, unix_ns: int) -> None:
    """Put the page into the directory, read that as a sidecar and as a process of the service do, and take the slot."""
    file = path / "0.page"
    file.write_bytes(data)
    file.chmod(0o600)
    shelf = SharedDirectory(os.fspath(path))
    for of in (None, page_format):
        shelved = shelf.read((), of, now_ns, unix_ns)
        if len(shelved.pages) + sum(shelved.skipped.values()) != 1:
            raise AssertionError(f"one page was neither read nor left out: {shelved}")
    held = shelf.claim(page_format)
    try:
        read(held.page.copy(), now_ns, unix_ns)
    finally:
        held.release()
        for left in path.iterdir():
            left.unlink()
