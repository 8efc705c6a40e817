"""Types of requests: which miss their objective, what they cost the loop, what they wait for."""

from __future__ import annotations

from grafana.parts import thresholds
from grafana.parts.panels import Column, PanelBuilder, lines, ranking, request_link
from grafana.parts.queries import (
    REQUEST,
    SELECTED,
    WHOLE_RANGE,
    everywhere,
    everywhere_now,
    of_all_loops,
    quantile,
    select,
    top,
)

WALL = "asyncio_request_wall_seconds"
ACTIVE = "asyncio_request_active_seconds_sum"
BACKGROUND = "asyncio_request_background_seconds_total"
VIOLATIONS = "asyncio_request_objective_violations_total"
WAITS = "asyncio_request_wait_seconds_total"
OBJECTIVE = "asyncio_request_objective_seconds"
IN_PROGRESS = "asyncio_requests_in_progress"
FAILED = f'status="failed",{REQUEST}'

HEADINGS = {"request": "Request"}
FROM_ROW = request_link("__data.fields.Request")
FROM_LEGEND = request_link("__field.labels.request")


def of_requests(metric: str, *, whole: bool = False) -> str:
    """Return the query for what each type of request gains of ``metric`` per second."""
    return everywhere("job_request", metric, REQUEST, "request", whole=whole)


def per_request(seconds: str) -> str:
    """Return the query for the mean of ``seconds`` per ended request; nothing where none ended."""
    return f"{of_requests(seconds)} / ({of_requests(f'{WALL}_count')} > 0)"


def missed(*, whole: bool = False) -> str:
    """Return the query for the share that missed its objective, as the rules record it.

    It is at most 1, and there is nothing where no request ended or was late.
    """
    violations = of_requests(VIOLATIONS, whole=whole)
    count = of_requests(f"{WALL}_count", whole=whole)
    return f"clamp_max({violations} / {count}, 1) >= 0"


def slowest(*, whole: bool = False) -> str:
    """Return the query for the time within which 99 of 100 requests ended.

    It is that of the slowest service, if several have requests of the same type.
    """
    recorded = select(f"job_request:{WALL}:p99_rate5m", REQUEST)
    own = quantile(0.99, WALL, f"{REQUEST},{SELECTED}", "request")
    if whole:
        recorded = f"avg_over_time({recorded}{WHOLE_RANGE})"
        own = own.replace("[$__rate_interval]", WHOLE_RANGE)
    return f"(max by (request) ({recorded}) or {own})"


def objective() -> str:
    """Return the query for the objective of each type that has one."""
    recorded = select(f"job_request:{OBJECTIVE}:max", REQUEST)
    raw = select(OBJECTIVE, f"{REQUEST},{SELECTED}")
    return f"(max by (request) ({recorded}) or max by (request) ({raw}))"


def in_progress(*, whole: bool = False) -> str:
    """Return the query for the number of requests that have begun and not ended."""
    return everywhere_now("job_request", IN_PROGRESS, REQUEST, "request", whole=whole)


def requests() -> list[PanelBuilder]:
    """Return two tables, by objective and by loop time, and charts over time."""
    return [by_objective(), by_loop_time(), *over_time()]


def by_objective() -> PanelBuilder:
    """Return the table of types that miss their objective."""
    worst = top(missed())
    failed = everywhere("job_request_status", f"{WALL}_count", FAILED, "request")
    return ranking(
        "Which requests miss their objective?",
        "Share of the requests of a type that took longer than its objective; a request in "
        "progress counts as soon as it is over it. The target of 99 % leaves a budget of 1 %; the "
        "colours change at 1, 6 and 14.4 times the budget, like the alerts. Compare 'Mean' with "
        "'On the loop' to tell waiting from computing. Types without an objective are in the next "
        "table only.",
        HEADINGS,
        [
            Column("Missed %", worst, thresholds.MISSED, bar=True),
            Column("Objective ms", f"{objective()} and {worst}"),
            Column("p99 ms", f"{slowest()} and {worst}"),
            Column("Mean ms", f"{per_request(f'{WALL}_sum')} and {worst}"),
            Column("On the loop ms", f"{per_request(ACTIVE)} and {worst}"),
            Column("In progress", f"{in_progress()} and {worst}"),
            Column(
                "Failed %",
                f"{failed} / ({of_requests(f'{WALL}_count')} > 0) and {worst}",
                thresholds.FAILED,
            ),
            Column("Requests/s", f"{of_requests(f'{WALL}_count')} and {worst}"),
        ],
        links=[FROM_ROW],
        height=9,
    )


def by_loop_time() -> PanelBuilder:
    """Return the table of types that take the most loop time, child tasks included."""
    loop_time = f"({of_requests(ACTIVE)} + {of_requests(BACKGROUND)})"
    worst = top(loop_time)
    waits = everywhere("job_request_awaits", WAITS, REQUEST, "request")
    return ranking(
        "Which requests take the loop's time?",
        "Loop time of all tasks of a request, including child tasks, as a share of the time of "
        "all loops. Afterwards: the part that its tasks took after the request had ended. "
        "Running: share of its duration in which a request runs; if it is low, the request waits, "
        "or the loop is too busy to run it. Waiting: mean number of its tasks that wait at a time.",
        HEADINGS,
        [
            Column("Loop %", of_all_loops(worst), thresholds.HOTSPOT, bar=True),
            Column("Afterwards %", of_all_loops(f"({of_requests(BACKGROUND)} and {worst})")),
            Column("On the loop ms", f"{per_request(ACTIVE)} and {worst}", thresholds.SLOW),
            Column("Mean ms", f"{per_request(f'{WALL}_sum')} and {worst}"),
            Column(
                "Running %",
                f"{of_requests(ACTIVE)} / ({of_requests(f'{WALL}_sum')} > 0) and {worst}",
            ),
            Column("Waiting", f"{waits} and {worst}"),
            Column(
                "Requests/s",
                f"{of_requests(f'{WALL}_count')} and {worst}",
                thresholds.NONE,
                bar=True,
            ),
        ],
        links=[FROM_ROW],
        height=9,
    )


def over_time() -> list[PanelBuilder]:
    """Return the charts of budgets, durations, waits and numbers of requests."""
    budget = f"{thresholds.MISSED_BUDGET:g}"
    waits, waits_in_range = (
        everywhere("job_request_awaits", WAITS, REQUEST, "request, awaits", whole=whole)
        for whole in (False, True)
    )
    return [
        lines(
            "How fast is each error budget spent?",
            "Relative to 1 % missed objectives, which would spend the budget exactly. The dashed "
            "lines are those of the alerts: 1, 6 and 14.4. If all types rise at once, the cause "
            "is the loop; if one rises alone, it is its own code or what it waits for.",
            {"{{request}}": f"({missed()}) / {budget} and {top(missed(whole=True))}"},
            unit="short",
            limits=thresholds.BURN,
            link=FROM_LEGEND,
        ),
        lines(
            "How long does a request take?",
            "99 of 100 requests of a type ended within this time. The dots are exemplars, which "
            "are shown if instances are selected.",
            {"{{request}}": f"{slowest()} and {top(slowest(whole=True))}"},
            unit="s",
            exemplars=True,
            link=FROM_LEGEND,
        ),
        lines(
            "What do requests wait for?",
            "Mean number of waiting tasks of requests, by type and by what they await. A band that "
            "grows shows why requests got slower; if all grow together, the loop is late for all.",
            {"{{request}} ← {{awaits}}": f"{waits} and {top(waits_in_range)}"},
            unit="short",
            stacked=True,
            link=FROM_LEGEND,
        ),
        lines(
            "How many requests are in progress?",
            "Requests that have begun and not ended. If a line rises at a steady rate of "
            "requests, they hang.",
            {"{{request}}": f"{in_progress()} and {top(in_progress(whole=True))}"},
            unit="short",
            link=FROM_LEGEND,
        ),
    ]
