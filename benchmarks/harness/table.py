"""What a section of the benchmark gives: a table to read, and the raw numbers to keep."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(slots=True)
class Table:
    """A title, columns and rows of text; ``data`` is what they were made from."""

    title: str
    columns: Sequence[str]
    rows: list[Sequence[str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    data: Any = None

    def markdown(self) -> str:
        """The table as Markdown, notes below."""
        lines = [
            f"### {self.title}",
            "",
            _row(self.columns),
            _row(["---"] * len(self.columns)),
            *map(_row, self.rows),
            "",
        ]
        return "\n".join([*lines, *(f"- {note}" for note in self.notes), ""])


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
