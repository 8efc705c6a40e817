"""All contenders by name."""

from __future__ import annotations

import os
from pathlib import Path

from contenders.contender import Contender
from contenders.ours import CRecorder, IdleThread, PythonRecorder
from contenders.peers import PEERS

OURS: tuple[type[Contender], ...] = (Contender, PythonRecorder, CRecorder)
YARDSTICKS: tuple[type[Contender], ...] = (IdleThread,)
CONTENDERS = {contender.name: contender for contender in OURS + YARDSTICKS + PEERS}
BARE = Contender.name
BENCHMARKS = Path(__file__).parents[1]


def environment(name: str) -> dict[str, str]:
    """Return the environment for a process that runs the contender ``name``.

    Modules are found as in this process: ``PYTHONPATH`` names the folder of the benchmarks, and
    with ``-P`` the current directory does not hide the installed aiometrics. The seed of hashes is
    fixed, so that dictionaries have the same collisions in all processes.
    """
    return {
        **os.environ,
        "PYTHONPATH": str(BENCHMARKS),
        "PYTHONHASHSEED": "0",
        **CONTENDERS[name].environment,
    }
