"""Hotspots for people and for programs: what is shown, once or again and again."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

from aiometrics.base.clock import SECOND_NS
from aiometrics.exposition.hotspots import Hotspots, find_hotspots
from aiometrics.pages.snapshot import Snapshot
from aiometrics.top.sources import Reading

_SECTIONS = {
    "loops": "loops",
    "holders": "held",
    "burners": "active",
    "waiters": "waits",
    "stuck": "stuck",
    "endings": "failures",
}


def hotspots_of(reading: Reading, top: int, since: Snapshot | None = None) -> Hotspots:
    """Return the worst rows of a reading. What blocks is judged by each page's own threshold."""
    return find_hotspots(
        reading.snapshot, top, since, blocking_threshold_ns=None, of_library=reading.of_library
    )


def gone(snapshot: Snapshot) -> bool:
    """Return whether all processes are gone that wrote the numbers."""
    return not any(loop.process_id for loop in snapshot.loops)


def as_json(source: str, taken_ns: int, hotspots: Hotspots) -> str:
    """Return the hotspots as an object; durations are in seconds."""
    found = _in_seconds(asdict(hotspots))
    shown = {
        "source": source,
        "taken_timestamp_seconds": taken_ns / SECOND_NS,
        "interval_seconds": found["interval_seconds"],
        "untraced_tasks": found["untraced_tasks"],
        **{name: found[field] for field, name in _SECTIONS.items()},
    }
    return json.dumps(shown, indent=1)


def _in_seconds(value: Any) -> Any:
    """Return nested rows whose fields in ns are in seconds, under names that say so."""
    if isinstance(value, dict):
        return dict(_field(name, inner) for name, inner in value.items())
    return [_in_seconds(inner) for inner in value] if isinstance(value, list | tuple) else value


def _field(name: str, value: Any) -> tuple[str, Any]:
    if not name.endswith("_ns"):
        return name, _in_seconds(value)
    return f"{name.removesuffix('_ns')}_seconds", None if value is None else value / SECOND_NS
