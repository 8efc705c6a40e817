"""The dashboard for an on-call engineer: from "the service is slow" to the line that causes it."""

from __future__ import annotations

from grafana_foundation_sdk.builders.dashboard import Dashboard

from grafana.boards.requests import requests
from grafana.parts import thresholds
from grafana.parts.frame import add_row, frame
from grafana.parts.panels import Column, PanelBuilder, big_number, drill_down, heat, lines, ranking
from grafana.parts.queries import (
    COROUTINE,
    JOB,
    LOOP,
    POINT,
    SELECTED,
    buckets,
    everywhere,
    everywhere_now,
    gained,
    leading,
    named_briefly,
    of_all_loops,
    of_mean_loop,
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
OLDEST_OF_SELECTED = select(
    "asyncio_oldest_suspension_timestamp_seconds", f"{thresholds.PATIENT},{COROUTINE},{SELECTED}"
)
OLDEST_AGE = f"time() - (min({OLDEST_RECORDED}) or min({OLDEST_OF_SELECTED} > 0))"


def hotspots() -> Dashboard:
    """Return the dashboard: from a first check down to yield points, stuck tasks and requests."""
    board = frame(
        "aiometrics-hotspots",
        "asyncio / Hotspots",
        "Which line starves the event loop, where tasks wait, what is stuck, and which requests "
        "suffer. Read it from top to bottom. As long as all instances are selected, yield points, "
        "coroutines and requests show 5-minute rates from the recording rules; select instances "
        "to see their own rates.",
    )
    add_row(board, "Is anything wrong?", health())
    add_row(board, "Is the loop starved?", starvation())
    add_row(board, "Which code takes the loop's time?", burners())
    add_row(board, "Where do tasks wait, and for what?", waiters())
    add_row(board, "What is stuck or leaking?", stuck())
    add_row(board, "Which requests are slow, and why?", requests())
    return board


def health() -> list[PanelBuilder]:
    """Return six numbers that show whether anything is wrong."""
    return [
        big_number(
            "How busy is the busiest loop?",
            "Share of its time that the busiest selected event loop spent running code instead of "
            "waiting in its selector. At 90 %, a newly ready handle waits nine times as long as it "
            "runs: see which code takes the loop's time.",
            f"max(rate({ACTIVE}))",
            unit="percentunit",
            limits=thresholds.BUSY,
            decimals=1,
        ),
        big_number(
            "How much of the time is a loop blocked?",
            "Share of wall time that the worst selected loop spent inside segments over the "
            "blocking threshold. The objective is to be responsive 99.9 % of the time, so the "
            "whole budget is 0.1 %; the colours change at 1, 6 and 14.4 times the budget, like "
            "the alerts.",
            f"max({rate('asyncio_loop_blocking_seconds_total', LOOP)})",
            unit="percentunit",
            limits=thresholds.BLOCKED,
            decimals=2,
        ),
        big_number(
            "How late do tasks start?",
            "99 of 100 tasks first ran within this time after their creation. If it rises, "
            "everything that becomes ready has to wait.",
            quantile(0.99, "asyncio_loop_start_delay_seconds", LOOP),
            unit="s",
            limits=thresholds.SLOW,
        ),
        big_number(
            "How old is the oldest await?",
            "Age of the oldest suspension that has not ended, without those that wait on purpose: "
            "in a sleep, for a queue, or where the option patient says so. If it is over 300 s, "
            "look at the table of stuck awaits below: an await is stuck only if it has also lasted "
            "20 times the mean wait at its yield point.",
            OLDEST_AGE,
            unit="s",
            limits=thresholds.STUCK,
        ),
        big_number(
            "How many tasks are alive?",
            "Live tasks of the selected instances. If the number only ever rises, tasks leak: the "
            "row about stuck and leaking tasks names their coroutine.",
            everywhere_now("job_coroutine", "asyncio_tasks", COROUTINE),
            unit="short",
        ),
        big_number(
            "How many tasks fail?",
            "Share of ended tasks that ended in an exception. The row about stuck and leaking "
            "tasks names their coroutine.",
            f"{ended(FAILED)} / {ended(COROUTINE)}",
            unit="percentunit",
            limits=thresholds.FAILED,
            decimals=1,
        ),
    ]


#: What a loop's thread does, in the order of the stack.
STATES = {
    "on a CPU": thresholds.WORK,
    "in a system call, or waiting for the GIL": thresholds.SUSPICIOUS,
    "waiting for a CPU": thresholds.ALARMING,
    "idle": thresholds.QUIET,
}


def thread_states() -> dict[str, str]:
    """Return the shares of a loop thread's time by state, which add up to 1.

    The time in the run queue is known on Linux only.
    """
    active = of_mean_loop(f"rate({ACTIVE})")
    cpu = of_mean_loop(rate("asyncio_loop_thread_cpu_seconds_total", LOOP))
    queued = of_mean_loop(rate("asyncio_loop_thread_runqueue_seconds_total", LOOP))
    in_run_queue = f"({queued} or vector(0))"
    elsewhere = f"clamp_min({active} - {cpu} - {in_run_queue}, 0)"
    rest = f"clamp_min(1 - {cpu} - {in_run_queue} - {elsewhere}, 0)"
    return dict(zip(STATES, (cpu, elsewhere, in_run_queue, rest), strict=True))


def starvation() -> list[PanelBuilder]:
    """Return the panels about the loop's time, its turns and its delays."""
    return [
        lines(
            "Where does the loop's thread spend its time?",
            "The mean of the selected loops that run. Much 'on a CPU': your code computes, see the "
            "next row. Much 'waiting for a CPU': the machine is too small. Much 'in a system call, "
            "or waiting for the GIL': there are blocking calls, or other threads hold the "
            "interpreter. A healthy loop is mostly idle.",
            thread_states(),
            unit="percentunit",
            stacked=True,
            maximum=1,
            colours=STATES,
        ),
        heat(
            "How long does one turn of the loop take?",
            "Turns by duration. Whatever becomes ready during a turn waits until its end, so cells "
            "above 100 ms are stalls that delayed every task. The dots are exemplars.",
            buckets("asyncio_loop_iteration_seconds", LOOP),
        ),
        lines(
            "How long does ready work wait for the loop?",
            "Start delay: the time from the creation of a task to its first step. Turn: how long "
            "one turn of the loop ran. If the delay rises with the turns, single steps are too "
            "long; if it rises alone, too many handles are ready at once.",
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
            "How many handles are waiting to run?",
            "Callbacks that were ready at the last observation, for the loops that had the most. A "
            "number that stays high means overload, not a stall.",
            {"{{instance}} {{loop}}": leading("asyncio_loop_ready_handles", LOOP)},
            unit="short",
        ),
    ]


def at_points(
    metric: str, selector: str = COROUTINE, by: str = POINT, *, whole: bool = False
) -> str:
    """Return the query for what yield points gain of ``metric`` per second."""
    return everywhere("job_yield_point", metric, selector, by, whole=whole)


def suspended_at_points() -> str:
    """Return the query for the tasks that are suspended at each yield point."""
    return everywhere_now("job_yield_point", "asyncio_suspended_tasks", COROUTINE, POINT)


def harm() -> list[Column]:
    """Return the columns on what the most harmful yield points take from the loop."""
    active = at_points(f"{SEGMENTS}_sum")
    count = at_points(f"{SEGMENTS}_count")
    blocking = at_points("asyncio_blocking_seconds_total")
    inflicted = at_points("asyncio_inflicted_wait_seconds_total")
    worst = top(f"{active} + {inflicted}")
    return [
        Column("Harm %", of_all_loops(worst), bar=True),
        Column("Active %", of_all_loops(f"({active} and {worst})"), thresholds.HOTSPOT, bar=True),
        Column("Blocked %", of_all_loops(f"({blocking} and {worst})"), thresholds.BLOCKED),
        Column(
            "Short segments %",
            of_all_loops(f"(clamp_min({active} - {blocking}, 0) and {worst})"),
        ),
        Column("Inflicted wait %", of_all_loops(f"({inflicted} and {worst})")),
        Column("Segments/s", f"{count} and {worst}", thresholds.NONE, bar=True),
        Column("Mean segment ms", f"{active} / ({count} > 0) and {worst}", thresholds.SLOW),
    ]


def burners() -> list[PanelBuilder]:
    """Return the panels about the yield points that take the loop's time."""
    place = "coroutine, yield_point"
    active = at_points(f"{SEGMENTS}_sum", by=place)
    count = at_points(f"{SEGMENTS}_count", by=place)
    largest_in_range = top(at_points(f"{SEGMENTS}_sum", by=place, whole=True))
    busiest = top(count)
    held = everywhere(
        "job_held_at", "asyncio_active_sampled_seconds_total", COROUTINE, "coroutine, held_at"
    )
    return [
        ranking(
            "Which lines hold the loop?",
            "Samples of the loop's own time: the line that was executing, and what it called, in "
            "tasks of which coroutine. A call into C counts at its line. This is what to look at "
            "first: the yield points below say where the loop was given back. The coroutine "
            "(callback) stands for callbacks, and (loop) for what the loop does between them.",
            {"held_at": "Held at", "coroutine": "Coroutine"},
            [Column("Active %", of_all_loops(top(held)), thresholds.HOTSPOT, bar=True)],
            links=[TO_COROUTINE],
            height=12,
        ),
        ranking(
            "Which yield points do the most harm?",
            "The worst row comes first. Harm: the loop time taken here, plus the waits inflicted "
            "on handles that were ready behind its blocking segments; 100 % is one second per "
            "second in each of the loops. Active: share of the time of all loops. Blocked: the "
            "part of it in segments over the threshold. Short segments: the rest, which no alert "
            "on blocking sees. (running) is a segment in progress, (return) is the code after the "
            "last await. Look at the code that runs before the yield point.",
            POINT_HEADINGS,
            harm(),
            links=[TO_COROUTINE],
            height=12,
        ),
        lines(
            "Which yield points take the loop's time?",
            "Loop time by yield point, as a share of the time of all loops. A band that widens "
            "when the service slows down is the cause.",
            {
                "{{at}} · {{task}}": named_briefly(
                    of_all_loops(f"({active} and {largest_in_range})")
                ),
            },
            unit="percentunit",
            stacked=True,
            maximum=1,
            link=drill_down("__field.labels.coroutine"),
            legend_on_the_right=True,
            span=24,
        ),
        ranking(
            "Which line blocked the loop?",
            "When a loop is blocked, the watchdog samples its stack and records the innermost "
            "line of the application and what that line called. The number of samples in the "
            "selected time range shows how long the loop was blocked there.",
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
            "Which code yields too often?",
            "Yield points by segments per second. Thousands of segments of a few microseconds "
            "each cost more in turns of the loop than in work: do more between two awaits, or "
            "await once for many items.",
            {"yield_point": "Yield point", "coroutine": "Coroutine"},
            [
                Column("Segments/s", busiest, thresholds.NONE, bar=True),
                Column(
                    "Mean segment ms", f"{active} / ({count} > 0) and {busiest}", thresholds.SLOW
                ),
                Column("Active %", of_all_loops(f"({active} and {busiest})"), thresholds.HOTSPOT),
            ],
            links=[TO_COROUTINE],
            height=12,
            span=12,
        ),
    ]


def waiters() -> list[PanelBuilder]:
    """Return the panels about where tasks are suspended."""
    place = "coroutine, yield_point"
    no_task = f'awaits!="Task",{COROUTINE}'
    legend = "{{at}} ← {{awaits}} · {{task}}"
    mean_wait, mean_in_range = (
        f"{at_points(f'{WAITS}_sum', no_task, whole=whole)} / "
        f"({at_points(f'{WAITS}_count', no_task, whole=whole)} > 0)"
        for whole in (False, True)
    )
    suspended, suspended_in_range = (
        everywhere_now("job_yield_point", "asyncio_suspended_tasks", COROUTINE, place, whole=whole)
        for whole in (False, True)
    )
    return [
        lines(
            "Where do tasks wait longest?",
            "Mean time from a suspension to its resumption, without waits for other tasks, since "
            "those tasks are listed themselves. If it rises at one yield point and active time "
            "does not, what is awaited there got slower.",
            {legend: named_briefly(f"{mean_wait} and {top(mean_in_range)}")},
            unit="s",
            link=drill_down("__field.labels.coroutine"),
            legend_on_the_right=True,
            span=24,
        ),
        lines(
            "Where are tasks suspended?",
            "Tasks that are suspended at each yield point now. A rising line is a queue for "
            "whatever is awaited, or a leak.",
            {"{{at}} · {{task}}": named_briefly(f"{suspended} and {top(suspended_in_range)}")},
            unit="short",
            link=drill_down("__field.labels.coroutine"),
        ),
        lines(
            "What do tasks wait for?",
            "Mean number of waiting tasks, by what they await: a library, a lock, a sleep. If one "
            "band grows, examine what that call waits for.",
            {"{{awaits}}": top(at_points(f"{WAITS}_sum", by="awaits"))},
            unit="short",
            stacked=True,
        ),
    ]


def stuck() -> list[PanelBuilder]:
    """Return the panels about stuck awaits, and tasks that pile up, fail or are destroyed."""
    oldest = f"min by ({POINT}) ({OLDEST_RECORDED}) or min by ({POINT}) ({OLDEST_OF_SELECTED} > 0)"
    age = f"(time() - ({oldest}))"
    usual = f"({at_points(f'{WAITS}_sum')} / ({at_points(f'{WAITS}_count')} > 0))"
    worst = top(
        f"{age} / clamp_min({thresholds.STUCK_TIMES_MEAN} * {usual}, {thresholds.STUCK_SECONDS})"
    )
    tasks, tasks_in_range = (
        everywhere_now("job_coroutine", "asyncio_tasks", COROUTINE, "coroutine", whole=whole)
        for whole in (False, True)
    )
    return [
        ranking(
            "Which await is stuck?",
            "Suspensions that have not ended, without those that wait on purpose. At 100 % they "
            f"are {thresholds.STUCK_SECONDS} s old and {thresholds.STUCK_TIMES_MEAN} times the "
            "mean wait of the same yield point. The alert fires if they are also twice as old as "
            "the longest wait there, and such waits usually end. Where no wait has ended recently, "
            "there is no mean and "
            "no row; 'How old is the oldest await?' includes it, and the dashboard of the "
            "coroutine shows its instance.",
            POINT_HEADINGS,
            [
                Column("Stuck %", worst, thresholds.STUCK_SCORE, bar=True),
                Column("Age s", f"{age} and {worst}"),
                Column("Mean wait ms", f"{usual} and {worst}"),
                Column(
                    "Tasks",
                    f"{suspended_at_points()} and {worst}",
                ),
            ],
            links=[TO_COROUTINE],
        ),
        lines(
            "Which tasks pile up?",
            "Live tasks by coroutine. A line that rises while the number of requests does not is "
            "a leak.",
            {"{{coroutine}}": f"{tasks} and {top(tasks_in_range)}"},
            unit="short",
            link=drill_down("__field.labels.coroutine"),
        ),
        ranking(
            "Which tasks fail, or are destroyed while pending?",
            "Failed: tasks that ended in an exception. Cancelled: tasks that were cancelled. "
            "Destroyed: tasks that were garbage-collected before they were done, because nothing "
            "kept a reference to them; always a bug.",
            {"coroutine": "Coroutine"},
            [
                Column("Failed %", share_of_ended(FAILED), thresholds.FAILED, bar=True),
                Column("Cancelled %", share_of_ended(CANCELLED)),
                Column(
                    "Destroyed",
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
    """Return the query for the tasks that end per second."""
    return everywhere("job_coroutine_status", ENDED, selector, by)


def share_of_ended(selector: str) -> str:
    """Return the query for the share of each coroutine's ended tasks that ``selector`` picks."""
    return top(f"{ended(selector, 'coroutine')} / ({ended(COROUTINE, 'coroutine')} > 0)")
