"""The result of a soak."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass
class Outcome:
    """Lines of information, and problems; the soak has passed if there are no problems."""

    lines: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    def expect(self, what: str, expected: object, actual: object) -> None:
        """Add a problem if ``actual`` is not equal to ``expected``."""
        if expected != actual:
            self.problems.append(f"{what}: expected {expected}, found {actual}")

    def demand(self, what: str, *, holds: bool) -> None:
        """Add the problem ``what`` unless the condition holds."""
        if not holds:
            self.problems.append(what)
