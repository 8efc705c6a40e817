"""A real Prometheus, with the rules, scrapes the demo; PromQL finds every fault by its line."""

from __future__ import annotations

import inspect
import os
import re
import subprocess
import sys
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support import prometheus_server
from support.prometheus_server import Prometheus, running

from aiometrics.demo.catalogue import Catalogue
from aiometrics.demo.delivery import Delivery
from aiometrics.demo.payments import Payments
from aiometrics.demo.storage import Orders, Pool, Stock
from aiometrics.exposition.metrics import METRICS

#: All tests here share this much time; queries are repeated until the answer is right or it is up.
SECONDS = 300
FUNCTIONS = {
    function.__qualname__: function
    for function in (
        Catalogue.rank_results,
        Catalogue.write_rows,
        Delivery.ask_warehouse,
        Orders.fetch,
        Payments.charge_card,
        Payments.send_receipt,
        Payments.wait_for_confirmation,
        Pool.acquire,
        Stock.reserve_stock,
    )
}
PLACE = re.compile(r"(?P<path>\S+):(?P<line>\d+) (?P<name>\S+)")

ENDED = "asyncio_task_wall_seconds_count"
AGE = "(time() - (asyncio_oldest_suspension_timestamp_seconds > 0))"
BURNERS = {
    "Payments.charge_card",
    "Catalogue.rank_results",
    "Stock.reserve_stock",
    "Catalogue.write_rows",
}
SHOP = "{yield_point=~'aiometrics/demo/.*'}"
MEAN_WAIT = "(asyncio_wait_seconds_sum / asyncio_wait_seconds_count)"


class Culprits(Prometheus):
    """A Prometheus that scrapes the demo."""

    def culprits(self, query: str) -> list[str]:
        """Return the functions that the series of the query name, the worst first."""
        return [culprit(labels) for labels, _ in self.ask(query)]


def culprit(labels: dict[str, str]) -> str:
    """Return the demo's function that a series names, if its line is inside of that function.

    Otherwise return the label as it is.
    """
    if "yield_point" not in labels:
        return ".".join(labels["coroutine"].split(".")[-2:])
    place = PLACE.fullmatch(labels["yield_point"])
    if place is None:
        return labels["yield_point"]
    function = FUNCTIONS.get(place["name"])
    if function is None:
        return place["name"]
    lines, first = inspect.getsourcelines(function)
    return place["name"] if int(place["line"]) in range(first, first + len(lines)) else place[0]


@pytest.fixture(scope="module")
def demo() -> Iterator[str]:
    """The address of the metrics of a demo with all faults."""
    with running(
        sys.executable,
        "-m",
        "aiometrics",
        "demo",
        "--port",
        "0",
        "--every",
        "3600",
        announces=["metrics  ", "\nfaults"],
    ) as printed:
        yield printed.split("metrics  ")[1].split()[0]


@pytest.fixture(scope="module")
def prometheus(
    demo: str, binary: Callable[[str], str], root: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Culprits]:
    """A Prometheus with the repository's configuration.

    Only the target, the intervals and the places of the rules differ.
    """
    target = {"demo": urllib.parse.urlsplit(demo).netloc}
    with prometheus_server.run_prometheus(
        binary("prometheus"), root, tmp_path_factory.mktemp("prometheus"), target, seconds=SECONDS
    ) as found:
        yield Culprits(found.url, found.deadline)


def total(metric: str, selector: str = "", *, by: str = "yield_point") -> str:
    """Return a query for the growth of a counter in the last minute."""
    return f"sum by ({by}) (increase({metric}{selector}[1m]))"


def mean(histogram: str, selector: str = "") -> str:
    """Return a query for the mean of a histogram in the last minute.

    There is no series where nothing was observed.
    """
    return f"{total(f'{histogram}_sum', selector)} / {total(f'{histogram}_count', selector)} >= 0"


#: An engineer's question: the query, how many rows to read, and the functions that must be among
#: them. One row is read where the fault is worst on any machine; more where a slow machine makes
#: another fault as bad, which may then come first.
QUESTIONS: dict[str, tuple[str, int, set[str]]] = {
    "who burns the loop": (total("asyncio_segment_seconds_sum"), 6, BURNERS),
    "whose segments are longest": (mean("asyncio_segment_seconds"), 3, {"Payments.charge_card"}),
    "who blocks the loop": (
        total("asyncio_blocking_seconds_total", "{yield_point!='(running)'}"),
        3,
        {"Payments.charge_card"},
    ),
    "who harms others most": (
        total("asyncio_inflicted_wait_seconds_total"),
        3,
        {"Payments.charge_card"},
    ),
    "who gives the loop back too often": (
        total("asyncio_segment_seconds_count"),
        1,
        {"Catalogue.write_rows"},
    ),
    "which await of ours waits longest": (mean("asyncio_wait_seconds", SHOP), 1, {"Pool.acquire"}),
    "where most tasks of ours are parked": (
        total("asyncio_wait_seconds_sum", SHOP),
        1,
        {"Pool.acquire"},
    ),
    "which await is stuck": (
        f"({AGE} > 5) / {MEAN_WAIT} >= 0",
        1,
        {"Payments.wait_for_confirmation"},
    ),
    "which tasks fail": (
        total(ENDED, "{status='failed'}", by="coroutine"),
        1,
        {"Payments.send_receipt"},
    ),
    "which tasks are cancelled": (
        total(ENDED, "{status='cancelled'}", by="coroutine"),
        1,
        {"Delivery.ask_warehouse"},
    ),
}


@pytest.mark.parametrize("question", QUESTIONS)
def test_the_first_rows_name_the_guilty_functions(question: str, prometheus: Culprits) -> None:
    """Each question's first answers are the functions with the fault, at lines inside of them."""
    query, rows, expected = QUESTIONS[question]
    found = prometheus.until(
        lambda culprits: expected <= set(culprits[:rows]), lambda: prometheus.culprits(query)
    )
    assert expected == expected & set(found[:rows]), found


def test_a_call_that_blocks_for_120_ms_makes_segments_of_at_least_that(
    prometheus: Culprits,
) -> None:
    """The mean segment of the function that sleeps on the loop is no shorter than its sleep."""
    charging = "{yield_point=~'.* Payments.charge_card'}"
    query = f"asyncio_segment_seconds_sum{charging} / asyncio_segment_seconds_count{charging} >= 0"
    found = prometheus.until(bool, lambda: prometheus.ask(query))
    assert [True] == [mean_seconds >= 0.12 for _, mean_seconds in found], found


def test_the_watchdog_names_the_line_that_blocks(prometheus: Culprits) -> None:
    """The line is not the await that ends the block, but the call of ``time.sleep`` before it."""
    charging = "{blocked_at=~'.* Payments.charge_card.*'}"
    query = f"sum by (blocked_at) (asyncio_block_samples_total{charging}) > 0"
    found = prometheus.until(
        bool, lambda: [labels["blocked_at"] for labels, _ in prometheus.ask(query)]
    )
    (place,) = (PLACE.match(blocked_at) for blocked_at in found)
    assert place is not None
    source, first = inspect.getsourcelines(Payments.charge_card)
    assert source[int(place["line"]) - first].strip().startswith("time.sleep(charge_seconds)")


@pytest.mark.skipif(
    sys.platform != "linux", reason="the CPU time of another thread is read from Linux"
)
def test_a_blocked_loop_is_active_without_a_cpu(prometheus: Culprits) -> None:
    """While the loop sleeps in ``time.sleep`` it is active, but its thread takes no CPU time."""
    query = (
        "asyncio_loop_time_seconds_total{state='active'}"
        " - on (loop) asyncio_loop_thread_cpu_seconds_total > 0"
    )
    assert ["MainThread"] == prometheus.until(
        bool, lambda: [labels["loop"] for labels, _ in prometheus.ask(query)]
    )


def test_waits_are_named_by_what_is_awaited(prometheus: Culprits) -> None:
    """By what is awaited, the queue for the pool shows as the semaphore that it is."""
    query = f"topk(4, {total('asyncio_wait_seconds_sum', by='awaits')})"
    expected = "asyncio.Semaphore.acquire"
    found = prometheus.until(
        lambda found: expected in found,
        lambda: [labels["awaits"] for labels, _ in prometheus.ask(query)],
    )
    assert expected in found


def test_the_blocked_time_of_loop_and_yield_points_agrees(prometheus: Culprits) -> None:
    """The loop's blocked time is the sum of that of its yield points.

    The segment in progress is part of both.
    """
    query = "sum(asyncio_blocking_seconds_total) - sum(asyncio_loop_blocking_seconds_total)"
    blocked = prometheus.until(
        lambda found: bool(found) and found[0][1] > 0,
        lambda: prometheus.ask("asyncio_loop_blocking_seconds_total"),
    )
    assert 0 < blocked[0][1]
    assert [0] == prometheus.until(
        bool, lambda: [round(value, 6) for _, value in prometheus.ask(query)]
    )


def test_an_objective_for_one_type_of_task(prometheus: Culprits) -> None:
    """An objective of 10 ms for the warehouses is missed every time: they take 15 ms and more."""
    finished = "{coroutine=~'.*ask_warehouse',status='completed'}"
    kept = "{coroutine=~'.*ask_warehouse',status='completed',le='0.01'}"
    query = (
        f"1 - sum(increase(asyncio_task_wall_seconds_bucket{kept}[1m]))"
        f" / sum(increase(asyncio_task_wall_seconds_count{finished}[1m]))"
    )
    assert [1.0] == prometheus.until(
        lambda found: found == [1.0], lambda: [value for _, value in prometheus.ask(query)]
    )


def test_tasks_start_late_behind_a_blocked_loop(prometheus: Culprits) -> None:
    """Start delays have a 99th percentile, by the name of the loop's thread."""
    query = "histogram_quantile(0.99, rate(asyncio_loop_start_delay_seconds_bucket[1m])) > 0"
    found = prometheus.until(bool, lambda: [labels["loop"] for labels, _ in prometheus.ask(query)])
    assert ["MainThread"] == found


def test_every_task_is_traced_and_no_probe_failed(prometheus: Culprits) -> None:
    """The demo starts its exporter first, so every task is traced; there is no internal error."""
    found = prometheus.until(bool, lambda: prometheus.ask("aiometrics_untraced_tasks"))
    assert [0] == [value for _, value in found]
    assert [] == prometheus.ask("aiometrics_errors_total")
    assert [0] * 6 == prometheus.until(
        bool, lambda: [value for _, value in prometheus.ask("aiometrics_overflow_total")]
    )


def test_prometheus_understands_every_family(prometheus: Culprits) -> None:
    """The target is up, and Prometheus knows type and help of each metric as they are defined."""
    prometheus.until(
        lambda found: found == [1], lambda: [value for _, value in prometheus.ask("up")]
    )
    known = {
        name: (entry[0]["type"], entry[0]["help"])
        for name, entry in prometheus.get("metadata").items()
    }
    assert {metric.family: (metric.kind, metric.help) for metric in METRICS} == {
        metric.family: known.get(metric.family, known.get(metric.name)) for metric in METRICS
    }


def test_rules_evaluate_on_what_the_demo_exports(prometheus: Culprits) -> None:
    """Recorded series name the same culprits, and no rule fails."""
    query = "topk(4, job_yield_point:asyncio_segment_seconds_sum:rate5m)"
    expected = "Payments.charge_card"
    assert expected in prometheus.until(
        lambda found: expected in found, lambda: prometheus.culprits(query)
    )
    rules = [rule for group in prometheus.get("rules")["groups"] for rule in group["rules"]]
    assert rules
    assert [] == [rule["lastError"] for rule in rules if rule["health"] == "err"]


@pytest.mark.once
def test_the_systems_own_prometheus_understands_it_too(
    demo: str, binary: Callable[..., str], root: Path, tmp_path: Path
) -> None:
    """If a newer one is first on ``PATH``, this is the oldest that is supported: Debian 12's."""
    program = binary("prometheus", os.defpath)
    target = {"demo": urllib.parse.urlsplit(demo).netloc}
    with prometheus_server.run_prometheus(
        program, root, tmp_path, target, seconds=SECONDS
    ) as found:
        oldest = Culprits(found.url, found.deadline)
        test_prometheus_understands_every_family(oldest)
        test_rules_evaluate_on_what_the_demo_exports(oldest)


def test_promtool_accepts_the_metrics(demo: str, binary: Callable[[str], str]) -> None:
    """``promtool check metrics``, which reads the text format, has no complaint about the demo."""
    with urllib.request.urlopen(demo, timeout=300) as answer:  # noqa: S310 - to itself
        page = answer.read()
    done = subprocess.run(
        [binary("promtool"), "check", "metrics"], input=page, capture_output=True, check=False
    )
    assert (0, b"", b"") == (done.returncode, done.stdout, done.stderr)
