"""The file of a slot, locked and mapped by the process that writes its page."""

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

#: Keeps files alive until they are released, so that a forked child closes even those without
#: another reference.
_unreleased: set[SlotFile] = set()


class SlotFile:
    """A file that this process keeps locked from :meth:`attempt` to :meth:`release`."""

    def __init__(self, directory: int, name: str, descriptor: int) -> None:
        self._directory = directory
        self._name = name
        self._descriptor = descriptor
        _unreleased.add(self)
        fork.forget_in_child(self, fork.Stage.DESCRIPTORS, SlotFile._close_inherited)

    def attempt(self) -> bool:
        """Try to lock the file; return whether it is locked and still has its name.

        It is first locked as readers lock it, so that they do not mistake a page that is not in use
        yet for a live one.
        """
        if not try_lock(self._descriptor, exclusive=False):
            return False
        self._mark_not_live()
        return try_lock(self._descriptor, exclusive=True) and is_still(
            self._directory, self._name, self._descriptor
        )

    def _mark_not_live(self) -> None:
        """Mark the page as not live.

        Otherwise a reader that finds it locked would count the time since a loop last wrote it.
        """
        if version_of(self.head()[0]) == VERSION:
            os.pwrite(self._descriptor, bytes(WORD), HEADER["live"] * WORD)

    def head(self) -> tuple[bytes, int]:
        """Return the first bytes and the size, as the function :func:`head` does."""
        return _head(self._descriptor)

    def content(self, size: int) -> bytes:
        """Return the first ``size`` bytes."""
        return os.pread(self._descriptor, size, 0)

    def clear(self, size: int) -> None:
        """Write ``size`` zeros.

        A hole would kill a process that writes to its mapping when the file system is full; to cut
        the file off first would kill one that still reads a damaged page which it gave up.
        """
        zeros, written = bytes(min(size, 1 << 20)), 0
        while written < size:
            written += os.pwrite(self._descriptor, zeros[: size - written], written)
        os.ftruncate(self._descriptor, size)

    def memory(self, size: int) -> mmap:
        """Map the file.

        It is opened again for that: a forked child inherits the mapping, and with it the open file,
        which must not keep the lock.
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
        """Whether the file has been unlinked."""
        return os.fstat(self._descriptor).st_nlink == 0

    def release(self) -> None:
        """Unlock and close the file.

        Idempotent, because the number of the descriptor may soon be that of another file.
        """
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor < 0:
            return
        with suppress(OSError):  # a file system without locks
            # Closing would not be enough: a child that was just forked may have the descriptor.
            unlock(descriptor)
        _unreleased.discard(self)
        os.close(descriptor)

    def _close_inherited(self) -> None:
        """Close the descriptor in a forked child.

        The lock is the parent's, and would outlive it if the child kept the descriptor.
        """
        descriptor, self._descriptor = self._descriptor, -1
        _unreleased.discard(self)
        if descriptor >= 0:
            os.close(descriptor)

    @contextmanager
    def released_on_error(self) -> Iterator[None]:
        """Release the file if the block raises."""
        try:
            yield
        except BaseException:
            self.release()
            raise


def lock(directory: int, name: str) -> SlotFile | None:
    """Lock the file, creating it if necessary; return ``None`` if another process has it.

    Raises ``UnusableFileError`` if it is not a file of ours.
    """
    with fork.creation_lock:
        locked = SlotFile(directory, name, open_own(directory, name, os.O_RDWR | os.O_CREAT))
    with locked.released_on_error():
        if locked.attempt():
            return locked
    locked.release()
    return None


def head(directory: int, name: str) -> tuple[bytes, int]:
    """Return the first bytes, enough for ``parse_header``, and the size.

    Raises ``UnusableFileError``.
    """
    descriptor = open_own(directory, name, os.O_RDONLY)
    try:
        return _head(descriptor)
    finally:
        os.close(descriptor)


def _head(descriptor: int) -> tuple[bytes, int]:
    return os.pread(descriptor, HEAD_BYTES, 0), os.fstat(descriptor).st_size
