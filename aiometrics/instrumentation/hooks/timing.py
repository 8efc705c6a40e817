"""Declares what times the turns of a loop."""

from __future__ import annotations

from typing import Protocol


class LoopTiming(Protocol):
    """Writes the turns of one loop into its page."""

    def started(self) -> None:
        """Called when the loop starts to run."""

    def stopped(self) -> None:
        """Called when the loop stops; the time until it starts is neither active nor idle."""

    def observe(self) -> None:
        """Called by any thread before the part of the turn in progress is counted."""

    def remove(self) -> None:
        """Stop timing for good. Any thread may call this."""
