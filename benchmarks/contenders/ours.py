"""aiometrics with each of its recorders, and a yardstick for its threads."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from importlib import import_module
from typing import Any, ClassVar

from contenders.contender import Contender, Unavailable


class CRecorder(Contender):
    """aiometrics with its C recorder and an exporter."""

    name = "aiometrics C"
    gives = "segments, waits, tasks: per coroutine and yield point"
    implementation: ClassVar[str] = "c"

    def prepare(self) -> None:
        self.facade().start_exporter(port=0, addr="127.0.0.1")

    def facade(self) -> Any:
        """Import and return the package.

        Raises ``Unavailable`` if it is not installed or runs the other recorder.
        """
        try:
            facade = import_module("aiometrics")
            implementation = facade.IMPLEMENTATION
        except (ImportError, AttributeError) as error:
            raise Unavailable(f"aiometrics: {error}") from error
        if implementation != self.implementation:
            raise Unavailable(
                f"the installed aiometrics runs {implementation!r}, not {self.implementation!r}"
            )
        return facade


class PythonRecorder(CRecorder):
    """aiometrics with its Python recorder and an exporter."""

    name = "aiometrics Python"
    implementation = "python"
    environment: ClassVar[Mapping[str, str]] = {"AIOMETRICS_NO_EXTENSIONS": "1"}


class IdleThread(Contender):
    """A bare loop in a process with a second thread, which sleeps.

    From the second thread on, libc and the kernel take locks that a single thread does not need.
    Every exporter with a thread of its own pays for that, and so does every service that ever used
    an executor.
    """

    name = "bare, with an idle thread"

    def prepare(self) -> None:
        threading.Thread(target=threading.Event().wait, daemon=True).start()
