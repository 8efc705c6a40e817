"""A page in a file of a shared directory: locked and mapped by the process that writes it, read without trust by the others."""

from __future__ import annotations

import os
import stat
import struct
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from mmap import mmap
from typing import Any, Literal, NamedTuple

from aiometrics.layout import HEADER, LOOP, WORD, Layout
from aiometrics.terms import HEAD_BYTES, Buffer, PageError, terms_of

fcntl: Any
try:
    import fcntl
except ModuleNotFoundError:
    fcntl = None

#: Whether this system has what it takes; Windows has not.
SUPPORTED = fcntl is not None

Reason = Literal["damaged", "foreign", "options", "unreadable", "version"]
#: Why a file is left out.
REASONS: tuple[Reason, ...] = ("damaged", "foreign", "options", "unreadable", "version")
#: More than the largest page that options allow.
MAX_BYTES = 1 << 29
#: How often a copy is taken while the writer is in the middle of an update, and how far apart: it may wait for a CPU, or be throttled.
_COPIES, _COPY_PAUSE_SECONDS = 100, 2e-3
_FLAGS = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOCTTY", 0) | getattr(os, "O_CLOEXEC", 0)


class Unusable(Exception):  # noqa: N818 - a finding about a file, told to who may skip it
    """A file that is no page that can be read or continued; ``reason`` is the kind, the message says what is wrong."""

    def __init__(self, reason: Reason, message: str) -> None:
        super().__init__(message)
        self.reason: Reason = reason


class Copy(NamedTuple):
    """The bytes of a page, and whether a process holds it."""

    data: bytearray
    alive: bool


#: Of the files that this process has locked.
_descriptors: set[int] = set()


class Locked:
    """A file that is locked for this process, once :meth:`attempt` said so, until :meth:`release` or its end."""

    def __init__(self, directory: int, name: str, descriptor: int) -> None:
        self._directory = directory
        self._name = name
        self._descriptor = descriptor
        _descriptors.add(descriptor)

    def attempt(self) -> bool:
        """Whether the lock could be had, of the file that has the name still."""
        return _try_lock(self._descriptor, exclusive=True) and _is_still(self._directory, self._name, self._descriptor)

    def content(self) -> bytes:
        """All bytes; none of a file that is too large."""
        size = os.fstat(self._descriptor).st_size
        return os.pread(self._descriptor, size, 0) if size <= MAX_BYTES else b""

    def clear(self, size: int) -> None:
        """Make it ``size`` bytes of zeros that have their room: a mapped hole kills its writer when the file system is full."""
        os.ftruncate(self._descriptor, 0)
        zeros, written = bytes(min(size, 1 << 20)), 0
        while written < size:
            written += os.pwrite(self._descriptor, zeros[: size - written], written)

    def memory(self, size: int) -> mmap:
        """The file, mapped.

        By a description of its own: a forked child inherits the mapping, and with it the description, which must not keep the lock.
        """
        mapped = _open(self._directory, self._name, os.O_RDWR)
        try:
            if not os.path.samestat(os.fstat(mapped), os.fstat(self._descriptor)):
                raise Unusable("unreadable", "it was replaced while it was opened")
            return mmap(mapped, size)
        finally:
            os.close(mapped)

    def remove(self) -> None:
        """Delete the file."""
        os.unlink(self._name, dir_fd=self._directory)

    @property
    def deleted(self) -> bool:
        """Whether nobody can find the file any more."""
        return os.fstat(self._descriptor).st_nlink == 0

    def release(self) -> None:
        """Let go of it."""
        _descriptors.discard(self._descriptor)
        os.close(self._descriptor)


def lock(directory: int, name: str) -> Locked | None:
    """The file, made if need be; ``None`` if another process has it. Raises :class:`Unusable` if it is no file of ours."""
    locked = Locked(directory, name, _open(directory, name, os.O_RDWR | os.O_CREAT))
    if locked.attempt():
        return locked
    locked.release()
    return None


def let_go() -> None:
    """In a forked child: the locks are the parent's, and end with it, unless the child has their descriptors too."""
    while _descriptors:
        with suppress(OSError):  # closed by another thread of the parent, just before the fork
            os.close(_descriptors.pop())


def head(directory: int, name: str) -> tuple[bytes, int]:
    """The first bytes, enough for :func:`~aiometrics.terms.terms_of`, and the size. Raises :class:`Unusable`."""
    descriptor = _open(directory, name, os.O_RDONLY)
    try:
        return os.pread(descriptor, HEAD_BYTES, 0), os.fstat(descriptor).st_size
    finally:
        os.close(descriptor)


def copy(directory: int, name: str, now_ns: int) -> Copy | None:
    """The page as it is now, after a look at ``now_ns``; ``None`` while a process is making it.

    A look is left only where this process may write. Raises :class:`Unusable`, or :class:`~aiometrics.terms.PageError`.
    """
    try:
        descriptor, writable = _open(directory, name, os.O_RDWR), True
    except PermissionError:
        descriptor, writable = _open(directory, name, os.O_RDONLY), False
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
        if self._alive and writable:
            self._look(layout, threshold_ns, now_ns)
        return Copy(self._settled(layout), self._alive)

    def _free(self) -> bool:
        """Whether nobody holds it. A process that would claim it at this very moment takes another, so the moment is short."""
        free = _try_lock(self._descriptor, exclusive=False)
        if free:
            fcntl.flock(self._descriptor, fcntl.LOCK_UN)
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


def _try_lock(descriptor: int, *, exclusive: bool) -> bool:
    """Take the lock if nobody has it."""
    try:
        fcntl.flock(descriptor, (fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH) | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _words(data: Buffer, count: int) -> tuple[int, ...]:
    if len(data) < count * WORD:
        raise PageError("it was cut off while it was read")
    return struct.unpack_from(f"{count}q", data)


def _open(directory: int, name: str, flags: int) -> int:
    """The descriptor of a regular file that belongs to us and that nobody else may write.

    Raises :class:`Unusable`, or ``PermissionError`` if it is ours and yet cannot be opened like that.
    """
    try:
        found = os.stat(name, dir_fd=directory, follow_symlinks=False)
        _check(found)
    except FileNotFoundError:
        if not flags & os.O_CREAT:
            raise Unusable("unreadable", "it is gone") from None
    try:
        descriptor = os.open(name, flags | _FLAGS, 0o600, dir_fd=directory)
    except PermissionError:
        raise
    except OSError as error:
        raise Unusable("unreadable", error.strerror or str(error)) from None
    with _closed_on_error(descriptor):
        _check(os.fstat(descriptor))
    return descriptor


def _check(found: os.stat_result) -> None:
    if not stat.S_ISREG(found.st_mode):
        raise Unusable("foreign", f"it is no regular file but {stat.filemode(found.st_mode)}")
    if found.st_uid != os.geteuid():
        raise Unusable("foreign", f"it belongs to user {found.st_uid}, and this process to user {os.geteuid()}")
    if found.st_mode & 0o022:
        raise Unusable("foreign", f"others can write it: its mode is {stat.filemode(found.st_mode)}, not -rw-------")


def _is_still(directory: int, name: str, descriptor: int) -> bool:
    with suppress(FileNotFoundError):
        return os.path.samestat(os.stat(name, dir_fd=directory, follow_symlinks=False), os.fstat(descriptor))
    return False


@contextmanager
def _closed_on_error(descriptor: int) -> Iterator[int]:
    try:
        yield descriptor
    except BaseException:
        os.close(descriptor)
        raise
