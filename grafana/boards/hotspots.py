"""The dashboard that an on-call engineer opens: from "the service is slow" to the guilty line on one screen."""

from __future__ import annotations

from grafana_foundation_sdk.builders.dashboard import Dashboard

from grafana.boards.requests import requests
from grafana.parts import thresholds
from grafana.parts.frame import add_row, frame
from grafana.parts.panels import Column, PanelBuilder, big_number, drill_down, heat, lines, ranking
from grafana.parts.queries import (
    CHOSEN,
    COROUTINE,
    JOB,
    LOOP,
    POINT,
    buckets,
    everywhere,
    everywhere_now,
    gained,
    leading,
    quantile,
    rate,
    select,
    top,
    total,
)

POINT_HEADINGS = {"yield_point": "Yield point", "awaits": "Awaits", "coroutine": "Coroutine"}
TO_COROUTINE = drill_down("__data.fields.Coroutine")

SEGMENTS = "asyncio_segment_seconds"
WAITS = "asyncio_wait_seconds"
ACTIVE = 'asyncio_loop_time_seconds_total{state="active",' + LOOP + "}[$__rate_interval]"
ENDED = "asyncio_task_wall_seconds_count"
FAILED = f'status="failed",{COROUTINE}'
CANCELLED = f'status="cancelled",{COROUTINE}'
OLDEST_RECORDED = select(
    "job_yield_point:asyncio_oldest_suspension_timestamp_seconds:min",
    f"{thresholds.PATIENT},{COROUTINE}",
)
OLDEST = select("asyncio_oldest_suspension_timestamp_seconds", f"{thresholds.PATIENT},{COROUTINE}")
OLDEST_OF_CHOSEN = select(
    "asyncio_oldest_suspension_timestamp_seconds", f"{thresholds.PATIENT},{COROUTINE},{CHOSEN}"
)
OLDEST_AGE = f"time() - (min({OLDEST_RECORDED}) or min({OLDEST_OF_CHOSEN} > 0))"


def hotspots() -> Dashboard:
    """Health, starvation, who burns the loop, who waits, what is stuck, which requests are slow."""
    board = frame(
        "aiometrics-hotspots",
        "asyncio / Hotspots",
        "Which line starves the event loop, where tasks wait, what is stuck, and which requests pay for it. Read it from top to bottom. "
        "Over all instances, yield points, coroutines and requests are shown by what the recording rules recorded over 5 minutes; pick "
        "instances for their own rates.",
    )
    add_row(board, "Is anything wrong?", health())
    add_row(board, "Is the loop starved?", starvation())
    add_row(board, "Who burns the loop?", burners())
    add_row(board, "Who waits, and for what?", waiters())
    add_row(board, "What is stuck or leaking?", stuck())
    add_row(board, "Which requests are slow, and why?", requests())
    return board


def health() -> list[PanelBuilder]:
    """The six numbers that tell whether to read on."""
    return [
        big_number(
            "How busy is the busiest loop?",
            "Share of its time that the busiest chosen event loop was running code instead of waiting in its selector. If this rises to 90 "
            "%, a newly ready handle queues nine times as long as it runs: see who burns the loop.",
            f"max(rate({ACTIVE}))",
            unit="percentunit",
            limits=thresholds.BUSY,
            decimals=1,
        ),
        big_number(
            "How much of the time is a loop blocked?",
            "Share of wall time that the worst chosen loop spent inside segments over the blocking threshold. The objective is 99.9 % "
            "responsive, so 0.1 % is the whole budget; the colours change at one, 6 and 14.4 times of it, like the alerts.",
            f"max({rate('asyncio_loop_blocking_seconds_total', LOOP)})",
            unit="percentunit",
            limits=thresholds.BLOCKED,
            decimals=2,
        ),
        big_number(
            "How late do tasks start?",
            "99 of 100 tasks first ran within this time after their creation. If this rises, everything that becomes ready waits.",
            quantile(0.99, "asyncio_loop_start_delay_seconds", LOOP),
            unit="s",
            limits=thresholds.SLOW,
        ),
        big_number(
            "How old is the oldest await?",
            "Age of the longest suspension that still lasts, queues' get left out. Over 300 s, look at the stuck table below: an await is "
            "stuck only if it also lasts 20 times its own mean.",
            OLDEST_AGE,
            unit="s",
            limits=thresholds.STUCK,
        ),
        big_number(
            "How many tasks are alive?",
            "Live tasks of the chosen instances. If this only ever rises, tasks leak: the last row names their coroutine.",
            everywhere_now("job_coroutine", "asyncio_tasks", COROUTINE),
            unit="short",
        ),
        big_number(
            "How many tasks fail?",
            "Share of the tasks that ended in an exception, of all that ended. The last row names their coroutine.",
            f"{ended(FAILED)} / {ended(COROUTINE)}",
            unit="percentunit",
            limits=thresholds.FAILED,
            decimals=1,
        ),
    ]


def thread_states() -> dict[str, str]:
    """Shares of a loop thread's time, which add up to 1; the run queue is known on Linux only."""
    active = f"avg(rate({ACTIVE}))"
    cpu = f"avg({rate('asyncio_loop_thread_cpu_seconds_total', LOOP)})"
    in_line = f"(avg({rate('asyncio_loop_thread_runqueue_seconds_total', LOOP)}) or vector(0))"
    return {
        "on a CPU": cpu,
        "in line for a CPU": in_line,
        "in a system call, or waiting for the GIL": f"clamp_min({active} - {cpu} - {in_line}, 0)",
        "idle": f"clamp_min(1 - {active}, 0)",
    }


def starvation() -> list[PanelBuilder]:
    """The loop's time, turns and delays."""
    return [
        lines(
            "Where does the loop's thread spend its time?",
            "The mean chosen loop. Much 'on a CPU': your code computes, see the next row. Much 'in line for a CPU': the machine is too "
            "small. Much 'system call or GIL': blocking calls, or other threads hold the interpreter. A healthy loop is mostly idle.",
            thread_states(),
            unit="percentunit",
            stacked=True,
            maximum=1,
        ),
        heat(
            "How long does one turn of the loop take?",
            "Turns by how long they ran. Whatever becomes ready during a turn waits for its end, so cells above 100 ms are stalls that "
            "everybody felt. The dots are exemplars.",
            buckets("asyncio_loop_iteration_seconds", LOOP),
        ),
        lines(
            "How long does work that is ready wait for the loop?",
            "Start delay: creation of a task to its first step. Turn: how long one round of the loop ran. If the delay rises with the "
            "turns, single steps are too long; if it rises alone, too many handles are ready at once.",
            {
                "start delay p50": quantile(0.5, "asyncio_loop_start_delay_seconds", LOOP),
                "start delay p99": quantile(0.99, "asyncio_loop_start_delay_seconds", LOOP),
                "turn p99": quantile(0.99, "asyncio_loop_iteration_seconds", LOOP),
            },
            unit="s",
            limits=thresholds.SLOW,
            exemplars=True,
        ),
        lines(
            "How many handles stand in line?",
            "Callbacks that were ready when the loop was last looked at, the longest lines first. A line that stays is overload, not a "
            "stall.",
            {"{{instance}} {{loop}}": leading("asyncio_loop_ready_handles", LOOP)},
            unit="short",
        ),
    ]


def at_points(
    metric: str, selector: str = COROUTINE, by: str = POINT, *, whole: bool = False
) -> str:
    """What yield points gain per second."""
    return everywhere("job_yield_point", metric, selector, by, whole=whole)


def harm() -> list[Column]:
    """What a yield point takes from the loop, for the points that do most harm."""
    active = at_points(f"{SEGMENTS}_sum")
    count = at_points(f"{SEGMENTS}_count")
    blocking = at_points("asyncio_blocking_seconds_total")
    inflicted = at_points("asyncio_inflicted_wait_seconds_total")
    worst = top(f"{active} + {inflicted}")
    return [
        Column("Harm %", worst, bar=True),
        Column("Active %", f"{active} and {worst}", thresholds.HOTSPOT, bar=True),
        Column("Blocked %", f"{blocking} and {worst}", thresholds.BLOCKED),
        Column("Short segments %", f"clamp_min({active} - {blocking}, 0) and {worst}"),
        Column("Inflicted wait %", f"{inflicted} and {worst}"),
        Column("Segments/s", f"{count} and {worst}", thresholds.NONE, bar=True),
        Column("Mean segment ms", f"{active} / ({count} > 0) and {worst}", thresholds.SLOW),
    ]


def burners() -> list[PanelBuilder]:
    """Which yield points take the loop's time."""
    place = "coroutine, yield_point"
    active = at_points(f"{SEGMENTS}_sum", by=place)
    count = at_points(f"{SEGMENTS}_count", by=place)
    burners_of_the_range = top(at_points(f"{SEGMENTS}_sum", by=place, whole=True))
    busiest = top(count)
    return [
        ranking(
            "Which yield points do most harm?",
            "The worst row is the first. Harm = loop time taken here, plus the waits it inflicted on handles that stood in line behind "
            "its blocking segments; 100 % is one second a second. Active: share of one loop. Blocked: the part of it in segments over the "
            "threshold; short segments: the rest, which no alert on blocking sees. (running) is a segment in progress, (return) is code "
            "after the last await. The code to look at is what runs before the yield point.",
            POINT_HEADINGS,
            harm(),
            links=[TO_COROUTINE],
            height=12,
        ),
        lines(
            "Who burns the loop, over time?",
            "Loop time by yield point, a share of one loop. A band that widens when the service slows down is the culprit.",
            {"{{yield_point}} · {{coroutine}}": f"{active} and {burners_of_the_range}"},
            unit="percentunit",
            stacked=True,
            link=drill_down("__field.labels.coroutine"),
            legend_on_the_right=True,
            span=24,
        ),
        ranking(
            "Which very line held the loop?",
            "The watchdog looks at a loop that blocks and notes the innermost line of the application, and what it called. Samples in the "
            "chosen time range: the more, the longer the loop stood there.",
            {"blocked_at": "Blocked at"},
            [
                Column(
                    "Samples",
                    top(total(gained("asyncio_block_samples_total", LOOP), "blocked_at")),
                    bar=True,
                )
            ],
            height=12,
            span=12,
        ),
        ranking(
            "Who gives the loop back too often?",
            "Yield points by segments per second. Thousands of segments of a few microseconds cost more in turns of the loop than in work: "
            "do more between two awaits, or await once for many.",
            {"yield_point": "Yield point", "coroutine": "Coroutine"},
            [
                Column("Segments/s", busiest, thresholds.NONE, bar=True),
                Column(
                    "Mean segment ms", f"{active} / ({count} > 0) and {busiest}", thresholds.SLOW
                ),
                Column("Active %", f"{active} and {busiest}", thresholds.HOTSPOT),
            ],
            links=[TO_COROUTINE],
            height=12,
            span=12,
        ),
    ]


def waiters() -> list[PanelBuilder]:
    """Where tasks are suspended."""
    place = "coroutine, yield_point"
    no_task = f'awaits!="Task",{COROUTINE}'
    mean_wait, mean_of_the_range = (
        f"{at_points(f'{WAITS}_sum', no_task, whole=whole)} / ({at_points(f'{WAITS}_count', no_task, whole=whole)} > 0)"
        for whole in (False, True)
    )
    parked, parked_in_the_range = (
        everywhere_now("job_yield_point", "asyncio_suspended_tasks", COROUTINE, place, whole=whole)
        for whole in (False, True)
    )
    return [
        lines(
            "Where is a wait longest?",
            "Mean time from a suspension to its resumption; waits for other tasks left out, since those tasks are here themselves. If this "
            "rises at one place and active time does not, what it awaits got slower.",
            {
                "{{yield_point}} ← {{awaits}} · {{coroutine}}": f"{mean_wait} and {top(mean_of_the_range)}"
            },
            unit="s",
            link=drill_down("__field.labels.coroutine"),
            legend_on_the_right=True,
            span=24,
        ),
        lines(
            "Where are tasks parked?",
            "Tasks that are suspended there now. A rising line is a queue in front of whatever is awaited, or a leak.",
            {"{{yield_point}} · {{coroutine}}": f"{parked} and {top(parked_in_the_range)}"},
            unit="short",
            link=drill_down("__field.labels.coroutine"),
        ),
        lines(
            "What do tasks wait for?",
            "Mean number of tasks that wait, by what they await: a library, a lock, a sleep. If one band grows, look behind that call.",
            {"{{awaits}}": top(at_points(f"{WAITS}_sum", by="awaits"))},
            unit="short",
            stacked=True,
        ),
    ]


def stuck() -> list[PanelBuilder]:
    """Suspensions that last, tasks that pile up, fail or vanish."""
    age = f"(time() - (min by ({POINT}) ({OLDEST_RECORDED}) or min by ({POINT}) ({OLDEST_OF_CHOSEN} > 0)))"
    usual = f"({at_points(f'{WAITS}_sum')} / ({at_points(f'{WAITS}_count')} > 0))"
    worst = top(
        f"{age} / clamp_min({thresholds.STUCK_TIMES_MEAN} * {usual}, {thresholds.STUCK_SECONDS})"
    )
    tasks, tasks_in_the_range = (
        everywhere_now("job_coroutine", "asyncio_tasks", COROUTINE, "coroutine", whole=whole)
        for whole in (False, True)
    )
    return [
        ranking(
            "Which await is stuck?",
            f"Suspensions that still last, queues' get left out. 100 % is where the alert looks: {thresholds.STUCK_SECONDS} s old and "
            f"{thresholds.STUCK_TIMES_MEAN} times the mean wait of its own yield point. Where no wait ended of late there is no mean and "
            "no row; the oldest await above counts it, and the drill-down says on which instance it is.",
            POINT_HEADINGS,
            [
                Column("Stuck %", worst, thresholds.STUCK_SCORE, bar=True),
                Column("Age s", f"{age} and {worst}"),
                Column("Mean wait ms", f"{usual} and {worst}"),
                Column(
                    "Tasks",
                    f"{everywhere_now('job_yield_point', 'asyncio_suspended_tasks', COROUTINE, POINT)} and {worst}",
                ),
            ],
            links=[TO_COROUTINE],
        ),
        lines(
            "Which tasks pile up?",
            "Live tasks by coroutine. A line that rises while requests do not is a leak.",
            {"{{coroutine}}": f"{tasks} and {top(tasks_in_the_range)}"},
            unit="short",
            link=drill_down("__field.labels.coroutine"),
        ),
        ranking(
            "Which tasks fail, or vanish?",
            "Failed: tasks that ended in an exception. Cancelled: somebody stopped them. Vanished: garbage-collected before they were "
            "done, because nobody kept a reference; always a bug.",
            {"coroutine": "Coroutine"},
            [
                Column("Failed %", share_of_ended(FAILED), thresholds.FAILED, bar=True),
                Column("Cancelled %", share_of_ended(CANCELLED)),
                Column(
                    "Vanished",
                    top(total(gained("asyncio_tasks_destroyed_pending_total", JOB), "coroutine")),
                    thresholds.ANY,
                ),
            ],
            links=[TO_COROUTINE],
            height=9,
            span=12,
        ),
    ]


def ended(selector: str, by: str = "") -> str:
    """Tasks that end per second."""
    return everywhere("job_coroutine_status", ENDED, selector, by)


def share_of_ended(selector: str) -> str:
    """Share of the tasks of each coroutine that ended in the way that ``selector`` names."""
    return top(f"{ended(selector, 'coroutine')} / ({ended(COROUTINE, 'coroutine')} > 0)")
