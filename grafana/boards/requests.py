"""Types of requests: which miss their objective, what each of them costs the loop, and what it waits for."""

from __future__ import annotations

from grafana.parts import thresholds
from grafana.parts.panels import Column, PanelBuilder, lines, ranking, request_link
from grafana.parts.queries import CHOSEN, REQUEST, everywhere, everywhere_now, select, top

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
    """What each type of request gains per second of ``metric``."""
    return everywhere("job_request", metric, REQUEST, "request", whole=whole)


def per_request(seconds: str) -> str:
    """What one request that ended took of ``seconds``, on average; nothing where none ended."""
    return f"{of_requests(seconds)} / ({of_requests(f'{WALL}_count')} > 0)"


def missed(*, whole: bool = False) -> str:
    """The share that missed its objective, as the rules record it: at most 1, and nothing where no request ended or was late."""
    return f"clamp_max({of_requests(VIOLATIONS, whole=whole)} / {of_requests(f'{WALL}_count', whole=whole)}, 1) >= 0"


def slowest(*, whole: bool = False) -> str:
    """The time within which 99 of 100 requests ended."""
    buckets = everywhere("job_request_le", f"{WALL}_bucket", REQUEST, "le, request", whole=whole)
    return f"histogram_quantile(0.99, {buckets})"


def objective() -> str:
    """The objective of each type that has one."""
    recorded = select(f"job_request:{OBJECTIVE}:max", REQUEST)
    return f"(max by (request) ({recorded}) or max by (request) ({select(OBJECTIVE, f'{REQUEST},{CHOSEN}')}))"


def in_progress(*, whole: bool = False) -> str:
    """Requests that were begun and have not ended."""
    return everywhere_now("job_request", IN_PROGRESS, REQUEST, "request", whole=whole)


def requests() -> list[PanelBuilder]:
    """Two tables, by objective and by loop time, and their course."""
    return [by_objective(), by_loop_time(), *over_time()]


def by_objective() -> PanelBuilder:
    """The types that miss their objective."""
    worst = top(missed())
    failed = everywhere("job_request_status", f"{WALL}_count", FAILED, "request")
    return ranking(
        "Which requests miss their objective?",
        "Share of the requests of a type that took longer than its objective, those in progress counted as soon as they are over it. The "
        "objective of 99 % leaves 1 %; the colours change at one, 6 and 14.4 times of that, like the alerts. Mean against on the loop "
        "tells waiting from computing. Types without an objective are in the next table only.",
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
    """The types that take most of the loop, children included."""
    loop_time = f"({of_requests(ACTIVE)} + {of_requests(BACKGROUND)})"
    worst = top(loop_time)
    waits = everywhere("job_request_awaits", WAITS, REQUEST, "request")
    return ranking(
        "Which requests take the loop's time?",
        "Loop time of all tasks of a request, whoever started them, as a share of one loop; afterwards is the part that its tasks took "
        "when it had ended. Running: share of its own time that one request runs; low means that it waits, or that the loop does not get "
        "round to it. Waiting: mean number of its tasks that wait at a time.",
        HEADINGS,
        [
            Column("Loop %", worst, thresholds.HOTSPOT, bar=True),
            Column("Afterwards %", f"{of_requests(BACKGROUND)} and {worst}"),
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
    """How fast budgets are spent, how long requests take, what they wait for, how many there are."""
    budget = f"{thresholds.MISSED_BUDGET:g}"
    waits, waits_in_the_range = (
        everywhere("job_request_awaits", WAITS, REQUEST, "request, awaits", whole=whole)
        for whole in (False, True)
    )
    return [
        lines(
            "How fast is each error budget spent?",
            "Times as fast as 1 % missed requests would spend it; the lines are those of the alerts: one, 6 and 14.4. All types at once "
            "are the loop; one alone is its own code, or what it waits for.",
            {"{{request}}": f"({missed()}) / {budget} and {top(missed(whole=True))}"},
            unit="short",
            limits=thresholds.BURN,
            link=FROM_LEGEND,
        ),
        lines(
            "How long does a request take?",
            "99 of 100 requests of a type ended within this time. The dots are exemplars, where instances are picked.",
            {"{{request}}": f"{slowest()} and {top(slowest(whole=True))}"},
            unit="s",
            exemplars=True,
            link=FROM_LEGEND,
        ),
        lines(
            "What do requests wait for?",
            "Mean number of tasks of requests that wait, by type and by what they await. The band that grows is why they got slower; if "
            "all grow together, the loop is late for all of them.",
            {"{{request}} ← {{awaits}}": f"{waits} and {top(waits_in_the_range)}"},
            unit="short",
            stacked=True,
            link=FROM_LEGEND,
        ),
        lines(
            "How many requests are in progress?",
            "Requests that were begun and have not ended. A line that rises at a steady rate of requests means that they hang.",
            {"{{request}}": f"{in_progress()} and {top(in_progress(whole=True))}"},
            unit="short",
            link=FROM_LEGEND,
        ),
    ]
