"""Short runs of the soaks; ``python -m tests.soak`` runs them for as long as you like."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from soak import tasks, workers


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_nothing_is_lost_under_full_load(
    loop: str, implementation: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Cancellations, failures and scrapes while as many tasks run as this machine can: the page is the account that the program kept."""
    monkeypatch.setenv("AIOMETRICS_NO_EXTENSIONS", "1" if implementation == "python" else "")
    outcome = tasks.soak(1.0, 1, loop)
    assert [] == outcome.problems


@pytest.mark.long
def test_the_port_shows_what_the_workers_counted(binary: Callable[[str], str]) -> None:
    """Two workers under load, the owner of the port killed once: nothing lost, and neither reset nor spike in a real Prometheus."""
    for program in ("wrk", "prometheus"):
        binary(program)
    outcome = workers.soak(5.0, 1)
    assert [] == outcome.problems
