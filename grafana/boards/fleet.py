"""Many instances at a glance.

Everything here reads recorded series, so that it stays cheap with a thousand instances.
"""

from __future__ import annotations

from grafana_foundation_sdk.builders.dashboard import Dashboard

from grafana.parts import thresholds
from grafana.parts.frame import add_row, frame
from grafana.parts.panels import (
    Column,
    PanelBuilder,
    big_number,
    drill_down,
    instance_link,
    lines,
    ranking,
    request_link,
    spread,
    stripes,
)
from grafana.parts.queries import JOB, LOOP, leading, select, top

BUSY_RECORD = "job_instance_loop:asyncio_loop_active_seconds:rate5m"
BLOCKED_RECORD = "job_instance_loop:asyncio_loop_blocking_seconds:rate5m"
BUSY = select(BUSY_RECORD, LOOP)
BLOCKED = select(BLOCKED_RECORD, LOOP)
START_DELAY = select("job_instance_loop:asyncio_loop_start_delay_seconds:p99_rate5m", LOOP)
TURN = select("job_instance_loop:asyncio_loop_iteration_seconds:p99_rate5m", LOOP)
RUN_QUEUE = select("job_instance_loop:asyncio_loop_thread_runqueue_seconds:rate5m", LOOP)


def of_service(record: str) -> str:
    """Return the query for ``record``, a series of a whole service, of the selected services."""
    return f'{record}{{job=~"$job"}} and on (job) {select("aiometrics_build_info", JOB)}'


def fleet() -> Dashboard:
    """Return the dashboard: from the service to the instance and the code."""
    board = frame(
        "aiometrics-fleet",
        "asyncio / Fleet",
        "Which service and which instance is in trouble. Rates and quantiles are over 5 minutes, "
        "from the recording rules.",
    )
    add_row(board, "Which service is in trouble?", services())
    add_row(board, "Which instance is in trouble?", instances())
    add_row(board, "Which code causes it?", code())
    add_row(board, "Which requests suffer from it?", requests())
    return board


def services() -> list[PanelBuilder]:
    """Return four numbers about the whole fleet, and a table with a row for each service."""
    return [
        big_number(
            "How many processes answer?",
            "Processes whose exporter answered the last scrape.",
            f"count({select('aiometrics_build_info', JOB)})",
            unit="short",
            span=6,
        ),
        big_number(
            "How many loops are saturated?",
            "Loops that were active for over 90 % of the last 5 minutes.",
            f"count({BUSY} > {thresholds.SATURATED:g}) or vector(0)",
            unit="short",
            limits=thresholds.ANY,
            span=6,
        ),
        big_number(
            "How many loops burn their budget too fast?",
            "Loops that were blocked for over 14.4 times the budget of 0.1 % in the last 5 "
            "minutes.",
            f"count({BLOCKED} > {thresholds.BLOCKED_PAGE_FAST:g}) or vector(0)",
            unit="short",
            limits=thresholds.ANY,
            span=6,
        ),
        big_number(
            "How late does the slowest loop start tasks?",
            "The longest p99 from the creation of a task to its first step.",
            f"max({START_DELAY})",
            unit="s",
            limits=thresholds.SLOW,
            span=6,
        ),
        ranking(
            "Which services are blocked most?",
            "One row for each service, the most blocked first. Blocked and busy are shown for its "
            "worst loop and for the mean of its loops.",
            {"job": "Service"},
            [
                Column(
                    "Blocked, worst %",
                    of_service("job:asyncio_loop_blocking_seconds:max_rate5m"),
                    thresholds.BLOCKED,
                ),
                Column(
                    "Blocked, mean %",
                    of_service("job:asyncio_loop_blocking_seconds:avg_rate5m"),
                    thresholds.BLOCKED,
                ),
                Column(
                    "Busy, worst %",
                    of_service("job:asyncio_loop_active_seconds:max_rate5m"),
                    thresholds.BUSY,
                    bar=True,
                ),
                Column(
                    "Busy, mean %",
                    of_service("job:asyncio_loop_active_seconds:avg_rate5m"),
                    thresholds.BUSY,
                    bar=True,
                ),
                Column(
                    "Start delay p99 ms",
                    of_service("job:asyncio_loop_start_delay_seconds:p99_rate5m"),
                    thresholds.SLOW,
                ),
                Column("Tasks", of_service("job:asyncio_tasks:sum")),
                Column("Failures/s", of_service("job:asyncio_task_failures:rate5m")),
                Column("Processes", of_service("job:aiometrics_build_info:count")),
            ],
            height=8,
        ),
    ]


def instances() -> list[PanelBuilder]:
    """Return the panels about the spread of the fleet and its worst instances."""
    place = "job, instance, loop"
    worst = f"topk($topk, max by ({place}) ({BLOCKED}) + max by ({place}) ({BUSY}))"
    return [
        spread(
            "Are all instances alike?",
            "Number of loops by how busy they are. One band means that the load is shared evenly. "
            "With a second band, or stray cells above it, some instances carry more load.",
            BUSY,
            unit="percentunit",
            span=12,
        ),
        lines(
            "Which instances are busiest?",
            "The busiest loops. If a few lines are above the rest, the load is uneven; if all rise "
            "together, it is the service.",
            {"{{job}} {{instance}} {{loop}}": leading(BUSY_RECORD, LOOP)},
            unit="percentunit",
            limits=thresholds.BUSY,
            maximum=1,
        ),
        stripes(
            "Which instances were blocked, and when?",
            "One stripe for each of the most blocked loops: green is within the budget, red "
            "spends it 14.4 times too fast. Stripes that turn red together have a common cause; "
            "one that turns red alone is a problem of that instance.",
            leading(BLOCKED_RECORD, LOOP),
            legend="{{job}} {{instance}} {{loop}}",
            unit="percentunit",
            limits=thresholds.BLOCKED,
        ),
        ranking(
            "Which instances are blocked and busy most?",
            "The instances whose loops are most blocked and busy. Click a name to open its "
            "hotspots. Waiting for a CPU: the thread was runnable but not running.",
            {"job": "Service", "instance": "Instance", "loop": "Loop"},
            [
                Column("Blocked %", f"{by_place(BLOCKED)} and {worst}", thresholds.BLOCKED),
                Column("Busy %", f"{by_place(BUSY)} and {worst}", thresholds.BUSY, bar=True),
                Column(
                    "Waiting for a CPU %",
                    f"{by_place(RUN_QUEUE)} and {worst}",
                    thresholds.RUN_QUEUE,
                ),
                Column(
                    "Start delay p99 ms", f"{by_place(START_DELAY)} and {worst}", thresholds.SLOW
                ),
                Column("Turn p99 ms", f"{by_place(TURN)} and {worst}", thresholds.SLOW),
            ],
            links=[instance_link("__data.fields.Instance")],
        ),
    ]


def by_place(vector: str) -> str:
    """Return ``vector`` with no labels but job, instance and loop."""
    return f"max by (job, instance, loop) ({vector})"


def code() -> list[PanelBuilder]:
    """Return the tables of yield points of whole services."""
    active = of_service("job_yield_point:asyncio_segment_seconds_sum:rate5m")
    worst = top(f"({active})")
    return [
        ranking(
            "Which code takes the most loop time in the fleet?",
            "Yield points of the selected services, over all instances. 300 % are three whole "
            "loops.",
            {
                "job": "Service",
                "yield_point": "Yield point",
                "awaits": "Awaits",
                "coroutine": "Coroutine",
            },
            [
                Column("Active %", worst, bar=True),
                Column(
                    "Blocked %",
                    also("job_yield_point:asyncio_blocking_seconds:rate5m", worst),
                ),
                Column(
                    "Inflicted wait %",
                    also("job_yield_point:asyncio_inflicted_wait_seconds:rate5m", worst),
                ),
                Column(
                    "Segments/s",
                    also("job_yield_point:asyncio_segment_seconds_count:rate5m", worst),
                ),
            ],
            links=[drill_down("__data.fields.Coroutine")],
        ),
        ranking(
            "Which code waits most in the fleet?",
            "Yield points with the most waiting tasks, over all instances of a service.",
            {
                "job": "Service",
                "yield_point": "Yield point",
                "awaits": "Awaits",
                "coroutine": "Coroutine",
            },
            [
                Column(
                    "Waiting tasks",
                    top(f"({of_service('job_yield_point:asyncio_wait_seconds_sum:rate5m')})"),
                    bar=True,
                )
            ],
            links=[drill_down("__data.fields.Coroutine")],
        ),
    ]


def requests() -> list[PanelBuilder]:
    """Return the table of types of requests of whole services."""
    late = "job_request:asyncio_request_objective_violations"
    took = "job_request:asyncio_request_wall_seconds"
    worst = top(f"({of_service(f'{late}:ratio_rate5m')})")
    return [
        ranking(
            "Which requests miss their objective in the fleet?",
            "Types of requests over all instances of a service, by the share that misses its "
            "objective now. An alert fires if 14.4 % miss it in an hour, 6 % in six hours or 1 % "
            "in three days.",
            {"job": "Service", "request": "Request"},
            [
                Column("Missed %", worst, thresholds.MISSED, bar=True),
                Column("In 1 h %", also(f"{late}:ratio_rate1h", worst), thresholds.MISSED),
                Column("In 6 h %", also(f"{late}:ratio_rate6h", worst), thresholds.MISSED),
                Column(
                    "Objective ms", also("job_request:asyncio_request_objective_seconds:max", worst)
                ),
                Column("p99 ms", also(f"{took}:p99_rate5m", worst)),
                Column("Requests/s", also(f"{took}_count:rate5m", worst)),
                Column("In progress", also("job_request:asyncio_requests_in_progress:sum", worst)),
            ],
            links=[request_link("__data.fields.Request")],
        ),
    ]


def also(record: str, rows: str) -> str:
    """Return the query for another recorded series, limited to the same ``rows``."""
    return f'{record}{{job=~"$job"}} and {rows}'
