"""Values at which a panel changes its colour: the same as those at which the alerts fire."""

from __future__ import annotations

from grafana_foundation_sdk.models.dashboard import Threshold

GREEN, YELLOW, ORANGE, RED = "green", "yellow", "orange", "red"

#: What series are drawn in if it means something: time in which nothing happens is quiet, the
#: program's own work is blue, and what should not be stands out.
QUIET, WORK, SUSPICIOUS, ALARMING = "rgba(128, 128, 128, 0.3)", "blue", "orange", "red"

#: Share of wall time that blocking segments may take: what is left of the objective of 99.9 %.
BLOCKED_BUDGET = 0.001
BLOCKED_TICKET = 1 * BLOCKED_BUDGET
BLOCKED_PAGE_SLOW = 6 * BLOCKED_BUDGET
BLOCKED_PAGE_FAST = 14.4 * BLOCKED_BUDGET

#: Share of the requests of a type that may miss its objective: what is left of 99 %.
MISSED_BUDGET = 0.01
#: Burn rates of that budget at which the ticket and the two pages fire.
BURN_TICKET, BURN_PAGE_SLOW, BURN_PAGE_FAST = 1, 6, 14.4

#: Active share of a loop above which it is saturated.
SATURATED = 0.9

#: Share of wall time that a loop's thread may wait for a CPU.
STARVED_BY_SCHEDULER = 0.1

#: Share of the time of all loops above which a single yield point is hot.
HOT = 0.5

#: Share of a coroutine's tasks that may fail.
FAILING = 0.05

#: Seconds without a heartbeat after which a loop counts as hung.
HUNG_SECONDS = 15

#: Duration in seconds from which on a segment blocks the loop.
BLOCKING_SECONDS = 0.1

#: A suspension is stuck at this age, if it is also this many times as old as the mean wait at its
#: yield point.
STUCK_SECONDS = 300
STUCK_TIMES_MEAN = 20

#: Excludes waits for work to arrive, which are never stuck.
PATIENT = 'awaits!~".*(Queue\\\\.get| \\\\(patient\\\\))|(asyncio|anyio)\\\\.sleep.*"'


def steps(*limits: tuple[float, str]) -> list[Threshold]:
    """Return the steps of a panel's thresholds: green, then each colour from its limit on."""
    return [
        Threshold(value=None, color=GREEN),
        *(Threshold(value=value, color=color) for value, color in limits),
    ]


BLOCKED = steps((BLOCKED_TICKET, YELLOW), (BLOCKED_PAGE_SLOW, ORANGE), (BLOCKED_PAGE_FAST, RED))
BURN = steps((BURN_TICKET, YELLOW), (BURN_PAGE_SLOW, ORANGE), (BURN_PAGE_FAST, RED))
MISSED = steps(
    (BURN_TICKET * MISSED_BUDGET, YELLOW),
    (BURN_PAGE_SLOW * MISSED_BUDGET, ORANGE),
    (BURN_PAGE_FAST * MISSED_BUDGET, RED),
)
FAILED = steps((FAILING, RED))
HOTSPOT = steps((HOT, RED))
RUN_QUEUE = steps((STARVED_BY_SCHEDULER, RED))
BUSY = steps((SATURATED, RED))
SILENT = steps((HUNG_SECONDS, RED))
SLOW = steps((BLOCKING_SECONDS, RED))
STUCK = steps((STUCK_SECONDS, RED))
STUCK_SCORE = steps((1, RED))
ANY = steps((1e-9, YELLOW))
NONE = steps()
