"""Copies of the page in a file that another process may be writing to: taken without a mapping, which would kill us if it were cut off."""

from __future__ import annotations

import os
import struct
import time
from typing import NamedTuple

from aiometrics.layout import HEADER, LOOP, WORD, Layout
from aiometrics.ownfile import MAX_BYTES, open_own, try_lock, unlock
from aiometrics.terms import HEAD_BYTES, Buffer, PageError, terms_of

#: How often a copy is taken while the writer is in the middle of an update, and how far apart: it may wait for a CPU, or be throttled.
_COPIES, _COPY_PAUSE_SECONDS = 100, 2e-3


class Copy(NamedTuple):
    """The bytes of a page, and whether a process holds it."""

    data: bytearray
    alive: bool


def copy(directory: int, name: str, now_ns: int) -> Copy | None:
    """The page as it is now, after a look at ``now_ns``; ``None`` while a process is making it.

    A look is left only where this process may write. Raises :class:`~aiometrics.ownfile.Unusable`, or :class:`~aiometrics.terms.PageError`.
    """
    try:
        descriptor, writable = open_own(directory, name, os.O_RDWR), True
    except PermissionError:
        descriptor, writable = open_own(directory, name, os.O_RDONLY), False
    try:
        return _File(descriptor).copy(now_ns, writable=writable)
    finally:
        os.close(descriptor)


class _File:
    """A file that another process may be writing to."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._size = os.fstat(descriptor).st_size
        self._alive = not self._free()

    def copy(self, now_ns: int, *, writable: bool) -> Copy | None:
        start = os.pread(self._descriptor, HEAD_BYTES, 0)
        if self._alive and not any(start[:WORD]):
            return None
        if self._size > MAX_BYTES:
            raise PageError(f"a page of {self._size} bytes; the largest has {MAX_BYTES}")
        layout, threshold_ns, _ = terms_of(start, self._size)
        # Who takes the page over holds it for a while before its loop does.
        if self._alive and writable and _words(start, len(HEADER))[HEADER["live"]]:
            self._look(layout, threshold_ns, now_ns)
        return Copy(self._settled(layout), self._alive)

    def _free(self) -> bool:
        """Whether nobody holds it. A process that would claim it at this very moment takes another, so the moment is short."""
        free = try_lock(self._descriptor, exclusive=False)
        if free:
            unlock(self._descriptor)
        return free

    def _look(self, layout: Layout, threshold_ns: int, now_ns: int) -> None:
        """What :meth:`Page.look` does, from outside."""
        loop = self._loop(layout)
        since_ns = loop[LOOP["segment_since_ns"]]
        if since_ns and now_ns - since_ns >= threshold_ns:
            self._write(layout.loop + LOOP["looked_ns"], now_ns)
        if now_ns > loop[LOOP["seen_ns"]]:
            self._write(layout.loop + LOOP["seen_ns"], now_ns)

    def _settled(self, layout: Layout) -> bytearray:
        """A copy that adds up, or if the writer never rests, one in which no time is counted twice or not at all."""
        data = bytearray()
        for _ in range(_COPIES):
            data, complete = self._taken(layout)
            loop, later = _words(data[layout.loop * WORD :], len(LOOP)), self._loop(layout)
            at_rest = loop[LOOP["started"]] == loop[LOOP["finished"]]
            # A writer that died in the middle of an update will never be at rest.
            if complete and loop == later and (at_rest or not self._alive):
                return data
            # Time in progress is made final only when a block ends: then the records that were read may be of before or after.
            if complete and at_rest and loop[LOOP["blocking_ns"]] == later[LOOP["blocking_ns"]]:
                return data
            if not at_rest:
                time.sleep(_COPY_PAUSE_SECONDS)
        return data

    def _taken(self, layout: Layout) -> tuple[bytearray, bool]:
        """The records in use, the long ones in one system call; and whether no more came into use meanwhile."""
        points, used = self._used(self._read(len(HEADER) * WORD, 0), layout)
        data = bytearray(layout.size)
        view = memoryview(data)
        parts = (0, layout.yield_point(points)), (layout.scope_errors, layout.strings + used // WORD + 1)
        for first, last in parts:
            start, end = first * WORD, min(last * WORD, layout.size)
            if os.preadv(self._descriptor, [view[start:end]], start) != end - start:
                raise PageError("it was cut off while it was read")
        return data, (points, used) == self._used(data, layout)

    @staticmethod
    def _used(header: Buffer, layout: Layout) -> tuple[int, int]:
        """How many yield points, and bytes of strings; never more than there is room for."""
        words = _words(header, len(HEADER))
        points, used = words[HEADER["yield_points"]], words[HEADER["strings_used"]]
        return min(max(points, 1), layout.max_yield_points + 1), min(max(used, 0), layout.string_bytes)

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
