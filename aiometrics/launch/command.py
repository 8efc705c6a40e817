"""``aiometrics run``: becomes the program that it is given, with an exporter in it."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from aiometrics.base.options import resolve, variable_of
from aiometrics.base.processes import this_process
from aiometrics.exporter.service import RUN

#: The directory for ``PYTHONPATH``.
PATH = str(Path(__file__).with_name("path"))


def environment(options: Mapping[str, str | None], environ: Mapping[str, str]) -> dict[str, str]:
    """Return ``environ`` with what a program needs to start an exporter with these options.

    Raises ``TypeError`` or ``ValueError`` if an option or a variable is wrong.
    """
    given = {variable_of(name): value for name, value in options.items() if value is not None}
    found = {**environ, **given}
    resolve(environ=found)
    path = [PATH, *(each for each in found.get("PYTHONPATH", "").split(os.pathsep) if each)]
    this = this_process()
    # exec changes neither the pid nor the start of a process.
    run = {} if this is None else {RUN: f"{this.pid}-{this.started}"}
    return {**found, **run, "PYTHONPATH": os.pathsep.join(path)}


def become(command: Sequence[str], environ: Mapping[str, str]) -> None:
    """Become the program ``command``. Raises ``OSError`` if it cannot be run."""
    os.execvpe(command[0], list(command), dict(environ))  # noqa: S606 - the user names the program
