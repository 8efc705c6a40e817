"""What a soak has found."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass
class Outcome:
    """Lines to read, and problems; the soak held if there are none."""

    lines: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    def expect(self, what: str, expected: object, actual: object) -> None:
        """One more thing that must be equal."""
        if expected != actual:
            self.problems.append(f"{what}: expected {expected}, found {actual}")

    def demand(self, what: str, *, held: bool) -> None:
        """One more thing that must be so."""
        if not held:
            self.problems.append(what)
