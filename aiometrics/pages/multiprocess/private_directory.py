"""A directory that belongs to this user alone, in memory if possible."""

from __future__ import annotations

import logging
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from aiometrics.pages.multiprocess.private_file import SUPPORTED

logger = logging.getLogger("aiometrics")

#: File systems that never write to a disk. On others the kernel stalls a process that writes to a
#: mapped page while the page is written back.
_IN_MEMORY = frozenset({"tmpfs", "ramfs", "devtmpfs"})
_MOUNTS = Path("/proc/self/mountinfo")


class DirectoryError(OSError):
    """The directory cannot be used; the message says why, and what to do."""


class PrivateDirectory:
    """The directory at ``path``.

    Raises :class:`DirectoryError` if this system cannot share directories.
    """

    def __init__(self, path: str) -> None:
        if not SUPPORTED:
            raise DirectoryError(
                f"the directory {path!r} cannot be shared: this system has no flock(). "
                "Leave the directory out"
            )
        self.path = path
        self._warned = False

    def prepare(self) -> bool:
        """Create the directory if necessary, and warn once if it is not in memory.

        Returns whether this call created it. Raises :class:`DirectoryError` if it cannot be
        created, and as :meth:`opened` does.
        """
        made = self._make()
        with self.opened():
            pass
        if not self._warned:
            self._warn_if_on_disk()
        return made

    def _warn_if_on_disk(self) -> None:
        filesystem = filesystem_of(self.path)
        if filesystem is None or in_memory(filesystem):
            return
        self._warned = True
        logger.warning(
            "aiometrics: the directory %r is on %s: a loop may stall while its page is written "
            "to the disk. Use one in memory, such as /run/aiometrics or /dev/shm/aiometrics",
            self.path,
            filesystem,
        )

    @contextmanager
    def opened(self) -> Iterator[int]:
        """Open the directory and yield its descriptor.

        Raises :class:`DirectoryError` if it does not exist (``errno`` is ``ENOENT``), belongs to
        another user, or others can write to it.
        """
        try:
            directory = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            raise DirectoryError(
                error.errno, f"cannot open the directory {self.path!r}: {error.strerror}"
            ) from None
        try:
            self._check(os.fstat(directory))
            yield directory
        finally:
            os.close(directory)

    def _make(self) -> bool:
        try:
            Path(self.path).mkdir(mode=0o700)
        except FileExistsError:
            return False
        except OSError as error:
            advice = f"Make it for user {os.geteuid()}, with mode 0700"
            raise DirectoryError(
                error.errno, f"cannot make the directory {self.path!r}: {error.strerror}. {advice}"
            ) from None
        return True

    def _check(self, found: os.stat_result) -> None:
        if found.st_uid != os.geteuid():
            raise DirectoryError(
                f"the directory {self.path!r} belongs to user {found.st_uid}, "
                f"and this process to user {os.geteuid()}: run all processes of the service "
                "as one user, and give them a directory of that user"
            )
        if found.st_mode & 0o022:
            raise DirectoryError(
                f"others can write to the directory {self.path!r}, "
                f"whose mode is {stat.filemode(found.st_mode)}: use one that belongs to "
                "the service alone, and chmod it to 0700"
            )


def filesystem_of(path: str, table: Path = _MOUNTS) -> str | None:
    """Return Linux's name for the type of the file system of ``path``; ``None`` if unknown."""
    try:
        device = Path(path).stat().st_dev
        lines = table.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return None
    wanted = f"{os.major(device)}:{os.minor(device)}"
    for line in lines:
        # 36 35 98:0 /root /mount/point options [optional fields] - type source options
        fields, _, kind = line.partition(" - ")
        if fields.split()[2:3] == [wanted]:
            return kind.split(maxsplit=1)[0]
    return None


def in_memory(filesystem: str) -> bool:
    """Whether a file system of this type keeps files only in memory."""
    return filesystem in _IN_MEMORY
