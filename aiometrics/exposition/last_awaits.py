"""Finds the lines after which the tasks of a coroutine ended with an exception."""

from __future__ import annotations

from collections import Counter

from aiometrics.pages.snapshot import RAISE, Snapshot


def last_awaits(now: Snapshot, before: Snapshot | None = None) -> dict[str, str]:
    """Return, by coroutine, where most of the tasks that raised since ``before`` had waited last.

    Cancelled tasks raised too. Where most of them raised before they waited, that is ``(start)``.
    """
    raised = _raised(now)
    if before is not None:
        raised.subtract(_raised(before))
    most: dict[str, str] = {}
    for (coroutine, began_at), tasks in raised.most_common():
        if tasks > 0:
            most.setdefault(coroutine, began_at)
    return most


def _raised(snapshot: Snapshot) -> Counter[tuple[str, str]]:
    """Count the tasks that raised, by coroutine and by where their last segment began."""
    counts: Counter[tuple[str, str]] = Counter()
    for path in snapshot.segment_paths:
        if path.ended_at == RAISE:
            counts[path.coroutine, path.began_at] += path.segments
    return counts
