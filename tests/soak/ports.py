"""Ports of this machine: reserves one for several processes, and finds who listens on it."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

LOCAL = "127.0.0.1"
_LISTENS = "0A"


@contextmanager
def reserved() -> Iterator[int]:
    """Reserve a port that the kernel gives to no other program meanwhile.

    It is bound but not listened on, so that the server under test can still use it.
    """
    with socket.socket() as holder:
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        holder.bind((LOCAL, 0))
        port: int = holder.getsockname()[1]
        yield port


def owner(port: int, parent: int) -> int | None:
    """Return the child of the process ``parent`` that listens on a port."""
    inode = _listening(port)
    return (
        None
        if inode is None
        else next((child for child in _children(parent) if _has(child, inode)), None)
    )


def _listening(port: int) -> str | None:
    """Return the inode of the socket that listens on a port."""
    for line in Path("/proc/net/tcp").read_text(encoding="ascii").splitlines()[1:]:
        fields = line.split()
        if fields[1].endswith(f":{port:04X}") and fields[3] == _LISTENS:
            return fields[9]
    return None


def _children(pid: int) -> list[int]:
    return [
        int(child)
        for child in Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii").split()
    ]


def _has(pid: int, inode: str) -> bool:
    with suppress(OSError):  # the process has ended
        return f"socket:[{inode}]" in map(_target, Path(f"/proc/{pid}/fd").iterdir())
    return False


def _target(descriptor: Path) -> str:
    """Return what a descriptor is of; nothing if it was closed meanwhile, as connections are."""
    with suppress(OSError):
        return str(descriptor.readlink())
    return ""
