"""Formats tables in ASCII: first numbers, right-aligned, then names.

Where room is short, names are cut or left out.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

GAP = "  "
_CUT = "..."


@dataclass(frozen=True, slots=True)
class NumberColumn:
    """A column of numbers: its heading, with the unit, and how a row's cell is written."""

    heading: str
    cell: Callable[[Any], str]


@dataclass(frozen=True, slots=True)
class NameColumn:
    """A column of names: its heading, a row's name, and the fewest characters worth showing."""

    heading: str
    cell: Callable[[Any], str]
    least: int


def ascii_name(name: str) -> str:
    """Return ``name`` with everything escaped that is not printable ASCII."""
    return ascii(name)[1:-1]


def format_table(
    rows: Sequence[object], numbers: Sequence[NumberColumn], names: Sequence[NameColumn], width: int
) -> list[str]:
    """Return the heading and the rows as lines of at most ``width`` characters.

    The last columns of names give way first: names lose their left part, which is the least
    specific one, then a column goes. The first column of names stays.
    """
    number_cells = [_right_aligned([number.heading, *map(number.cell, rows)]) for number in numbers]
    name_cells = [[name.heading, *(ascii_name(name.cell(row)) for row in rows)] for name in names]
    room = width - sum(len(column[0]) + len(GAP) for column in number_cells)
    widths = _fit(
        [max(map(len, column)) for column in name_cells], [name.least for name in names], room
    )
    cut_cells = [
        [_cut(cell, size).ljust(size) for cell in column]
        for column, size in zip(name_cells, widths, strict=False)
    ]
    return [GAP.join(cells).rstrip() for cells in zip(*number_cells, *cut_cells, strict=True)]


def _right_aligned(cells: Sequence[str]) -> list[str]:
    width = max(map(len, cells))
    return [cell.rjust(width) for cell in cells]


def _fit(natural: list[int], least: list[int], room: int) -> list[int]:
    """Return widths for the leading columns that fit into ``room`` with their least width."""
    while len(natural) > 1 and sum(map(min, natural, least)) + _gaps(natural) > room:
        natural = natural[:-1]
    widths = list(natural)
    for column in reversed(range(1, len(widths))):
        widths[column] -= min(_excess(widths, room), max(0, widths[column] - least[column]))
    widths[0] = max(len(_CUT) + 1, widths[0] - _excess(widths, room))
    return widths


def _excess(widths: list[int], room: int) -> int:
    return max(0, sum(widths) + _gaps(widths) - room)


def _gaps(widths: list[int]) -> int:
    return len(GAP) * (len(widths) - 1)


def _cut(name: str, width: int) -> str:
    return name if len(name) <= width else _CUT + name[len(name) - width + len(_CUT) :]
