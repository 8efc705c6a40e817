"""Opens and locks files of our own, checking them, in a directory that others may change."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, Literal

fcntl: Any
try:
    import fcntl
except ModuleNotFoundError:
    fcntl = None

#: Whether this system supports locks on files; Windows does not.
SUPPORTED = fcntl is not None

Reason = Literal["damaged", "foreign", "options", "unreadable", "version"]
#: Reasons for leaving out a file.
REASONS: tuple[Reason, ...] = ("damaged", "foreign", "options", "unreadable", "version")
#: More than the largest page that options allow.
MAX_BYTES = 1 << 30
_FLAGS = (
    getattr(os, "O_NOFOLLOW", 0)
    | getattr(os, "O_NONBLOCK", 0)
    | getattr(os, "O_NOCTTY", 0)
    | getattr(os, "O_CLOEXEC", 0)
)


class UnusableFileError(Exception):
    """A file has no page that can be read or continued.

    The message says what is wrong; ``reason`` is the label value for it.
    """

    def __init__(self, reason: Reason, message: str) -> None:
        super().__init__(message)
        self.reason: Reason = reason


def open_own(directory: int, name: str, flags: int) -> int:
    """Open a regular file that belongs to this user and to which nobody else may write.

    Returns its descriptor.

    Raises :class:`UnusableFileError`, or ``PermissionError`` if it is ours but cannot be opened
    with these flags.
    """
    try:
        found = os.stat(name, dir_fd=directory, follow_symlinks=False)
        _check(found)
    except FileNotFoundError:
        if not flags & os.O_CREAT:
            raise UnusableFileError("unreadable", "it is gone") from None
    try:
        descriptor = os.open(name, flags | _FLAGS, 0o600, dir_fd=directory)
    except PermissionError:
        raise
    except OSError as error:
        raise UnusableFileError("unreadable", error.strerror or str(error)) from None
    with _closed_on_error(descriptor):
        _check(os.fstat(descriptor))
    return descriptor


def _check(found: os.stat_result) -> None:
    if not stat.S_ISREG(found.st_mode):
        raise UnusableFileError(
            "foreign", f"it is not a regular file but {stat.filemode(found.st_mode)}"
        )
    if found.st_uid != os.geteuid():
        raise UnusableFileError(
            "foreign", f"it belongs to user {found.st_uid}, and this process to user {os.geteuid()}"
        )
    if found.st_mode & 0o022:
        raise UnusableFileError(
            "foreign",
            f"others can write to it: its mode is {stat.filemode(found.st_mode)}, not -rw-------",
        )


def is_still(directory: int, name: str, descriptor: int) -> bool:
    """Whether the name still refers to the open file."""
    with suppress(FileNotFoundError):
        return os.path.samestat(
            os.stat(name, dir_fd=directory, follow_symlinks=False), os.fstat(descriptor)
        )
    return False


@contextmanager
def _closed_on_error(descriptor: int) -> Iterator[int]:
    try:
        yield descriptor
    except BaseException:
        os.close(descriptor)
        raise


def try_lock(descriptor: int, *, exclusive: bool) -> bool:
    """Take the lock unless another process has it; return whether it was taken."""
    try:
        fcntl.flock(descriptor, (fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH) | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def unlock(descriptor: int) -> None:
    """Release the lock."""
    fcntl.flock(descriptor, fcntl.LOCK_UN)
