"""Short runs of the soaks; ``python -m tests.soak`` runs them for any length of time."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from soak import tasks, workers


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_nothing_is_lost_under_full_load(
    loop: str, implementation: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The metrics equal the program's own counts after a load of cancellations and failures."""
    monkeypatch.setenv("AIOMETRICS_NO_EXTENSIONS", "1" if implementation == "python" else "")
    outcome = tasks.soak(1.0, 1, loop)
    assert [] == outcome.problems


@pytest.mark.long
def test_metrics_equal_what_the_workers_counted(binary: Callable[[str], str]) -> None:
    """Killing the owner of the port loses nothing, and Prometheus sees no reset or spike."""
    for program in ("wrk", "prometheus"):
        binary(program)
    outcome = workers.soak(5.0, 1)
    assert [] == outcome.problems
