"""The constants that the C recorder shares with Python: page offsets, states, limits and names.

Each is declared in Python, where it is used. ``csrc/constants.h`` is written from the tables below
by ``python -m aiometrics.recorder.c_header``, and a core that was compiled with others is not used.
"""

from __future__ import annotations

from collections.abc import Mapping
from hashlib import sha256
from typing import NamedTuple

from aiometrics.base.internal_errors import OFF_FOR_LOOP
from aiometrics.pages import buckets, exemplar_table, layout, records
from aiometrics.pages.snapshot import CALLBACK, EAGER_CHILD, ITSELF, OTHER, RAISE, RETURN, RUNNING
from aiometrics.recorder import (
    await_chain,
    callback,
    held,
    recorder,
    sampler,
    scope,
    stack,
    table,
    traced,
    turns,
)


class Enum(NamedTuple):
    """Members of one C enumeration; ``name`` is its type, empty if it needs none."""

    name: str
    members: Mapping[str, int]


def _record(prefix: str, fields: Mapping[str, int]) -> Enum:
    """Offsets of the scalars of a record, and how many words they take."""
    members = {f"{prefix}_{field.upper()}": offset for field, offset in fields.items()}
    return Enum("", {**members, f"{prefix}_SCALARS": len(fields)})


ENUMS = (
    _record("HEADER", layout.HEADER),
    _record("LOOP", layout.LOOP),
    _record("COROUTINE", layout.COROUTINE),
    _record("POINT", layout.YIELD_POINT),
    _record("REQUEST", layout.REQUEST),
    _record("REQUEST_WAIT", layout.REQUEST_WAIT),
    _record("SEGMENT_PATH", layout.SEGMENT_PATH),
    _record("CHAIN_NODE", layout.CHAIN_NODE),
    _record("HELD", layout.HELD),
    Enum(
        "",
        {
            "NO_COROUTINE": layout.NO_COROUTINE,
            "AT_START": layout.AT_START,
            "OTHER_POINT_NODE": layout.OTHER_POINT_NODE,
            "OTHER_NODE": layout.OTHER_NODE,
            "OWN_CHAIN_NODES": layout.OWN_CHAIN_NODES,
            "NO_NODE": layout.NO_NODE,
            "NO_POINT": layout.NO_POINT,
            "HELD_LATER": held.LATER,
        },
    ),
    Enum(
        "",
        {
            **{f"TABLE_{table.name}": table.value for table in records.Table},
            "TABLES": len(records.Table),
        },
    ),
    Enum("", {f"GROUP_{name}": group.value for name, group in records.Group.__members__.items()}),
    Enum("", {f"NUMBER_{number.name}": number.value for number in records.Number}),
    Enum("FrameKind", {f"KIND_{kind.name}": kind.value for kind in stack.FrameKind}),
    _record("SCOPE_ERROR", layout.SCOPE_ERROR),
    Enum("Status", {name.upper(): code for code, name in enumerate(layout.STATUSES)}),
    Enum(
        "State",
        {
            "OFFERED": traced.OFFERED,
            "NEW": traced.NEW,
            "SUSPENDED": traced.SUSPENDED,
            "RUNNING": traced.RUNNING,
            "DONE": traced.DONE,
        },
    ),
    Enum(
        "ScopeState",
        {
            "SCOPE_NEW": scope.NEW,
            "SCOPE_OPEN": scope.OPEN,
            "SCOPE_OVER": scope.OVER,
            "SCOPE_LEFT": scope.LEFT,
        },
    ),
    Enum(
        "Hop",
        {
            "CHAIN_ENDS": await_chain.ENDS,
            "CHAIN_HIDES": await_chain.HIDES,
            "CHAIN_ASKS": await_chain.ASKS,
            "CHAIN_ASKS_BEHIND": await_chain.ASKS_BEHIND,
        },
    ),
)
NUMBERS: Mapping[str, int] = {
    "PAGE_VERSION": layout.VERSION,
    "MAX_BOUNDS": layout.MAX_BOUNDS,
    "MAX_PIECES": layout.MAX_BOUNDS + len(buckets.NATIVE_BOUNDS_NS) + 1,
    "MAX_CHAIN_FRAMES": layout.MAX_CHAIN_FRAMES,
    "NATIVE_BUCKETS": buckets.LAST_INDEX - buckets.ZERO_INDEX + 1,
    "NATIVE_ORIGIN": -buckets.ZERO_INDEX,
    "NAME_BYTES": layout.NAME_BYTES,
    "SQUARE_NS2": layout.SQUARE_NS2,
    "MAX_RECORDS": layout.MAX_RECORDS,
    "STATUSES": len(layout.STATUSES),
    "EXEMPLAR_SEGMENT": exemplar_table.SEGMENT,
    "EXEMPLAR_WALL": exemplar_table.WALL,
    "CALLBACKS": layout.CALLBACKS,
    "TIMED": layout.TIMED,
    "TIMED_WITHOUT_EVENTS": layout.TIMED_WITHOUT_EVENTS,
    "OTHER_POINT": scope.OTHER_POINT,
    "WAITS_PER_REQUEST": layout.WAITS_PER_REQUEST,
    "MAX_HELD": layout.MAX_HELD,
    "HELD_WORDS": layout.HELD_WORDS,
    "NODES_PER_YIELD_POINT": layout.NODES_PER_YIELD_POINT,
    "PATH_HASH": layout.PATH_HASH,
    "PATH_PROBES": layout.PATH_PROBES,
    "VISITS": traced.VISITS,
    "SCOPE_POINTS": scope.MAX_POINTS,
    "SCOPE_NESTED": scope.MAX_NESTED,
    "MAX_TIMELINE": scope.MAX_TIMELINE,
    "TABLE_LIMIT": table.LIMIT,
    "MAX_DEPTH": await_chain.MAX_DEPTH,
    "MAX_PAUSES": sampler.MAX_PAUSES,
    "MAX_FRAMES": stack.MAX_FRAMES,
    "UNWRAPPINGS": callback.UNWRAPPINGS,
    "WAITED_NS": turns.WAITED_NS,
    "GAVE_NS": turns.GAVE_NS,
    "SEED": recorder.SEED,
}
TEXTS: Mapping[str, str] = {
    "RETURN_NAME": RETURN,
    "RAISE_NAME": RAISE,
    "EAGER_CHILD_NAME": EAGER_CHILD,
    "RUNNING_NAME": RUNNING,
    "OTHER_NAME": OTHER,
    "CALLBACK_NAME": CALLBACK,
    "ITSELF_NAME": ITSELF,
    "RECORDER_PROBE": recorder.PROBE,
    "TURNS_PROBE": turns.PROBE,
    "OFF_FOR_LOOP": OFF_FOR_LOOP,
}
#: Tells two sets of constants apart.
DIGEST = sha256(repr((ENUMS, NUMBERS, TEXTS)).encode()).hexdigest()[:16]
