"""The lines that are logged about blocks, and how often. Observing is the watchdog's business.

A library must not fill the log of its application, nor fail tests that allow no line. So blocks
that are over are logged at the level ``DEBUG``, since metrics tell them all. One that lasts is a
warning, because a process that hangs may be killed before it is scraped.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import NamedTuple

from aiometrics.base.clock import SECOND_NS
from aiometrics.pages.snapshot import OTHER

logger = logging.getLogger("aiometrics.blocked")

MINUTE_NS = 60 * SECOND_NS
#: At most so many places are told apart within a minute; further ones share a line.
MAX_PLACES = 20


class Block(NamedTuple):
    """A segment that held its loop too long, as it is told."""

    loop: str
    coroutine: str
    #: Where it was seen most often, and the calls that led there.
    place: str
    stack: str
    lasted_ns: int
    #: How long its thread ran, and how long it waited for a CPU; ``None`` if that is not known.
    cpu_ns: int | None = None
    runqueue_ns: int | None = None
    over: bool = True

    @property
    def starved(self) -> bool:
        """Whether the machine stopped the loop rather than the line: there was mostly no CPU."""
        return self.runqueue_ns is not None and 2 * self.runqueue_ns >= self.lasted_ns

    @property
    def level(self) -> int:
        """The level at which it is logged."""
        return logging.DEBUG if self.over or self.starved else logging.WARNING

    def __str__(self) -> str:
        if self.starved:
            stands = "" if self.over else " and goes on so"
            return (
                f"loop {self.loop} had no CPU for {_text(self.runqueue_ns or 0)} of "
                f"{_text(self.lasted_ns)}{stands}, in {self.coroutine} at {self.place}"
            )
        ran = "" if self.cpu_ns is None else f" ({_text(self.cpu_ns)} of it on a CPU)"
        where = f"by {self.coroutine} at {self.place}"
        if self.over:
            return f"loop {self.loop} was blocked for {_text(self.lasted_ns)}{ran} {where}"
        return (
            f"loop {self.loop} has been blocked for {_text(self.lasted_ns)}{ran} and still is, "
            f"{where}: {self.stack}"
        )


@dataclass(slots=True)
class _Quiet:
    """A place of which no line is logged until ``until_ns``, and the blocks there meanwhile."""

    until_ns: int
    blocks: int = 0
    starved: int = 0
    lasted_ns: int = 0

    def add(self, block: Block) -> None:
        self.blocks += 1
        self.starved += block.starved
        self.lasted_ns += block.lasted_ns


class BlockLog:
    """Logs one line per place, level and minute at most.

    The first block is logged at once. Those of the next minute are counted, and the count is logged
    when it has passed. It is used by one thread.
    """

    def __init__(self) -> None:
        self._quiet: dict[tuple[str, int], _Quiet] = {}

    def tell(self, block: Block, now_ns: int) -> None:
        """Log a block, or count it."""
        if not logger.isEnabledFor(block.level):
            return
        self.catch_up(now_ns)
        key = block.place, block.level
        if key not in self._quiet and len(self._quiet) >= MAX_PLACES:
            key = OTHER, block.level
        quiet = self._quiet.get(key)
        if quiet is not None:
            quiet.add(block)
            return
        self._quiet[key] = quiet = _Quiet(now_ns + MINUTE_NS)
        if key[0] == OTHER:
            quiet.add(block)
        else:
            logger.log(block.level, "aiometrics: %s", block)

    def catch_up(self, now_ns: int) -> None:
        """Log what was counted in minutes that have passed."""
        for key, quiet in list(self._quiet.items()):
            if now_ns < quiet.until_ns:
                continue
            del self._quiet[key]
            if quiet.blocks:
                self._quiet[key] = _Quiet(now_ns + MINUTE_NS)
                _log_count(*key, quiet)


def _log_count(place: str, level: int, quiet: _Quiet) -> None:
    starved = f", {quiet.starved} of them for want of a CPU" if quiet.starved else ""
    logger.log(
        level,
        "aiometrics: blocks at %s: %d more, %s in all%s",
        "other places" if place == OTHER else place,
        quiet.blocks,
        _text(quiet.lasted_ns),
        starved,
    )


def _text(ns: int) -> str:
    return f"{ns / SECOND_NS:.3f} s"
