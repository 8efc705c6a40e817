"""The file of a slot, as the process that writes its page has it: locked and mapped."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from mmap import mmap

from aiometrics.base import fork
from aiometrics.pages.header import HEAD_BYTES, version_of
from aiometrics.pages.layout import HEADER, VERSION, WORD
from aiometrics.pages.multiprocess.private_file import (
    UnusableFileError,
    is_still,
    open_own,
    try_lock,
    unlock,
)

#: Files that this process has open: they live until they are released, so that a child closes even those that nobody refers to.
_unreleased: set[SlotFile] = set()


class SlotFile:
    """A file that is locked for this process, once :meth:`attempt` said so, until :meth:`release` or its end."""

    def __init__(self, directory: int, name: str, descriptor: int) -> None:
        self._directory = directory
        self._name = name
        self._descriptor = descriptor
        _unreleased.add(self)
        fork.forget_in_child(self, fork.Stage.DESCRIPTORS, SlotFile._close_inherited)

    def attempt(self) -> bool:
        """Whether the lock could be had, of the file that has the name still.

        At first as readers have it, who thus do not take for alive what is not in use yet.
        """
        if not try_lock(self._descriptor, exclusive=False):
            return False
        self._quieten()
        return try_lock(self._descriptor, exclusive=True) and is_still(
            self._directory, self._name, self._descriptor
        )

    def _quieten(self) -> None:
        """Note in the page that no loop writes it: who finds it locked would count the time since somebody did."""
        if version_of(self.head()[0]) == VERSION:
            os.pwrite(self._descriptor, bytes(WORD), HEADER["live"] * WORD)

    def head(self) -> tuple[bytes, int]:
        """As the function :func:`head`."""
        return _head(self._descriptor)

    def content(self, size: int) -> bytes:
        """That many bytes of it."""
        return os.pread(self._descriptor, size, 0)

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
        mapped = open_own(self._directory, self._name, os.O_RDWR)
        try:
            if not os.path.samestat(os.fstat(mapped), os.fstat(self._descriptor)):
                raise UnusableFileError("unreadable", "it was replaced while it was opened")
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
        """Let go of it. Idempotent: the number of the descriptor may soon be another file's."""
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor < 0:
            return
        with suppress(OSError):  # a file system without locks
            unlock(
                descriptor
            )  # closing alone would not do: a child that is forked just now may have the descriptor too
        _unreleased.discard(self)
        os.close(descriptor)

    def _close_inherited(self) -> None:
        """In a forked child: the lock is the parent's, and would outlive it if the child kept the descriptor."""
        descriptor, self._descriptor = self._descriptor, -1
        _unreleased.discard(self)
        if descriptor >= 0:
            os.close(descriptor)

    @contextmanager
    def released_on_error(self) -> Iterator[None]:
        """Let go of it if the block raises."""
        try:
            yield
        except BaseException:
            self.release()
            raise


def lock(directory: int, name: str) -> SlotFile | None:
    """The file, made if need be; ``None`` if another process has it.

    Raises ``UnusableFileError`` if it is no file of ours.
    """
    with fork.creation_lock:
        locked = SlotFile(directory, name, open_own(directory, name, os.O_RDWR | os.O_CREAT))
    with locked.released_on_error():
        if locked.attempt():
            return locked
    locked.release()
    return None


def head(directory: int, name: str) -> tuple[bytes, int]:
    """The first bytes, enough for ``parse_header``, and the size. Raises ``UnusableFileError``."""
    descriptor = open_own(directory, name, os.O_RDONLY)
    try:
        return _head(descriptor)
    finally:
        os.close(descriptor)


def _head(descriptor: int) -> tuple[bytes, int]:
    return os.pread(descriptor, HEAD_BYTES, 0), os.fstat(descriptor).st_size
