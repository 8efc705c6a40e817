"""All loops side by side: thread time, turns, delays, callbacks, garbage collection, executor, and the exporter itself."""

from __future__ import annotations

from collections.abc import Sequence

from grafana_foundation_sdk.builders.dashboard import Dashboard
from grafana_foundation_sdk.models.dashboard import Threshold

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
    JOB,
    LOOP,
    buckets,
    leaders,
    leading,
    mean,
    quantile,
    rate,
    select,
    top,
    total,
)

PLACE = "instance, loop"
LEGEND = "{{instance}} {{loop}}"
ACTIVE = f'state="active",{LOOP}'
CALLBACKS = f'coroutine="(callback)",{JOB}'


def event_loop() -> Dashboard:
    """Everything about the loops of the chosen instances."""
    board = frame(
        "aiometrics-event-loop",
        "asyncio / Event loop",
        "How each event loop spends its time, and what makes it late. Every line is one loop of one process.",
    )
    add_row(board, "Where does the thread's time go?", thread_time())
    add_row(board, "How long are the turns, and how late is everything?", delays())
    add_row(board, "What does the loop run besides tasks?", side_work())
    add_row(board, "Can the numbers be trusted?", exporter(), collapsed=True)
    return board


def gain(metric: str) -> str:
    """What each loop gains of ``metric`` per second."""
    return total(rate(metric, LOOP), PLACE)


def shares(
    title: str,
    description: str,
    vector: str,
    limits: Sequence[Threshold] = thresholds.NONE,
    span: int = 8,
) -> PanelBuilder:
    """Shares of 1, a line for each loop."""
    return lines(
        title,
        description,
        {LEGEND: leaders(vector)},
        unit="percentunit",
        limits=limits,
        maximum=1,
        span=span,
    )


def rates(
    title: str, description: str, metric: str, limits: Sequence[Threshold] = thresholds.NONE
) -> PanelBuilder:
    """What ``metric`` counts per second, a line for each loop."""
    return lines(
        title, description, {LEGEND: leaders(gain(metric))}, unit="cps", limits=limits, span=8
    )


def numbers(
    title: str,
    description: str,
    metric: str,
    limits: Sequence[Threshold] = thresholds.NONE,
    span: int = 12,
) -> PanelBuilder:
    """How many there are now by the gauge ``metric``, a line for each loop."""
    return lines(
        title, description, {LEGEND: leading(metric, LOOP)}, unit="short", limits=limits, span=span
    )


def p99(title: str, description: str, histogram: str) -> PanelBuilder:
    """What 99 of 100 observations of ``histogram`` stay under, a line for each loop."""
    course = leaders(quantile(0.99, histogram, LOOP, PLACE))
    return lines(
        title, description, {LEGEND: course}, unit="s", limits=thresholds.SLOW, exemplars=True
    )


def thread_time() -> list[PanelBuilder]:
    """A loop's thread by state; active = CPU + run queue + system calls or GIL."""
    active = total(rate("asyncio_loop_time_seconds_total", ACTIVE), PLACE)
    cpu = gain("asyncio_loop_thread_cpu_seconds_total")
    in_line = gain("asyncio_loop_thread_runqueue_seconds_total")
    return [
        shares(
            "Which loop is busy?",
            "Share of time outside the selector. Over 90 % a loop is saturated: more instances help only if the load can move.",
            active,
            thresholds.BUSY,
            span=12,
        ),
        lines(
            "Which loop is blocked?",
            "Share of time inside segments over the blocking threshold; the lines are one, 6 and 14.4 times the budget of 0.1 %.",
            {LEGEND: leaders(gain("asyncio_loop_blocking_seconds_total"))},
            unit="percentunit",
            limits=thresholds.BLOCKED,
        ),
        shares(
            "Which loop computes?",
            "CPU time of the loop's thread. If it is close to the busy share, the code itself is the cost.",
            cpu,
        ),
        shares(
            "Which loop stands in line for a CPU?",
            "Time runnable, but not running. Over 10 % the machine or its CPU limit is too small; no change of code helps. Linux only.",
            in_line,
            thresholds.IN_LINE,
        ),
        shares(
            "Which loop sits in system calls, or waits for the GIL?",
            "Active, but neither on a CPU nor in line for one: a blocking call, or another thread holds the interpreter.",
            f"clamp_min({active} - {cpu} - ({in_line} or {cpu} * 0), 0)",
        ),
    ]


def delays() -> list[PanelBuilder]:
    """Turns of the loop, start delays, and what the selector reported."""
    heartbeat = select("asyncio_loop_heartbeat_timestamp_seconds", LOOP)
    return [
        heat(
            "How long does one turn take?",
            "Turns by how long they ran. Cells above 100 ms are stalls that every task of the loop felt. The dots are exemplars.",
            buckets("asyncio_loop_iteration_seconds", LOOP),
        ),
        heat(
            "How late do tasks start?",
            "Tasks by the time from their creation to their first step. Cells that climb mean that the loop falls behind.",
            buckets("asyncio_loop_start_delay_seconds", LOOP),
        ),
        p99(
            "Which loop has long turns?",
            "99 of 100 turns were shorter than this. If it rises on one instance only, look for that instance in Hotspots.",
            "asyncio_loop_iteration_seconds",
        ),
        p99(
            "Which loop starts tasks late?",
            "99 of 100 tasks started within this time. This one is exact on every loop, uvloop included.",
            "asyncio_loop_start_delay_seconds",
        ),
        rates(
            "How many turns does a loop make?",
            "Turns per second. A loop that does the same work in fewer turns is late; one with no turns hangs or has nothing to do.",
            "asyncio_loop_iteration_seconds_count",
        ),
        shares(
            "How many events had to wait for the loop?",
            "Share of the selector's events that were already there when the loop asked. If this nears 100 %, the loop is always late.",
            f"{gain('asyncio_loop_events_waiting_total')} / ({gain('asyncio_loop_events_total')} > 0)",
        ),
        lines(
            "Which loop shows no life?",
            "Age of the last sign of life at the scrape. Idle loops are alive; over 15 s the loop hangs inside one step.",
            {LEGEND: top(f"clamp_min(timestamp({heartbeat}) - {heartbeat}, 0)")},
            unit="s",
            limits=thresholds.SILENT,
            span=8,
        ),
        numbers(
            "How many handles are ready?",
            "Callbacks that stand in line for the loop. A line that stays up is more work than one thread can do.",
            "asyncio_loop_ready_handles",
        ),
        numbers(
            "How many timers are set?",
            "Sleeps, timeouts and call_later. If this only rises, cancelled timeouts pile up.",
            "asyncio_loop_scheduled_timers",
        ),
    ]


def side_work() -> list[PanelBuilder]:
    """Callbacks, garbage collection, the executor, the exception handler."""
    callbacks = total(rate("asyncio_segment_seconds_sum", CALLBACKS), "yield_point")
    worst = top(callbacks)
    return [
        ranking(
            "Which callbacks take the loop's time?",
            "Protocol methods, timers and futures' callbacks that are no steps of a task, by the place of their code. Worst first.",
            {"yield_point": "Callback"},
            [
                Column("Active %", worst, thresholds.HOTSPOT, bar=True),
                Column(
                    "Calls/s",
                    f"{total(rate('asyncio_segment_seconds_count', CALLBACKS), 'yield_point')} and {worst}",
                ),
                Column(
                    "Mean ms",
                    f"{mean('asyncio_segment_seconds', CALLBACKS, 'yield_point')} and {worst}",
                    thresholds.SLOW,
                ),
            ],
            height=9,
            span=12,
        ),
        lines(
            "How long does garbage collection hold the loop?",
            "Pauses of the collector on the mean loop's thread, a share of time by generation. Much of generation 2: too many long-lived "
            "objects; gc.freeze() after start-up helps.",
            {
                "generation {{generation}}": f"avg by (generation) ({rate('asyncio_loop_gc_pause_seconds_total', LOOP)})"
            },
            unit="percentunit",
            stacked=True,
        ),
        numbers(
            "Does the executor keep up?",
            "Calls that wait for a thread of the default executor. Over 0 for minutes: run_in_executor and to_thread wait, and so do their "
            "tasks.",
            "asyncio_executor_queue_items",
            thresholds.ANY,
            span=8,
        ),
        numbers(
            "How many threads has the executor?",
            "Threads of the default executor that were started; its limit is min(32, CPUs + 4) unless you chose another.",
            "asyncio_executor_threads",
            span=8,
        ),
        rates(
            "Which exceptions did nobody await?",
            "Calls of the loop's exception handler per second. Each one is a bug; the log has its traceback.",
            "asyncio_unhandled_exceptions_total",
            thresholds.ANY,
        ),
    ]


def health(
    title: str,
    description: str,
    expression: str,
    unit: str = "short",
    limits: Sequence[Threshold] = thresholds.NONE,
) -> PanelBuilder:
    """One of the eight numbers that an exporter tells about itself."""
    return big_number(title, description, expression, unit=unit, limits=limits, span=3)


def exporter() -> list[PanelBuilder]:
    """What the exporter says about itself."""
    dropped = select("aiometrics_request_records_total", f'outcome="dropped",{JOB}')
    return [
        health(
            "How many series are exported?",
            "Samples of one scrape, the most of any instance. The capacity options bound it.",
            f"max({select('aiometrics_series', JOB)})",
        ),
        health(
            "How long does a scrape take to write?",
            "Wall time of the slowest instance, with the pauses in which it lets the loop run. Keep it far under the scrape timeout.",
            f"max({select('aiometrics_scrape_duration_seconds', JOB)})",
            unit="s",
        ),
        health(
            "What share of tasks is traced?",
            "The lowest sampling ratio. Below 100 %, numbers are unbiased estimates.",
            f"min({select('aiometrics_sample_ratio', JOB)})",
            unit="percentunit",
        ),
        health(
            "How many tasks are not traced?",
            "Live tasks that are not traced: older than the exporter, sampled out, or missed.",
            total(select("aiometrics_untraced_tasks", JOB)),
        ),
        health(
            "Did names find no room?",
            "Names counted under (other) since the start. Raise max_yield_points, max_coroutines or max_requests.",
            total(select("aiometrics_overflow_total", JOB)),
            limits=thresholds.ANY,
        ),
        health(
            "Did a probe fail?",
            "Internal errors since the start. The failing probe is off, and its metrics stand still.",
            f"{total(select('aiometrics_errors_total', JOB))} or vector(0)",
            limits=thresholds.ANY,
        ),
        health(
            "Are request scopes misused?",
            "Scopes since the start that were never left, left too early or in another task, or had no proper type. The documentation of "
            "aiometrics_request_scope_errors_total says what the numbers of such requests are.",
            total(select("aiometrics_request_scope_errors_total", JOB)),
            limits=thresholds.ANY,
        ),
        health(
            "Are records of requests dropped?",
            "Slow-request events and traces since the start that were not written, because what writes them is too slow or fails.",
            total(dropped),
            limits=thresholds.ANY,
        ),
        ranking(
            "Which version and recorder runs where?",
            "One row for each process. The recorder 'python' costs several times what 'c' costs.",
            {
                "instance": "Instance",
                "version": "Version",
                "implementation": "Recorder",
                "python_implementation": "Python",
                "python_version": "Python version",
            },
            [
                Column(
                    "Processes",
                    total(
                        select("aiometrics_build_info", JOB),
                        "instance, version, implementation, python_implementation, python_version",
                    ),
                )
            ],
            sort="Instance",
            links=[instance_link("__data.fields.Instance")],
            height=8,
        ),
    ]
