"""Bare and instrumented outcomes side by side: which tests differ, and which of the differences are justified."""

from __future__ import annotations

import sys
import tomllib
from dataclasses import dataclass
from pathlib import Path

from .campaign import Outcomes

JUSTIFIED = Path(__file__).with_name("justified.toml")
ABSENT = "absent"


@dataclass(frozen=True, slots=True)
class Difference:
    """A test that did not end as it does bare."""

    test: str
    bare: str
    instrumented: str
    detail: str

    def __str__(self) -> str:
        last = self.detail.strip().splitlines()[-1:] or [""]
        return f"{self.test}: bare {self.bare}, instrumented {self.instrumented}: {last[0]}"


def differences(
    bare: Outcomes, instrumented: Outcomes, flaky: frozenset[str] = frozenset()
) -> tuple[Difference, ...]:
    """Every test whose outcome differs, sorted; the flaky ones left out."""
    return tuple(
        Difference(test, before, after, instrumented.details.get(test, ""))
        for test in sorted((bare.results.keys() | instrumented.results.keys()) - flaky)
        if (before := bare.results.get(test, ABSENT))
        != (after := instrumented.results.get(test, ABSENT))
    )


def flaky_tests(first: Outcomes, second: Outcomes) -> frozenset[str]:
    """Tests that disagree with themselves in two bare runs."""
    return frozenset(difference.test for difference in differences(first, second))


def justified(implementation: str, path: Path = JUSTIFIED) -> dict[str, str]:
    """Test id -> reason, for this Python and this implementation (``c`` or ``python``).

    An entry may name the Python versions (``python = ["3.12"]``) and implementations it holds for; without, it holds for all.
    """
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    entries = tomllib.loads(path.read_text()).get("difference", [])
    return {
        entry["test"]: entry["reason"]
        for entry in entries
        if version in entry.get("python", [version])
        and implementation in entry.get("implementation", [implementation])
    }
