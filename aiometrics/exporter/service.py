"""The processes of one service, which find each other without being told.

They descend from one process, the root, and were given the same port. One of them, the leader, has
the port or waits for it. The kernel elects it: the leader is the process that has the abstract
socket of the service's name, which no other process can have until this one ends.
"""

from __future__ import annotations

import os
import re
import socket
import sys
from contextlib import suppress
from pathlib import Path

from aiometrics.base import fork
from aiometrics.base.processes import Process, command, namespace, root_process
from aiometrics.base.unpatched import getpid, socket_class
from aiometrics.pages.multiprocess.private_file import SUPPORTED
from aiometrics.pages.multiprocess.service_directory import ServiceDirectory

#: The variable that names the process that ``aiometrics run`` became, for all its descendants.
RUN = "AIOMETRICS_RUN"
_SOCKETS = Path("/proc/net/unix")
_LISTENS = "00010000"


class Service:
    """The service of this process, whose processes descend from ``root`` and serve ``port``."""

    def __init__(self, port: int, root: Process) -> None:
        family = f"aiometrics-{os.geteuid()}-{namespace()}"
        self._name = f"{family}-{port}-{root.pid}-{root.started}"
        self._port = port
        self._root = root
        self._election: socket.socket | None = None
        self.directory = ServiceDirectory(family, str(port), root)
        fork.forget_in_child(self, fork.Stage.DESCRIPTORS, Service._leave)

    @property
    def is_root(self) -> bool:
        """Whether this process is the root."""
        return self._root.pid == getpid()

    def lead(self) -> bool:
        """Become the leader unless another process is; return whether this process leads."""
        if self._election is not None:
            return True
        with fork.creation_lock:
            candidate = socket_class()(socket.AF_UNIX)
            try:
                candidate.bind(f"\0{self._name}")
            except OSError:
                candidate.close()
                return False
            self._election = candidate
        return True

    def announce(self) -> None:
        """Let other services know that the leader, which this process is, has the port."""
        if self._election is not None:
            self._election.listen()

    def resign(self) -> None:
        """Let another process be the leader. Does nothing if this one is not."""
        self._leave()

    def owner_of_port(self) -> str:
        """Return which service has the port, in words; empty if none of this kind of exporter."""
        pattern = re.compile(rf"@aiometrics-\d+-{namespace()}-{self._port}-(\d+)-\d+")
        with suppress(OSError):
            for line in _SOCKETS.read_text(encoding="utf-8", errors="replace").splitlines():
                fields = line.split()
                match = pattern.fullmatch(fields[-1])
                if match is not None and fields[3] == _LISTENS and fields[-1] != f"@{self._name}":
                    return f"process {match[1]} ({command(int(match[1]))})"
        return ""

    def _leave(self) -> None:
        election, self._election = self._election, None
        if election is not None:
            election.close()


def service_of(port: int) -> Service | None:
    """Return the service of this process; ``None`` if its processes cannot find each other.

    They cannot if each takes any free port, and on systems other than Linux.
    """
    if port == 0 or not SUPPORTED or sys.platform != "linux":
        return None
    root = _process_of_run() or root_process()
    return None if root is None else Service(port, root)


def _process_of_run() -> Process | None:
    """Return the process that ``aiometrics run`` became, if this one descends from it.

    It may have ended: a program that becomes a daemon, or replaces itself by a newer version of it,
    stays one service.
    """
    match = re.fullmatch(r"(\d+)-(\d+)", os.environ.get(RUN, ""))
    return None if match is None else Process(int(match[1]), int(match[2]))
