"""Everything about one coroutine: how its tasks end, where they run, where they wait."""

from __future__ import annotations

from grafana_foundation_sdk.builders.dashboard import Dashboard

from grafana.boards.hotspots import FAILED, OLDEST, OLDEST_AGE, at_points, ended
from grafana.parts import thresholds
from grafana.parts.frame import add_row, frame
from grafana.parts.panels import (
    Column,
    PanelBuilder,
    big_number,
    heat,
    instance_link,
    lines,
    ranking,
)
from grafana.parts.queries import (
    COROUTINE,
    POINT,
    buckets,
    everywhere,
    everywhere_now,
    gained,
    mean,
    quantile,
    rate,
    select,
    top,
    total,
)

SEGMENTS = "asyncio_segment_seconds"
WAITS = "asyncio_wait_seconds"
WALL = "asyncio_task_wall_seconds"
ACTIVE = "asyncio_task_active_seconds"


def coroutine() -> Dashboard:
    """The drill-down that the names in the other dashboards link to."""
    board = frame(
        "aiometrics-coroutine",
        "asyncio / Coroutine",
        "One coroutine from all sides. Pick it above, or click its name in another dashboard. Quantiles by yield point read each bucket "
        "of every chosen instance: with hundreds of them, pick some.",
    )
    add_row(board, "How is it doing?", summary())
    add_row(board, "Does it run, or does it wait?", balance())
    add_row(board, "Which of its yield points is the problem?", points())
    add_row(board, "What happens to its tasks?", tasks())
    return board


def summary() -> list[PanelBuilder]:
    """Six numbers."""
    return [
        big_number(
            "How many tasks start?",
            "Tasks created per second. Compare with what the service is asked for.",
            everywhere("job_coroutine", "asyncio_tasks_created_total", COROUTINE),
            unit="cps",
        ),
        big_number(
            "How many are alive?",
            "Live tasks now. Rising at a steady rate of creation means a leak or a slower wait.",
            everywhere_now("job_coroutine", "asyncio_tasks", COROUTINE),
            unit="short",
        ),
        big_number(
            "How much of a loop does it take?",
            "Its segments' share of one loop; over half of a loop it limits everybody else.",
            at_points(f"{SEGMENTS}_sum", by=""),
            unit="percentunit",
            limits=thresholds.HOTSPOT,
            decimals=1,
        ),
        big_number(
            "How long does a task take?",
            "Mean wall time, creation to end, of the tasks that ended. If only this rises and not the loop time, it waits longer.",
            mean(WALL, COROUTINE),
            unit="s",
        ),
        big_number(
            "How many fail?",
            "Share of its tasks that ended in an exception.",
            f"{ended(FAILED)} / {ended(COROUTINE)}",
            unit="percentunit",
            limits=thresholds.FAILED,
            decimals=1,
        ),
        big_number(
            "How old is its oldest await?",
            "Age of its longest suspension that still lasts, queues' get left out.",
            OLDEST_AGE,
            unit="s",
            limits=thresholds.STUCK,
        ),
    ]


def balance() -> list[PanelBuilder]:
    """Active against waiting time."""
    return [
        lines(
            "Are its tasks running or waiting?",
            "Mean number of its tasks that run or wait at a time. Running near 1 saturates a loop; waiting that grows is somebody else's "
            "slowness.",
            {
                "running": at_points(f"{SEGMENTS}_sum", by=""),
                "waiting": total(rate(f"{WAITS}_sum", COROUTINE)),
            },
            unit="short",
            stacked=True,
        ),
        lines(
            "What does one task cost?",
            "Mean wall time and mean loop time of a task that ended. The gap between the two is waiting.",
            {"wall": mean(WALL, COROUTINE), "loop time": mean(ACTIVE, COROUTINE)},
            unit="s",
        ),
        heat(
            "How long do its tasks take?",
            "Tasks by wall time. Two bands are two kinds of work; a band that climbs is a slower wait. The dots are exemplars.",
            buckets(WALL, COROUTINE),
        ),
        heat(
            "How much loop time does a task take?",
            "Tasks by their loop time in all. Everything above 100 ms starves others, even when it is cut into small segments.",
            buckets(ACTIVE, COROUTINE),
        ),
    ]


def points() -> list[PanelBuilder]:
    """Its yield points."""
    active = at_points(f"{SEGMENTS}_sum")
    count = at_points(f"{SEGMENTS}_count")
    waiting = at_points(f"{WAITS}_sum")
    waits = at_points(f"{WAITS}_count")
    chosen = top(f"{active} + {waiting}")
    return [
        ranking(
            "Where does it run, and where does it wait?",
            "One row for each yield point, the one that takes most of the loop first. Active: share of one loop that ran up to here. "
            "Waiting: mean number of tasks suspended here. Wait and segment are means.",
            {"yield_point": "Yield point", "awaits": "Awaits", "coroutine": "Coroutine"},
            [
                Column("Active %", f"{active} and {chosen}", thresholds.HOTSPOT, bar=True),
                Column("Waiting", f"{waiting} and {chosen}", bar=True),
                Column("Segments/s", f"{count} and {chosen}"),
                Column("Segment ms", f"{active} / ({count} > 0) and {chosen}", thresholds.SLOW),
                Column("Wait ms", f"{waiting} / ({waits} > 0) and {chosen}"),
                Column(
                    "Blocked %",
                    f"{at_points('asyncio_blocking_seconds_total')} and {chosen}",
                    thresholds.BLOCKED,
                ),
                Column(
                    "Suspended",
                    f"{everywhere_now('job_yield_point', 'asyncio_suspended_tasks', COROUTINE, POINT)} and {chosen}",
                ),
            ],
        ),
        lines(
            "Which segment got longer?",
            "99 of 100 segments that end at this yield point were shorter. Over 100 ms it blocks the loop.",
            {"{{yield_point}}": top(quantile(0.99, SEGMENTS, COROUTINE, "yield_point"))},
            unit="s",
            limits=thresholds.SLOW,
            exemplars=True,
        ),
        lines(
            "Which wait got longer?",
            "99 of 100 waits here were shorter. A wait that grows alone points at what is awaited; all growing together, at the loop.",
            {
                "{{yield_point}} ← {{awaits}}": top(
                    quantile(0.99, WAITS, COROUTINE, "yield_point, awaits")
                )
            },
            unit="s",
            exemplars=True,
        ),
    ]


def tasks() -> list[PanelBuilder]:
    """How tasks end, and how many live."""
    place = "instance, yield_point, awaits"
    age = top(f"time() - min by ({place}) ({OLDEST} > 0)")
    return [
        lines(
            "How do its tasks end?",
            "Tasks per second by outcome. Cancelled tasks that come with slow waits are timeouts.",
            {"{{status}}": ended(COROUTINE, "status")},
            unit="cps",
            stacked=True,
        ),
        lines(
            "On which instance do its tasks pile up?",
            "Live tasks by instance. One line that leaves the others is one stuck process; all together is the load or a leak.",
            {"{{instance}}": top(total(select("asyncio_tasks", COROUTINE), "instance"))},
            unit="short",
        ),
        ranking(
            "Since when do its oldest awaits last?",
            "Its oldest suspensions that still last, by instance, queues' get left out.",
            {"yield_point": "Yield point", "awaits": "Awaits", "instance": "Instance"},
            [Column("Age s", age, thresholds.STUCK, bar=True)],
            links=[instance_link("__data.fields.Instance")],
            height=8,
            span=12,
        ),
        ranking(
            "Do its tasks vanish?",
            "Tasks that were garbage-collected before they were done, in the chosen time range: nobody kept a reference. Always a bug.",
            {"instance": "Instance"},
            [
                Column(
                    "Vanished",
                    top(
                        total(
                            gained("asyncio_tasks_destroyed_pending_total", COROUTINE), "instance"
                        )
                    ),
                    thresholds.ANY,
                )
            ],
            height=8,
            span=12,
        ),
    ]
