"""Formats tables in ASCII: first numbers, right-aligned, then names.

Where room is short, names are on lines of their own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

GAP = "  "
_INDENT = 10 * " "


@dataclass(frozen=True, slots=True)
class NumberColumn:
    """A column of numbers: its heading, with the unit, and how a row's cell is written."""

    heading: str
    cell: Callable[[Any], str]


@dataclass(frozen=True, slots=True)
class NameColumn:
    """A column of names: its heading, and a row's name."""

    heading: str
    cell: Callable[[Any], str]


def ascii_name(name: str) -> str:
    """Return ``name`` with everything escaped that is not printable ASCII."""
    return ascii(name)[1:-1]


def format_table(
    rows: Sequence[object], numbers: Sequence[NumberColumn], names: Sequence[NameColumn], width: int
) -> list[str]:
    """Return the heading and the rows as lines of at most ``width`` characters.

    Names that find no room beside the numbers are on further lines of their row, in full: a part of
    a name may be all that tells two rows apart.
    """
    number_cells = [_right_aligned([number.heading, *map(number.cell, rows)]) for number in numbers]
    name_cells = [
        _left_aligned([name.heading, *(ascii_name(name.cell(row)) for row in rows)])
        for name in names
    ]
    room = width - sum(len(column[0]) + len(GAP) for column in number_cells)
    beside = name_cells[: _fitting([len(column[0]) for column in name_cells], room)]
    below = name_cells[len(beside) :]
    lines: list[str] = []
    for number, cells in enumerate(zip(*number_cells, *beside, strict=True)):
        lines.append(GAP.join(cells).rstrip())
        lines += _further_lines([column[number].rstrip() for column in below], width)
    return lines


def _right_aligned(cells: Sequence[str]) -> list[str]:
    width = max(map(len, cells))
    return [cell.rjust(width) for cell in cells]


def _left_aligned(cells: Sequence[str]) -> list[str]:
    width = max(map(len, cells))
    return [cell.ljust(width) for cell in cells]


def _fitting(widths: Sequence[int], room: int) -> int:
    """Return how many of the leading columns fit into ``room``."""
    for count in range(len(widths), 0, -1):
        if sum(widths[:count]) + len(GAP) * (count - 1) <= room:
            return count
    return 0


def _further_lines(names: Sequence[str], width: int) -> list[str]:
    """Return the names on one line if they fit, else on a line for each, or more if it is long."""
    room = width - len(_INDENT)
    together = GAP.join(names)
    parts = [together] if len(together) <= room else names
    return [
        _INDENT + part[start : start + room]
        for part in parts
        for start in range(0, len(part), room)
    ]
