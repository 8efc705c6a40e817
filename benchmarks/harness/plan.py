"""How much to measure."""

from __future__ import annotations

import sys
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Plan:
    """Rounds, contenders and how long each measurement takes (``scale`` 1 is the full length)."""

    rounds: int
    scale: float
    contenders: tuple[str, ...]
    ours: tuple[str, ...]

    def progress(self, line: str) -> None:
        """Tell who waits."""
        print(line, file=sys.stderr, flush=True)
