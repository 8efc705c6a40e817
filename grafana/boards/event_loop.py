"""All event loops side by side.

Shows thread time, turns, delays, callbacks, garbage collection, the executor, and the exporter.
"""

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
    of_all_loops,
    of_mean_loop,
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
    """Return the dashboard about the loops of the selected instances."""
    board = frame(
        "aiometrics-event-loop",
        "asyncio / Event loop",
        "How each event loop spends its time, and what makes it late. Every line is one loop of "
        "one process.",
    )
    add_row(board, "Where does the thread's time go?", thread_time())
    add_row(board, "How long are turns, and how late does work start?", delays())
    add_row(board, "What does the loop run besides tasks?", side_work())
    add_row(board, "Can the numbers be trusted?", exporter(), collapsed=True)
    return board


def gain(metric: str) -> str:
    """Return the query for what each loop gains of ``metric`` per second."""
    return total(rate(metric, LOOP), PLACE)


def shares(
    title: str,
    description: str,
    vector: str,
    limits: Sequence[Threshold] = thresholds.NONE,
    span: int = 8,
) -> PanelBuilder:
    """Return a chart of shares from 0 to 1 with a line for each loop."""
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
    """Return a chart of what ``metric`` counts per second with a line for each loop."""
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
    """Return a chart of the gauge ``metric`` with a line for each loop."""
    return lines(
        title, description, {LEGEND: leading(metric, LOOP)}, unit="short", limits=limits, span=span
    )


def p99(title: str, description: str, histogram: str) -> PanelBuilder:
    """Return a chart of the 0.99 quantile of ``histogram`` with a line for each loop."""
    quantiles = leaders(quantile(0.99, histogram, LOOP, PLACE))
    return lines(
        title, description, {LEGEND: quantiles}, unit="s", limits=thresholds.SLOW, exemplars=True
    )


def thread_time() -> list[PanelBuilder]:
    """Return the panels about what a loop's thread does.

    Its active time is CPU time + time in the run queue + system calls or waits for the GIL.
    """
    active = total(rate("asyncio_loop_time_seconds_total", ACTIVE), PLACE)
    cpu = gain("asyncio_loop_thread_cpu_seconds_total")
    in_run_queue = gain("asyncio_loop_thread_runqueue_seconds_total")
    return [
        shares(
            "Which loop is busy?",
            "Share of time in which the loop does not wait for events. Over 90 % a loop is "
            "saturated: more instances help only if the load can move to them.",
            active,
            thresholds.BUSY,
            span=12,
        ),
        lines(
            "Which loop is blocked?",
            "Share of time inside segments over the blocking threshold; the dashed lines are 1, 6 "
            "and 14.4 times the budget of 0.1 %.",
            {LEGEND: leaders(gain("asyncio_loop_blocking_seconds_total"))},
            unit="percentunit",
            limits=thresholds.BLOCKED,
        ),
        shares(
            "Which loop uses CPU time?",
            "CPU time of the loop's thread. If it is close to the busy share, the code itself is "
            "the cost.",
            cpu,
        ),
        shares(
            "Which loop waits for a CPU?",
            "Share of time in which the loop's thread was runnable but not running. Over 10 % the "
            "machine or its CPU limit is too small, and no change to the code helps. Linux only.",
            in_run_queue,
            thresholds.RUN_QUEUE,
        ),
        shares(
            "Which loop is in system calls, or waits for the GIL?",
            "Active, but neither on a CPU nor waiting for one: the thread is in a blocking call, "
            "or another thread holds the interpreter.",
            f"clamp_min({active} - {cpu} - ({in_run_queue} or {cpu} * 0), 0)",
        ),
    ]


def delays() -> list[PanelBuilder]:
    """Return the panels about turns of the loop, start delays and events of the selector."""
    heartbeat = select("asyncio_loop_heartbeat_timestamp_seconds", LOOP)
    return [
        heat(
            "How long does one turn take?",
            "Turns by duration. Cells above 100 ms are stalls that delayed every task of the "
            "loop. The dots are exemplars.",
            buckets("asyncio_loop_iteration_seconds", LOOP),
        ),
        heat(
            "How late do tasks start?",
            "Tasks by the time from their creation to their first step. If cells climb, the loop "
            "falls behind.",
            buckets("asyncio_loop_start_delay_seconds", LOOP),
        ),
        p99(
            "Which loop has long turns?",
            "99 of 100 turns were shorter. If it rises on one instance only, open that instance in "
            "Hotspots.",
            "asyncio_loop_iteration_seconds",
        ),
        p99(
            "Which loop starts tasks late?",
            "99 of 100 tasks started within this time. It is exact on every loop.",
            "asyncio_loop_start_delay_seconds",
        ),
        rates(
            "How many turns does a loop make?",
            "Turns per second. A loop that does the same work in fewer turns is late; a loop with "
            "no turns hangs or has nothing to do.",
            "asyncio_loop_iteration_seconds_count",
        ),
        shares(
            "How many events had to wait for the loop?",
            "Share of the selector's events that had already occurred when the loop asked for "
            "them. Near 100 %, the loop is always late.",
            f"{gain('asyncio_loop_events_waiting_total')} / ({gain('asyncio_loop_events_total')} "
            "> 0)",
        ),
        lines(
            "Which loop has stopped responding?",
            "Age of the last heartbeat at the scrape. Idle loops have heartbeats too; over 15 s, "
            "the loop hangs inside one step.",
            {LEGEND: top(f"clamp_min(timestamp({heartbeat}) - {heartbeat}, 0)")},
            unit="s",
            limits=thresholds.SILENT,
            span=8,
        ),
        numbers(
            "How many handles are ready to run?",
            "Callbacks that wait for the loop. If the number stays high, there is more work than "
            "one thread can do.",
            "asyncio_loop_ready_handles",
        ),
        numbers(
            "How many timers are set?",
            "Timers of sleeps, timeouts and call_later. If the number only rises, cancelled "
            "timeouts pile up.",
            "asyncio_loop_scheduled_timers",
        ),
    ]


def side_work() -> list[PanelBuilder]:
    """Return the panels about callbacks, garbage collection, executor and exception handler."""
    callbacks = total(rate("asyncio_segment_seconds_sum", CALLBACKS), "yield_point")
    worst = top(callbacks)
    pauses = rate("asyncio_loop_gc_pause_seconds_total", LOOP)
    return [
        ranking(
            "Which callbacks take the loop's time?",
            "Protocol methods, timers and callbacks of futures, without steps of tasks, by where "
            "their code is. Active: share of the time of all loops. The worst comes first.",
            {"yield_point": "Callback"},
            [
                Column("Active %", of_all_loops(worst), thresholds.HOTSPOT, bar=True),
                Column(
                    "Calls/s",
                    f"{total(rate('asyncio_segment_seconds_count', CALLBACKS), 'yield_point')} "
                    f"and {worst}",
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
            "How long does garbage collection pause the loop?",
            "Pauses by the garbage collector on the thread of the mean loop, as a share of time, "
            "by generation. Much time in generation 2 means too many long-lived objects; "
            "gc.freeze() after start-up helps.",
            {"generation {{generation}}": of_mean_loop(pauses, "generation")},
            unit="percentunit",
            stacked=True,
            colours={
                "generation 0": thresholds.QUIET,
                "generation 1": thresholds.WORK,
                "generation 2": thresholds.ALARMING,
            },
        ),
        numbers(
            "Does the executor keep up?",
            "Calls that wait for a thread of the default executor. If the number is above 0 for "
            "minutes, run_in_executor and to_thread wait, and so do the tasks that call them.",
            "asyncio_executor_queue_items",
            thresholds.ANY,
            span=8,
        ),
        numbers(
            "How many threads does the executor have?",
            "Threads that the default executor has started. Its limit is min(32, CPUs + 4) unless "
            "you set another.",
            "asyncio_executor_threads",
            span=8,
        ),
        rates(
            "Which loop has unhandled exceptions?",
            "Calls of the loop's exception handler per second. Each one is a bug; the log has its "
            "traceback.",
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
    """Return one of the eight numbers that the exporter reports about itself."""
    return big_number(title, description, expression, unit=unit, limits=limits, span=3)


def exporter() -> list[PanelBuilder]:
    """Return the panels about the exporter itself."""
    dropped = select("aiometrics_request_records_total", f'outcome="dropped",{JOB}')
    return [
        health(
            "How many series are exported?",
            "Samples in one scrape of the instance that has the most. The capacity options limit "
            "it.",
            f"max({select('aiometrics_series', JOB)})",
        ),
        health(
            "How long does it take to answer a scrape?",
            "Wall time on the slowest instance, including the pauses in which it lets the loop "
            "run. Keep it far below the scrape timeout.",
            f"max({select('aiometrics_scrape_duration_seconds', JOB)})",
            unit="s",
        ),
        health(
            "What share of tasks is traced?",
            "The lowest sampling ratio. Below 100 %, the numbers are unbiased estimates.",
            f"min({select('aiometrics_sample_ratio', JOB)})",
            unit="percentunit",
        ),
        health(
            "How many tasks are not traced?",
            "Live tasks that are not traced: they have not run since the exporter started, were "
            "left out by sampling, or were missed.",
            total(select("aiometrics_untraced_tasks", JOB)),
        ),
        health(
            "Did the tables of names run out of room?",
            "Names that have been counted under (other) since the start. Raise max_yield_points, "
            "max_coroutines or max_requests.",
            total(select("aiometrics_overflow_total", JOB)),
            limits=thresholds.ANY,
        ),
        health(
            "Were there internal errors?",
            "Internal errors of aiometrics since the start. A probe that failed is switched off, "
            "and its metrics no longer change.",
            f"{total(select('aiometrics_errors_total', JOB))} or vector(0)",
            limits=thresholds.ANY,
        ),
        health(
            "Are request scopes misused?",
            "Scopes since the start that were never left, were left too early or in another task, "
            "or had an invalid type. The documentation of aiometrics_request_scope_errors_total "
            "says how such requests are counted.",
            total(select("aiometrics_request_scope_errors_total", JOB)),
            limits=thresholds.ANY,
        ),
        health(
            "Are records of requests dropped?",
            "Log events and traces of requests since the start that were not written, because the "
            "handler or exporter that writes them is too slow or fails.",
            total(dropped),
            limits=thresholds.ANY,
        ),
        ranking(
            "Which version and recorder run where?",
            "One row for each process. The recorder 'python' costs several times as much as 'c'.",
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
