"""Copies of the page in a file that another process may be writing to.

Files are read, not mapped: access to a mapping kills this process if the file is truncated.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

from aiometrics.base.unpatched import sleep
from aiometrics.pages.header import HEAD_BYTES, Buffer, PageError, PageFormat, parse_header
from aiometrics.pages.layout import HEADER, LOOP, WORD, Layout
from aiometrics.pages.multiprocess.private_file import (
    MAX_BYTES,
    UnusableFileError,
    open_own,
    try_lock,
    unlock,
)
from aiometrics.pages.page import Memory, Parts, zeros

#: How often, and how far apart, a copy is attempted while the writer is in the middle of an update.
#: It may wait for a CPU, or be throttled.
_COPIES, _COPY_PAUSE_SECONDS = 100, 2e-3


class Copy(NamedTuple):
    """The bytes of a page, and whether a process holds it."""

    data: Memory
    alive: bool


class Head(NamedTuple):
    """The header of a page, and whether a process holds it."""

    alive: bool
    opened_unix_ns: int
    #: Whether a loop writes the page. A process that takes over a page holds it before that.
    live: bool
    page_format: PageFormat


def head(directory: int, name: str) -> Head | None:
    """Return the header of the page, or ``None`` while a process is creating it.

    Raises the same errors as :func:`copy`.
    """
    with _opened(directory, name, os.O_RDONLY) as file:
        return file.head()


def copy(directory: int, name: str, page_format: PageFormat | None, now_ns: int) -> Copy | None:
    """Copy the page, marked as observed at ``now_ns``.

    Returns ``None`` while a process is creating it, and without ``page_format``. The mark is
    written only if this process may write to the file.

    Raises ``PageError``, or ``UnusableFileError``, also if the page is of another format.
    """
    try:
        with _opened(directory, name, os.O_RDWR) as file:
            return file.copy(page_format, now_ns, writable=True)
    except PermissionError:
        with _opened(directory, name, os.O_RDONLY) as file:
            return file.copy(page_format, now_ns, writable=False)


@contextmanager
def _opened(directory: int, name: str, flags: int) -> Iterator[_File]:
    descriptor = open_own(directory, name, flags)
    try:
        yield _File(descriptor)
    finally:
        os.close(descriptor)


class _File:
    """A file that another process may be writing to."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._size = os.fstat(descriptor).st_size
        self._alive = not self._free()

    def head(self) -> Head | None:
        start = os.pread(self._descriptor, HEAD_BYTES, 0)
        if self._alive and not any(start[:WORD]):
            return None
        if self._size > MAX_BYTES:
            raise PageError(f"a page of {self._size} bytes; the largest has {MAX_BYTES}")
        page_format = parse_header(start, self._size)
        words = _words(start, len(HEADER))
        return Head(
            self._alive, words[HEADER["opened_unix_ns"]], bool(words[HEADER["live"]]), page_format
        )

    def copy(self, page_format: PageFormat | None, now_ns: int, *, writable: bool) -> Copy | None:
        head = self.head()
        if head is None or page_format is None:
            return None
        _check(head.page_format, page_format)
        if head.alive and head.live and writable:
            self._mark_observed(page_format.layout, page_format.blocking_threshold_ns, now_ns)
        data = self._settled(page_format.layout)
        # Another process may have begun a new page meanwhile.
        _check(parse_header(data, self._size), page_format)
        return Copy(data, self._alive)

    def _free(self) -> bool:
        """Whether no process holds the file.

        A process that tries to claim it meanwhile takes another slot, so the lock is held only
        briefly.
        """
        free = try_lock(self._descriptor, exclusive=False)
        if free:
            unlock(self._descriptor)
        return free

    def _mark_observed(self, layout: Layout, threshold_ns: int, now_ns: int) -> None:
        """Mark the page as :meth:`Page.mark_observed` does, but from another process."""
        loop = self._loop(layout)
        since_ns = loop[LOOP["segment_since_ns"]]
        blocks = since_ns and now_ns - since_ns >= threshold_ns
        for field in ("looked_ns", "seen_ns") if blocks else ("seen_ns",):
            if now_ns > loop[LOOP[field]]:
                self._write(layout.loop + LOOP[field], now_ns)

    def _settled(self, layout: Layout) -> Memory:
        """Return a consistent copy.

        If the writer never pauses, it is at least one in which no time is counted twice or left
        out.
        """
        data: Memory = zeros(WORD)
        for _ in range(_COPIES):
            data, complete = self._read_used(layout)
            loop, later = _words(data[layout.loop * WORD :], len(LOOP)), self._loop(layout)
            at_rest = loop[LOOP["started"]] == loop[LOOP["finished"]]
            # A writer that died in the middle of an update never finishes it.
            if complete and loop == later and (at_rest or not self._alive):
                return data
            # Time in progress is made final only when a block ends: then the records may have been
            # read before or after that.
            if complete and at_rest and loop[LOOP["blocking_ns"]] == later[LOOP["blocking_ns"]]:
                return data
            if not at_rest:
                sleep(_COPY_PAUSE_SECONDS)
        return data

    def _read_used(self, layout: Layout) -> tuple[Memory, bool]:
        """Read the records in use.

        Also return whether no more records came into use meanwhile.
        """
        parts = self._in_use(layout)
        data = zeros(layout.size)
        view = memoryview(data)
        for first, last in parts:
            start, end = first * WORD, last * WORD
            if os.preadv(self._descriptor, [view[start:end]], start) != end - start:
                raise PageError("it was cut off while it was read")
        return data, parts == self._in_use(layout)

    def _in_use(self, layout: Layout) -> Parts:
        return layout.in_use(_words(self._read(len(HEADER) * WORD, 0), len(HEADER)))

    def _loop(self, layout: Layout) -> tuple[int, ...]:
        return _words(self._read(len(LOOP) * WORD, layout.loop * WORD), len(LOOP))

    def _read(self, size: int, start: int) -> bytes:
        return os.pread(self._descriptor, size, start)

    def _write(self, word: int, value: int) -> None:
        os.pwrite(self._descriptor, struct.pack("q", value), word * WORD)


def _words(data: Buffer, count: int) -> tuple[int, ...]:
    if len(data) < count * WORD:
        raise PageError("it was cut off while it was read")
    return struct.unpack_from(f"{count}q", data)


def _check(found: PageFormat, page_format: PageFormat) -> None:
    if found != page_format:
        raise UnusableFileError(
            "options", "it was written with other buckets, capacities, sample or blocking threshold"
        )
