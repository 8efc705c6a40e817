"""Which process a process descends from, as Linux tells in ``/proc``."""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

from aiometrics.base.unpatched import getpid

#: The kernel's flag of a process that was forked and has not become another program since.
_PF_FORKNOEXEC = 0x40
#: In the arguments of a process that ``multiprocessing`` has started, or that starts others for it.
_MULTIPROCESSING = (b"--multiprocessing-fork", b"multiprocessing.forkserver")


class Process(NamedTuple):
    """A process. Its start, in clock ticks since the boot, tells it from others of the same pid."""

    pid: int
    started: int


class _Status(NamedTuple):
    process: Process
    parent: int
    session: int
    forked: bool


def this_process() -> Process | None:
    """Return this process; ``None`` if the system does not tell when it started."""
    found = _status(getpid())
    return None if found is None else found.process


def root_process() -> Process | None:
    """Return the process that this one was forked from; ``None`` if the system does not tell.

    Processes that ``multiprocessing`` starts count as forked, whatever its start method. What a
    shell, an init system or ``subprocess`` starts is another program, and so its own root.
    """
    found = _status(getpid())
    if found is None:
        return None
    while _is_worker(found):
        parent = _status(found.parent)
        # A daemon has a session of its own, and the init system for a parent.
        if parent is None or parent.session != found.session:
            break
        found = parent
    return found.process


def namespace() -> str:
    """Return the number of the namespace in which the pids of this process are counted."""
    try:
        return os.readlink("/proc/self/ns/pid").strip("pid:[]")  # noqa: PTH115 - not a path
    except OSError:
        return "0"


def command(pid: int) -> str:
    """Return the command line of a process as far as it can be read."""
    return b" ".join(_arguments(pid)).decode(errors="replace")


def _is_worker(found: _Status) -> bool:
    if found.forked:
        return True
    arguments = b" ".join(_arguments(found.process.pid))
    return any(word in arguments for word in _MULTIPROCESSING)


def _arguments(pid: int) -> list[bytes]:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[:-1]
    except OSError:
        return []


def _status(pid: int) -> _Status | None:
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace")
        # The name of the program, in parentheses, may contain anything.
        _, parent, _, session, _, _, flags, *rest = text.rpartition(")")[2].split()
        process = Process(pid, int(rest[12]))
    except (OSError, ValueError, IndexError):
        return None
    return _Status(process, int(parent), int(session), bool(int(flags) & _PF_FORKNOEXEC))
