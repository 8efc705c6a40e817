"""Short runs of the soaks; ``python -m tests.soak`` runs them for as long as you like."""

from __future__ import annotations

import pytest
from soak import tasks


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_nothing_is_lost_under_full_load(loop: str, implementation: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Cancellations, failures and scrapes while as many tasks run as this machine can: the page is the account that the program kept."""
    monkeypatch.setenv("AIOMETRICS_NO_EXTENSIONS", "1" if implementation == "python" else "")
    outcome = tasks.soak(2.0, 1, loop)
    assert [] == outcome.problems
