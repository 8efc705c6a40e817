"""The extent of a run: contenders, rounds and durations."""

from __future__ import annotations

import sys
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Plan:
    """The contenders to measure, how often and for how long.

    ``ours`` are a bare loop and the recorders of aiometrics, as far as they were selected.
    ``scale`` 1 is the full length of a measurement.
    """

    rounds: int
    scale: float
    contenders: tuple[str, ...]
    ours: tuple[str, ...]

    def progress(self, line: str) -> None:
        """Print a line of progress to standard error."""
        print(line, file=sys.stderr, flush=True)
