"""Compares bare and instrumented outcomes, and knows which differences are justified."""

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
    """A test with another outcome than when it runs bare."""

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
    """Return every test whose outcome differs, sorted, without the flaky ones."""
    return tuple(
        Difference(test, before, after, instrumented.details.get(test, ""))
        for test in sorted((bare.results.keys() | instrumented.results.keys()) - flaky)
        if (before := bare.results.get(test, ABSENT))
        != (after := instrumented.results.get(test, ABSENT))
    )


def flaky_tests(first: Outcomes, second: Outcomes) -> frozenset[str]:
    """Return the tests whose outcome differs between two bare runs."""
    return frozenset(difference.test for difference in differences(first, second))


def justified(implementation: str, path: Path = JUSTIFIED) -> dict[str, str]:
    """Return the reasons of justified differences by test id, for this Python and implementation.

    An entry may name the versions of Python (``python = ["3.12"]``) and the implementations (``c``
    or ``python``) that it holds for; otherwise it holds for all.
    """
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    entries = tomllib.loads(path.read_text()).get("difference", [])
    return {
        entry["test"]: entry["reason"]
        for entry in entries
        if version in entry.get("python", [version])
        and implementation in entry.get("implementation", [implementation])
    }
