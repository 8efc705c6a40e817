"""Everything about one coroutine: how its tasks end, where they run, where they wait."""

from __future__ import annotations

from grafana_foundation_sdk.builders.dashboard import Dashboard

from grafana.boards.hotspots import (
    FAILED,
    OLDEST,
    OLDEST_AGE,
    at_points,
    ended,
    suspended_at_points,
)
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
    buckets,
    everywhere,
    everywhere_now,
    gained,
    mean,
    named_briefly,
    of_all_loops,
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
    """Return the dashboard that coroutine names in the other dashboards link to."""
    board = frame(
        "aiometrics-coroutine",
        "asyncio / Coroutine",
        "Everything about one coroutine. Select it above, or click its name in another dashboard. "
        "Quantiles by yield point read every bucket of every selected instance: if there are "
        "hundreds of instances, select a few.",
    )
    add_row(board, "How is it doing?", summary())
    add_row(board, "Does it run, or does it wait?", balance())
    add_row(board, "Which of its yield points is the problem?", points())
    add_row(board, "What happens to its tasks?", tasks())
    return board


def summary() -> list[PanelBuilder]:
    """Return six numbers about the coroutine's tasks."""
    return [
        big_number(
            "How many tasks start?",
            "Tasks created per second. Compare it with the rate of requests.",
            everywhere("job_coroutine", "asyncio_tasks_created_total", COROUTINE),
            unit="cps",
        ),
        big_number(
            "How many of its tasks are alive?",
            "Live tasks now. If it rises at a steady rate of creation, tasks leak or wait longer.",
            everywhere_now("job_coroutine", "asyncio_tasks", COROUTINE),
            unit="short",
        ),
        big_number(
            "How much of a loop's time does it take?",
            "Share of the time of all loops that its segments take. Over 50 % it slows down "
            "everything else.",
            of_all_loops(at_points(f"{SEGMENTS}_sum", by="")),
            unit="percentunit",
            limits=thresholds.HOTSPOT,
            decimals=1,
        ),
        big_number(
            "How long does a task take?",
            "Mean wall time, from creation to end, of the tasks that ended. If this rises and the "
            "loop time does not, the tasks wait longer.",
            mean(WALL, COROUTINE),
            unit="s",
        ),
        big_number(
            "How many of its tasks fail?",
            "Share of its tasks that ended in an exception.",
            f"{ended(FAILED)} / {ended(COROUTINE)}",
            unit="percentunit",
            limits=thresholds.FAILED,
            decimals=1,
        ),
        big_number(
            "How old is its oldest await?",
            "Age of its oldest suspension that has not ended, without those that wait on purpose.",
            OLDEST_AGE,
            unit="s",
            limits=thresholds.STUCK,
        ),
    ]


def balance() -> list[PanelBuilder]:
    """Return the panels that compare active time with waiting time."""
    return [
        lines(
            "Are its tasks running or waiting?",
            "Mean number of its tasks that run or wait at a time. Running near the number of "
            "loops saturates them; if waiting grows, something that the tasks await got slower.",
            {
                "running": at_points(f"{SEGMENTS}_sum", by=""),
                "waiting": total(rate(f"{WAITS}_sum", COROUTINE)),
            },
            unit="short",
            stacked=True,
            colours={"running": thresholds.WORK, "waiting": thresholds.QUIET},
        ),
        lines(
            "What does one task cost?",
            "Mean wall time and mean loop time of a task that ended. The gap between the two is "
            "waiting.",
            {"wall": mean(WALL, COROUTINE), "loop time": mean(ACTIVE, COROUTINE)},
            unit="s",
        ),
        heat(
            "How long do its tasks take?",
            "Tasks by wall time. Two bands are two kinds of work; a band that climbs is a wait "
            "that got slower. The dots are exemplars.",
            buckets(WALL, COROUTINE),
        ),
        heat(
            "How much loop time does a task take?",
            "Tasks by their total loop time. Everything above 100 ms starves other tasks, even if "
            "it is split into short segments.",
            buckets(ACTIVE, COROUTINE),
        ),
    ]


def points() -> list[PanelBuilder]:
    """Return the panels about the coroutine's yield points."""
    active = at_points(f"{SEGMENTS}_sum")
    count = at_points(f"{SEGMENTS}_count")
    waiting = at_points(f"{WAITS}_sum")
    waits = at_points(f"{WAITS}_count")
    worst = top(f"{active} + {waiting}")
    return [
        ranking(
            "Where does it run, and where does it wait?",
            "One row for each yield point, starting with the one that takes the most loop time. "
            "Active: share of the time of all loops that ran up to this point. Waiting: mean "
            "number of tasks suspended here. Wait and segment are means.",
            {"yield_point": "Yield point", "awaits": "Awaits", "coroutine": "Coroutine"},
            [
                Column(
                    "Active %",
                    of_all_loops(f"({active} and {worst})"),
                    thresholds.HOTSPOT,
                    bar=True,
                ),
                Column("Waiting", f"{waiting} and {worst}", bar=True),
                Column("Segments/s", f"{count} and {worst}"),
                Column("Segment ms", f"{active} / ({count} > 0) and {worst}", thresholds.SLOW),
                Column("Wait ms", f"{waiting} / ({waits} > 0) and {worst}"),
                Column(
                    "Blocked %",
                    of_all_loops(f"({at_points('asyncio_blocking_seconds_total')} and {worst})"),
                    thresholds.BLOCKED,
                ),
                Column(
                    "Suspended",
                    f"{suspended_at_points()} and {worst}",
                ),
            ],
        ),
        lines(
            "Which segment got longer?",
            "99 of 100 segments that end at this yield point were shorter. Over 100 ms it blocks "
            "the loop.",
            {"{{at}}": named_briefly(top(quantile(0.99, SEGMENTS, COROUTINE, "yield_point")))},
            unit="s",
            limits=thresholds.SLOW,
            exemplars=True,
        ),
        lines(
            "Which wait got longer?",
            "99 of 100 waits here were shorter. If one wait grows alone, what it awaits got "
            "slower; if all grow together, the loop did.",
            {
                "{{at}} ← {{awaits}}": named_briefly(
                    top(quantile(0.99, WAITS, COROUTINE, "yield_point, awaits"))
                )
            },
            unit="s",
            exemplars=True,
        ),
    ]


def tasks() -> list[PanelBuilder]:
    """Return the panels about how tasks end, pile up and get stuck."""
    place = "instance, yield_point, awaits"
    age = top(f"time() - min by ({place}) ({OLDEST} > 0)")
    return [
        lines(
            "How do its tasks end?",
            "Tasks per second by outcome. Cancelled tasks that come with slow waits are timeouts.",
            {"{{status}}": ended(COROUTINE, "status")},
            unit="cps",
            stacked=True,
            colours={
                "completed": thresholds.QUIET,
                "cancelled": thresholds.SUSPICIOUS,
                "failed": thresholds.ALARMING,
            },
        ),
        lines(
            "On which instance do its tasks pile up?",
            "Live tasks by instance. If one line rises above the others, that process is stuck; "
            "if all rise together, it is the load or a leak.",
            {"{{instance}}": top(total(select("asyncio_tasks", COROUTINE), "instance"))},
            unit="short",
        ),
        ranking(
            "How long have its oldest awaits lasted?",
            "Its oldest suspensions that have not ended, by instance, without those that wait on "
            "purpose.",
            {"yield_point": "Yield point", "awaits": "Awaits", "instance": "Instance"},
            [Column("Age s", age, thresholds.STUCK, bar=True)],
            links=[instance_link("__data.fields.Instance")],
            height=8,
            span=12,
        ),
        ranking(
            "Are its tasks destroyed while pending?",
            "Tasks in the selected time range that were garbage-collected before they were done, "
            "because nothing kept a reference to them. Always a bug.",
            {"instance": "Instance"},
            [
                Column(
                    "Destroyed",
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
