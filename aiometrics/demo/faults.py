"""The faults that the shop can have: how to choose them, and the names under which they show."""

from __future__ import annotations

from collections.abc import Set as AbstractSet
from enum import StrEnum
from typing import NamedTuple


class Fault(StrEnum):
    """A classic fault of an asyncio service."""

    CPU = "cpu"
    BLOCKING = "blocking"
    SLOW = "slow"
    STUCK = "stuck"
    FAILING = "failing"
    TINY = "tiny"


class Symptom(NamedTuple):
    """The functions that have a fault, and what they do wrong."""

    functions: tuple[str, ...]
    wrong: str


SYMPTOMS = {
    Fault.CPU: Symptom(("rank_results",), "computes for long between two awaits"),
    Fault.BLOCKING: Symptom(
        ("charge_card", "reserve_stock"), "call time.sleep and synchronous sqlite3 on the loop"
    ),
    Fault.SLOW: Symptom(("Pool.acquire",), "queues for a database behind too few connections"),
    Fault.STUCK: Symptom(
        ("wait_for_confirmation",), "waits for ever, without a timeout, when a message gets lost"
    ),
    Fault.FAILING: Symptom(
        ("send_receipt", "ask_warehouse"), "fails in its task; is cancelled when another was faster"
    ),
    Fault.TINY: Symptom(("write_rows",), "gives the loop back after each of very many rows"),
}


def parse_faults(text: str) -> frozenset[Fault]:
    """Return the faults in ``text``: ``all``, ``none``, or names separated by commas.

    Raises ``ValueError`` that quotes an unknown name and lists those that exist.
    """
    if text in {"all", "none"}:
        return frozenset(Fault if text == "all" else ())
    names = [name.strip() for name in text.split(",")]
    for name in names:
        if name not in set(Fault):
            raise ValueError(
                f"no fault is called {name!r}: choose from {', '.join(Fault)}, or say all or none"
            )
    return frozenset(map(Fault, names))


def legend(faults: AbstractSet[Fault]) -> str:
    """Return a line per chosen fault: its name, the functions to look for, and their mistake."""
    chosen = [
        (fault, ", ".join(SYMPTOMS[fault].functions), SYMPTOMS[fault].wrong)
        for fault in Fault
        if fault in faults
    ]
    return (
        "\n".join(f"  {fault:<8}  {functions:<27}  {wrong}" for fault, functions, wrong in chosen)
        or "  none"
    )
