"""Every metric that aiometrics exports: its name, type, labels and definition.

Tests compare the text renderer, the ``prometheus_client`` collector, the documentation, the
dashboards and the rules with this list.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

Kind = Literal["counter", "gauge", "histogram"]

YIELD_POINT_LABELS = ("coroutine", "yield_point", "awaits")
COROUTINE_LABELS = ("coroutine",)
TASK_LABELS = ("coroutine", "status")
LOOP_LABELS = ("loop",)
REQUEST_LABELS = ("request",)
_UNITS = ("square_seconds", "seconds")


class Metric(NamedTuple):
    """One metric family.

    ``name`` is that of the samples of a counter or gauge; ``labels`` are in the order in which they
    are written.
    """

    name: str
    kind: Kind
    labels: tuple[str, ...]
    help: str

    @property
    def family(self) -> str:
        """The family's name in OpenMetrics, where that of a counter has no ``_total``."""
        return self.name.removesuffix("_total") if self.kind == "counter" else self.name

    @property
    def unit(self) -> str:
        """The unit at the end of the family's name, or an empty string."""
        return next((unit for unit in _UNITS if self.family.endswith(f"_{unit}")), "")


SEGMENT_SECONDS = Metric(
    "asyncio_segment_seconds",
    "histogram",
    YIELD_POINT_LABELS,
    "Uninterrupted runs of tasks that ended at this yield point; the sum is the loop time that "
    "they took. The time in which an eager child runs inside a segment belongs to the child.",
)
WAIT_SECONDS = Metric(
    "asyncio_wait_seconds",
    "histogram",
    YIELD_POINT_LABELS,
    "Time from the suspension of a task at this yield point to its next resumption there. It "
    "includes the time in which the task was ready but did not run yet.",
)
SEGMENT_MAX_SECONDS = Metric(
    "asyncio_segment_max_seconds",
    "gauge",
    YIELD_POINT_LABELS,
    "The longest segment that has ended at this yield point since it was first reached. A scrape "
    "does not reset it.",
)
WAIT_MAX_SECONDS = Metric(
    "asyncio_wait_max_seconds",
    "gauge",
    YIELD_POINT_LABELS,
    "The longest wait that has ended at this yield point since it was first reached. A scrape does "
    "not reset it.",
)
WAIT_TASKS = Metric(
    "asyncio_wait_tasks_total",
    "counter",
    YIELD_POINT_LABELS,
    "Tasks that have waited at this yield point and gone on, each counted once however often it "
    "did. A task that waits at very many places may be missing at some of them.",
)
SEGMENT_SQUARE_SECONDS = Metric(
    "asyncio_segment_square_seconds_total",
    "counter",
    YIELD_POINT_LABELS,
    "Sum of the squares of the segments that ended at this yield point. Half its rate is the mean "
    "time for which these segments keep the loop from work that becomes ready at a random moment.",
)
BLOCKING_SECONDS = Metric(
    "asyncio_blocking_seconds_total",
    "counter",
    YIELD_POINT_LABELS,
    "Seconds in segments at or over the blocking threshold. A segment in progress counts under "
    "the yield point (running); the seconds counted there are not counted again where it ends.",
)
INFLICTED_WAIT_SECONDS = Metric(
    "asyncio_inflicted_wait_seconds_total",
    "counter",
    YIELD_POINT_LABELS,
    "For each blocking segment, its seconds times the number of handles that were ready behind "
    "it when it ended. Zero on a loop whose ready queue is not known.",
)
SUSPENDED_TASKS = Metric(
    "asyncio_suspended_tasks",
    "gauge",
    YIELD_POINT_LABELS,
    "Tasks that are suspended at this yield point now.",
)
OLDEST_SUSPENSION = Metric(
    "asyncio_oldest_suspension_timestamp_seconds",
    "gauge",
    YIELD_POINT_LABELS,
    "Unix time at which the longest suspension in progress at this yield point began; 0 if "
    "there is none.",
)
TASKS_CREATED = Metric(
    "asyncio_tasks_created_total",
    "counter",
    COROUTINE_LABELS,
    "Tasks created for this coroutine.",
)
TASK_WALL_SECONDS = Metric(
    "asyncio_task_wall_seconds",
    "histogram",
    TASK_LABELS,
    "Time from the creation of a task to the end of its coroutine, by how it ended.",
)
TASK_ACTIVE_SECONDS = Metric(
    "asyncio_task_active_seconds",
    "histogram",
    TASK_LABELS,
    "Loop time that one task took in all its segments, by how it ended.",
)
TASKS = Metric(
    "asyncio_tasks",
    "gauge",
    COROUTINE_LABELS,
    "Live tasks of this coroutine.",
)
TASKS_DESTROYED_PENDING = Metric(
    "asyncio_tasks_destroyed_pending_total",
    "counter",
    COROUTINE_LABELS,
    "Tasks that were garbage-collected before they were done.",
)
LOOP_START_DELAY_SECONDS = Metric(
    "asyncio_loop_start_delay_seconds",
    "histogram",
    LOOP_LABELS,
    "Time from the creation of a task to the start of its first segment: how long a newly ready "
    "handle waits on this loop.",
)
LOOP_TIME_SECONDS = Metric(
    "asyncio_loop_time_seconds_total",
    "counter",
    ("loop", "state"),
    "Time that the loop spent waiting for events (idle) and not waiting (active), including the "
    "part in progress. On a loop whose turns are not known there is only active, which is the "
    "time of its tasks' segments.",
)
LOOP_ITERATION_SECONDS = Metric(
    "asyncio_loop_iteration_seconds",
    "histogram",
    LOOP_LABELS,
    "Active part of one turn of the loop: how long a newly ready handle may have to wait. Empty "
    "where turns are not known.",
)
LOOP_EVENTS = Metric(
    "asyncio_loop_events_total",
    "counter",
    LOOP_LABELS,
    "Events that the loop was told of. Absent where they are not known.",
)
LOOP_EVENTS_WAITING = Metric(
    "asyncio_loop_events_waiting_total",
    "counter",
    LOOP_LABELS,
    "Events that were already there when the loop asked for them, so that they had waited for "
    "the loop. With a selector that means that it was asked not to wait, or returned within 20 "
    "microseconds. Absent where they are not known.",
)
LOOP_READY_HANDLES = Metric(
    "asyncio_loop_ready_handles",
    "gauge",
    LOOP_LABELS,
    "Handles that are ready to run now. Absent on a loop whose ready queue is not known.",
)
LOOP_SCHEDULED_TIMERS = Metric(
    "asyncio_loop_scheduled_timers",
    "gauge",
    LOOP_LABELS,
    "Timers that are set now, including cancelled ones that were not removed yet. Absent on a "
    "loop whose timers are not known.",
)
LOOP_BLOCKING_SECONDS = Metric(
    "asyncio_loop_blocking_seconds_total",
    "counter",
    LOOP_LABELS,
    "Seconds of this loop in segments at or over the blocking threshold, including the one in "
    "progress.",
)
LOOP_HEARTBEAT = Metric(
    "asyncio_loop_heartbeat_timestamp_seconds",
    "gauge",
    LOOP_LABELS,
    "Unix time at which the loop was last known to be responsive. For an idle loop that is now; "
    "for a busy one it is when its current turn began, or its current segment where turns are "
    "not known.",
)
LOOP_PROCESS_ID = Metric(
    "asyncio_loop_process_id",
    "gauge",
    LOOP_LABELS,
    "ID of the process that runs this loop; 0 if the loop is closed or its process is gone. "
    "What it counted until then remains.",
)
LOOP_THREAD_CPU_SECONDS = Metric(
    "asyncio_loop_thread_cpu_seconds_total",
    "counter",
    LOOP_LABELS,
    "CPU time of the thread that runs this loop, since the loop was first seen. Linux only.",
)
LOOP_THREAD_RUNQUEUE_SECONDS = Metric(
    "asyncio_loop_thread_runqueue_seconds_total",
    "counter",
    LOOP_LABELS,
    "Time in which the thread that runs this loop was ready to run but had no CPU, since the "
    "loop was first seen. Linux only.",
)
LOOP_GC_PAUSE_SECONDS = Metric(
    "asyncio_loop_gc_pause_seconds_total",
    "counter",
    ("loop", "generation"),
    "Time that garbage collections took in the thread of this loop while it ran. It is part of "
    "the segments in which they happened.",
)
UNHANDLED_EXCEPTIONS = Metric(
    "asyncio_unhandled_exceptions_total",
    "counter",
    LOOP_LABELS,
    "Calls of the loop's exception handler, whichever is set. They report exceptions of "
    "callbacks, exceptions of tasks that nobody retrieved, tasks that were destroyed pending, "
    "and whatever else asyncio or the application passes to it.",
)
EXECUTOR_THREADS = Metric(
    "asyncio_executor_threads",
    "gauge",
    LOOP_LABELS,
    "Threads that the loop's default executor has started; 0 if there is no executor yet. "
    "Absent for loops that do not show it.",
)
EXECUTOR_QUEUE_ITEMS = Metric(
    "asyncio_executor_queue_items",
    "gauge",
    LOOP_LABELS,
    "Calls that are waiting for a thread of the loop's default executor. Absent for loops that "
    "do not show it.",
)
BLOCK_SAMPLES = Metric(
    "asyncio_block_samples_total",
    "counter",
    ("loop", "blocked_at"),
    "Samples that the watchdog took while a segment at or over the blocking threshold held the "
    "loop, by the innermost line of the application and the library function that it called, if "
    "any. A call that never releases the GIL is sampled once, when it returns. At most 100 "
    "places per loop; the rest is (other).",
)
ACTIVE_SAMPLES = Metric(
    "asyncio_active_samples_total",
    "counter",
    ("coroutine", "held_at"),
    "Samples that found the loop active, by coroutine and by the innermost line of the "
    "application with what that line called, if anything. (loop) is the loop's own work. A loop "
    "has room for 512; the rest is (other).",
)
ACTIVE_SAMPLED_SECONDS = Metric(
    "asyncio_active_sampled_seconds_total",
    "counter",
    ("coroutine", "held_at"),
    "Active time that the samples stand for, by coroutine and by the line that held the loop. An "
    "estimate: asyncio_segment_seconds is exact.",
)
REQUEST_WALL_SECONDS = Metric(
    "asyncio_request_wall_seconds",
    "histogram",
    (*REQUEST_LABELS, "status"),
    "Time from entering the scope of a request to leaving it, by how it was left.",
)
REQUEST_ACTIVE_SECONDS = Metric(
    "asyncio_request_active_seconds",
    "histogram",
    REQUEST_LABELS,
    "Loop time that one request took in all its tasks, including child tasks, until its scope "
    "was left.",
)
REQUEST_BACKGROUND_SECONDS = Metric(
    "asyncio_request_background_seconds_total",
    "counter",
    REQUEST_LABELS,
    "Loop time that tasks of a request took after its scope was left, such as child tasks that "
    "outlive it. If the scope was never left, this is all of its loop time.",
)
REQUEST_WAIT_SECONDS = Metric(
    "asyncio_request_wait_seconds_total",
    "counter",
    (*REQUEST_LABELS, "awaits"),
    "Waits of all tasks of a request that ended before its scope was left, by what was awaited. "
    "They are counted when the scope is left. Tasks that wait at the same time add up.",
)
REQUESTS_IN_PROGRESS = Metric(
    "asyncio_requests_in_progress",
    "gauge",
    REQUEST_LABELS,
    "Request scopes that were entered and not left yet.",
)
REQUEST_OBJECTIVE_SECONDS = Metric(
    "asyncio_request_objective_seconds",
    "gauge",
    REQUEST_LABELS,
    "Wall seconds that a request of this type may take: its objective, if it has one.",
)
REQUEST_OBJECTIVE_VIOLATIONS = Metric(
    "asyncio_request_objective_violations_total",
    "counter",
    REQUEST_LABELS,
    "Requests that took longer than their objective, each counted once. A request in progress "
    "counts from the first scrape that finds it over its objective.",
)
REQUEST_RECORDS = Metric(
    "aiometrics_request_records_total",
    "counter",
    ("kind", "outcome"),
    "Records of single requests (slow_request: an event in the log; trace: the spans of "
    "OpenTelemetry) that were written, or dropped because their writer is too slow or fails. No "
    "request waits for them.",
)
BUILD_INFO = Metric(
    "aiometrics_build_info",
    "gauge",
    ("version", "implementation", "frames", "python_implementation", "python_version"),
    "Always 1. The labels show the versions of aiometrics and of Python, which recorder runs (c or "
    "python) and how it reads suspended frames: direct, or by descriptors, which costs more. In a "
    "sidecar both are none.",
)
SERVICE_INFO = Metric(
    "aiometrics_service_info",
    "gauge",
    (),
    "Always 1. The labels are those that were given as labels; without them there is no series.",
)
SCRAPE_DURATION = Metric(
    "aiometrics_scrape_duration_seconds",
    "gauge",
    (),
    "Wall time that it took to render the previous scrape, including the pauses in which other "
    "threads could run.",
)
SERIES = Metric(
    "aiometrics_series",
    "gauge",
    (),
    "Samples of aiometrics in this scrape, not counting those of the application.",
)
OVERFLOW = Metric(
    "aiometrics_overflow_total",
    "counter",
    ("kind",),
    "Names that found no room and were counted under (other), by kind: coroutine, yield_point, "
    "request, request_wait, string; and, as loop, loops beyond max_loops.",
)
ERRORS = Metric(
    "aiometrics_errors_total",
    "counter",
    ("probe",),
    "Internal errors by probe. The first error of each probe is logged, with what becomes of "
    "the probe; the application is not affected.",
)
REQUEST_SCOPE_ERRORS = Metric(
    "aiometrics_request_scope_errors_total",
    "counter",
    ("kind",),
    "Request scopes that were misused: never left (abandoned), left before an inner one "
    "(out_of_order), left in another task (foreign_task), entered or left where no traced loop "
    "runs (outside_loop), open while tasks of another loop started inside (foreign_loop), or "
    "given an invalid type, objective or status (invalid).",
)
UNTRACED_TASKS = Metric(
    "aiometrics_untraced_tasks",
    "gauge",
    (),
    "Live tasks that are not traced: they have not run since the exporter started, were left out "
    "by sampling, or were missed. A scrape looks at no more than 10 000 tasks.",
)
SAMPLE_RATIO = Metric(
    "aiometrics_sample_ratio",
    "gauge",
    (),
    "Share of the tasks that are traced; each traced task counts 1/ratio times.",
)

SKIPPED_PAGES = Metric(
    "aiometrics_skipped_pages",
    "gauge",
    ("reason",),
    "Page files of the shared directory that this scrape left out, by reason. version: written "
    "by another version of aiometrics; options: written with other buckets, capacities, sample "
    "or threshold; damaged; foreign: not a file of this user alone; unreadable. Absent without "
    "a shared directory.",
)

METRICS: tuple[Metric, ...] = (
    SEGMENT_SECONDS,
    WAIT_SECONDS,
    SEGMENT_MAX_SECONDS,
    WAIT_MAX_SECONDS,
    WAIT_TASKS,
    SEGMENT_SQUARE_SECONDS,
    BLOCKING_SECONDS,
    INFLICTED_WAIT_SECONDS,
    SUSPENDED_TASKS,
    OLDEST_SUSPENSION,
    TASKS_CREATED,
    TASK_WALL_SECONDS,
    TASK_ACTIVE_SECONDS,
    TASKS,
    TASKS_DESTROYED_PENDING,
    LOOP_TIME_SECONDS,
    LOOP_ITERATION_SECONDS,
    LOOP_START_DELAY_SECONDS,
    LOOP_EVENTS,
    LOOP_EVENTS_WAITING,
    LOOP_READY_HANDLES,
    LOOP_SCHEDULED_TIMERS,
    LOOP_BLOCKING_SECONDS,
    LOOP_HEARTBEAT,
    LOOP_PROCESS_ID,
    LOOP_THREAD_CPU_SECONDS,
    LOOP_THREAD_RUNQUEUE_SECONDS,
    LOOP_GC_PAUSE_SECONDS,
    UNHANDLED_EXCEPTIONS,
    EXECUTOR_THREADS,
    EXECUTOR_QUEUE_ITEMS,
    BLOCK_SAMPLES,
    ACTIVE_SAMPLES,
    ACTIVE_SAMPLED_SECONDS,
    REQUEST_WALL_SECONDS,
    REQUEST_ACTIVE_SECONDS,
    REQUEST_BACKGROUND_SECONDS,
    REQUEST_WAIT_SECONDS,
    REQUESTS_IN_PROGRESS,
    REQUEST_OBJECTIVE_SECONDS,
    REQUEST_OBJECTIVE_VIOLATIONS,
    BUILD_INFO,
    SERVICE_INFO,
    SCRAPE_DURATION,
    SERIES,
    OVERFLOW,
    ERRORS,
    REQUEST_SCOPE_ERRORS,
    REQUEST_RECORDS,
    UNTRACED_TASKS,
    SAMPLE_RATIO,
    SKIPPED_PAGES,
)
