"""The result of a section: a table to read, and the raw numbers to keep."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(slots=True)
class Table:
    """A title, columns and rows of text; ``data`` holds the numbers that they were made from."""

    title: str
    columns: Sequence[str]
    rows: list[Sequence[str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    data: Any = None

    def note_absent(self, reasons: Mapping[str, str]) -> None:
        """Add a note for each contender that did not run, with the reason."""
        self.notes.extend(f"{name} did not run: {reason}" for name, reason in reasons.items())

    def markdown(self) -> str:
        """Return the table as Markdown, with the notes below it."""
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
