"""All contenders by name."""

from __future__ import annotations

import os

from contenders.contender import Contender
from contenders.ours import CRecorder, IdleThread, PythonRecorder
from contenders.peers import PEERS

OURS: tuple[type[Contender], ...] = (Contender, PythonRecorder, CRecorder)
YARDSTICKS: tuple[type[Contender], ...] = (IdleThread,)
CONTENDERS = {contender.name: contender for contender in OURS + YARDSTICKS + PEERS}
BARE = Contender.name


def environment(name: str) -> dict[str, str]:
    """The environment of a process that runs this contender; hashes are fixed, so that dictionaries collide alike in all of them."""
    return {**os.environ, "PYTHONHASHSEED": "0", **CONTENDERS[name].environment}
