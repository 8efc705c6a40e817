"""The directory of one service: made with its first shared page, gone after its last process."""

from __future__ import annotations

import os
import re
import signal
import sys
from contextlib import suppress
from pathlib import Path

from aiometrics.base.processes import Process
from aiometrics.pages.header import PageFormat
from aiometrics.pages.multiprocess import janitor
from aiometrics.pages.multiprocess.directory import ClaimedSlot, SharedDirectory
from aiometrics.pages.multiprocess.private_directory import filesystem_of, in_memory

_SHARED_MEMORY = "/dev/shm"  # noqa: S108 - the directory below it is checked to be ours
#: What the interpreter may need in order to start. It is given nothing else of the application.
_ENVIRON = ("LD_LIBRARY_PATH",)
_TEMPORARY = "/tmp"  # noqa: S108 - as above


class ServiceDirectory(SharedDirectory):
    """A directory in memory for the processes that descend from ``root``.

    ``family`` and ``name`` are the beginning of its name, which directories of the same user share,
    and the rest of it.
    """

    def __init__(self, family: str, name: str, root: Process) -> None:
        self._family = f"{family}-"
        self._root = root
        filesystem = filesystem_of(_SHARED_MEMORY)
        self._parent = _SHARED_MEMORY if filesystem and in_memory(filesystem) else _TEMPORARY
        super().__init__(f"{self._parent}/{family}-{name}-{root.pid}-{root.started}")

    def claim(self, page_format: PageFormat) -> ClaimedSlot:
        """Claim a slot for a loop, and make the directory if necessary."""
        made = self.prepare()
        try:
            return super().claim(page_format)
        finally:
            if made:
                self._start_janitor()  # now that the page is held

    def remove_abandoned(self) -> None:
        """Remove directories that services left behind whose janitor was killed or not started."""
        pattern = re.compile(re.escape(self._family) + r".*-(\d+)-(\d+)")
        with suppress(OSError), os.scandir(self._parent) as entries:  # it may not be read
            for entry in entries:
                match = pattern.fullmatch(entry.name)
                if match is not None:
                    janitor.remove_if_abandoned(entry.path, int(match[1]), int(match[2]))

    def _start_janitor(self) -> None:
        """Start the process that removes the directory; without one, a later service does it."""
        frozen = getattr(sys, "frozen", False)
        if frozen or not Path(sys.executable).name.startswith("python"):
            return  # the interpreter is part of another program
        if callable(signal.getsignal(signal.SIGCHLD)):
            return  # the application would be told that a child has ended
        devnull = [(os.POSIX_SPAWN_OPEN, number, os.devnull, os.O_RDWR, 0) for number in range(3)]
        arguments = [self.path, str(self._root.pid), str(self._root.started)]
        with suppress(OSError):  # no memory for it, or the application has waited for it
            starter = os.posix_spawn(
                sys.executable,
                [sys.executable, "-I", "-S", janitor.__file__, *arguments],
                {name: os.environ[name] for name in _ENVIRON if name in os.environ},
                file_actions=devnull,
            )
            os.waitpid(starter, 0)
