"""Finds what a process exports, from outside: the directory of its pages, or its ports."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

#: The files of pages in a shared directory, as the memory map of a process names them.
_PAGE = re.compile(r"^\S+ r\S* \S+ \S+ \d+ +(/.*)/\d{1,3}\.page$", re.MULTILINE)
_SOCKET = re.compile(r"socket:\[(\d+)\]")
_LISTENS = "0A"
_LOOPBACK = {"tcp": "127.0.0.1", "tcp6": "[::1]"}


def directories_of(pid: int) -> list[str]:
    """Return the directories whose pages a process has mapped, as this process sees them.

    Raises ``OSError`` if there is no such process, or it belongs to another user.
    """
    found = dict.fromkeys(_PAGE.findall(Path(f"/proc/{pid}/maps").read_text(errors="replace")))
    return [path if Path(path).is_dir() else f"/proc/{pid}/root{path}" for path in found]


def urls_of(pid: int) -> list[str]:
    """Return the addresses on which a process listens, as seen from this machine.

    Raises ``OSError`` as :func:`directories_of` does.
    """
    sockets = set(_sockets(pid))
    return [
        f"http://{host}:{port}"
        for family, host in _LOOPBACK.items()
        for port, inode in _listening(pid, family)
        if inode in sockets
    ]


def _sockets(pid: int) -> Iterator[str]:
    """Yield the inodes of the sockets of a process."""
    for descriptor in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(OSError):  # it was closed meanwhile
            match = _SOCKET.fullmatch(str(descriptor.readlink()))
            if match is not None:
                yield match[1]


def _listening(pid: int, family: str) -> Iterator[tuple[int, str]]:
    """Yield ports that are listened on in the process's network, and the inodes of the sockets."""
    with suppress(OSError):  # no such family here
        for line in Path(f"/proc/{pid}/net/{family}").read_text().splitlines()[1:]:
            _, local, _, state, *rest = line.split()
            if state == _LISTENS:
                yield int(local.rpartition(":")[2], 16), rest[5]
