"""Collectors of the application: what one of them does never costs our metrics, nor the page."""

from __future__ import annotations

import itertools
import logging
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import pytest
import requests
from prometheus_client import CollectorRegistry, Counter, Gauge, generate_latest
from prometheus_client import Metric as Family
from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse
from prometheus_client.parser import text_string_to_metric_families as parse_text

import aiometrics
from aiometrics.exposition import collection

PROMETHEUS_3 = "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,*/*;q=0.2"
TEXT = "text/plain"
OPENMETRICS = "application/openmetrics-text;version=1.0.0"


class Collects:
    """A collector that calls a function."""

    def __init__(self, collect: Callable[[], Iterable[Family]]) -> None:
        self.collect = collect

    def describe(self) -> list[Family]:
        """Return nothing: it is not known before."""
        return []


def gauge(name: str) -> Family:
    """Return a family of one sample."""
    family = Family(name, "A gauge.", "gauge")
    family.add_sample(name, {}, 1)
    return family


class Deadline:
    """How many seconds collectors are given: more than a busy machine needs, unless changed."""

    seconds = 60.0


@pytest.fixture
def deadline(monkeypatch: pytest.MonkeyPatch) -> Deadline:
    """What each collection of a registry asks before it waits."""
    made = Deadline()
    asked = property(lambda _: made.seconds, lambda *_: None)
    monkeypatch.setattr(collection.Collection, "_deadline", asked, raising=False)
    return made


@pytest.fixture
def registry(deadline: Deadline) -> CollectorRegistry:  # noqa: ARG001 - it is given time
    """A registry with a collector."""
    made = CollectorRegistry()
    Gauge("stock_before", "Before.", registry=made)
    return made


def families(exporter: aiometrics.Exporter, accept: str = OPENMETRICS) -> dict[str, Any]:
    """The families of a scrape, which must be valid."""
    response = requests.get(exporter.url, headers={"Accept": accept}, timeout=300)
    response.raise_for_status()
    read: Callable[[str], Iterable[Family]] = parse_text if accept == TEXT else parse
    found = read(response.text)
    return {family.name: family for family in found}


def errors(found: dict[str, Any]) -> float:
    """How many errors of the registry are counted."""
    return sum(
        float(sample.value)
        for sample in found["aiometrics_errors"].samples
        if sample.labels == {"probe": "registry"}
    )


def raises(error: BaseException) -> Callable[[], Iterable[Family]]:
    """Return a function that yields a family and raises."""

    def collect() -> Iterator[Family]:
        yield gauge("partial")
        raise error

    return collect


@pytest.mark.parametrize(
    "error", [ValueError("broken"), SystemExit(3), KeyboardInterrupt(), GeneratorExit()]
)
def test_a_collector_that_raises_costs_only_its_own(
    registry: CollectorRegistry, error: BaseException, caplog: pytest.LogCaptureFixture
) -> None:
    """The collectors after it are asked, whatever it raised, and the log names it."""
    registry.register(Collects(raises(error)))
    Gauge("stock_after", "After.", registry=registry)
    with aiometrics.start_exporter(0, "127.0.0.1", registry=registry) as exporter:
        first, second = families(exporter), families(exporter)
    assert {"stock_before", "partial", "stock_after", "asyncio_tasks"} <= first.keys()
    assert 1 == errors(second)
    assert "Collects" in caplog.text


def test_a_collector_that_never_returns_costs_only_its_own(
    registry: CollectorRegistry, deadline: Deadline
) -> None:
    """It is left out until it returns, and each scrape is answered meanwhile."""
    released = threading.Event()

    def collect() -> list[Family]:
        released.wait()
        return [gauge("late")]

    others = set(threading.enumerate())
    registry.register(Collects(collect))
    Gauge("stock_after", "After.", registry=registry)
    with aiometrics.start_exporter(0, "127.0.0.1", registry=registry) as exporter:
        deadline.seconds = 3.0
        first = families(exporter)
        deadline.seconds = Deadline.seconds
        later = [families(exporter) for _ in range(30)]
        threads = {thread for thread in threading.enumerate() if "registry" in thread.name} - others
        released.set()
        while "late" not in families(exporter):
            pass
    assert {"stock_before", "asyncio_tasks"} <= first.keys()
    assert all({"stock_before", "stock_after"} <= found.keys() for found in later)
    assert (1, 2) == (errors(later[-1]), len(threads))


def test_a_collector_without_end_costs_only_its_own(
    registry: CollectorRegistry, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A generator that forgets to stop would take all memory, also when nobody waits any more."""
    monkeypatch.setattr(collection, "MOST_FAMILIES", 20)
    registry.register(Collects(lambda: map(gauge, map("endless_{}".format, itertools.count()))))
    Gauge("stock_after", "After.", registry=registry)
    with aiometrics.start_exporter(0, "127.0.0.1", registry=registry) as exporter:
        first, second = families(exporter), families(exporter)
    assert {"stock_before", "stock_after", "asyncio_tasks"} <= first.keys()
    assert [] == [name for name in second if name.startswith("endless")]
    assert 1 == errors(second)
    assert "more than 20 families" in caplog.text


def test_a_registration_that_blocks_costs_only_the_registry(
    registry: CollectorRegistry, deadline: Deadline
) -> None:
    """A registry asks a new collector for its names, and cannot be read meanwhile."""
    asked, released = threading.Event(), threading.Event()

    class Slow(Collects):
        def describe(self) -> list[Family]:
            asked.set()
            released.wait()
            return []

    slow = threading.Thread(target=registry.register, args=(Slow(list),))
    with aiometrics.start_exporter(0, "127.0.0.1", registry=registry) as exporter:
        slow.start()
        asked.wait()
        deadline.seconds = 0.5
        found = [families(exporter) for _ in range(2)]
        deadline.seconds = Deadline.seconds
        released.set()
        slow.join()
        after = families(exporter)
    assert ["asyncio_tasks" in each for each in found] == [True, True]
    assert (False, 1) == ("stock_before" in found[1], errors(found[1]))
    assert "stock_before" in after


class Leaves(float):
    """A value that ends the thread that writes it."""

    def __float__(self) -> float:
        raise SystemExit(3)


def weird() -> Family:
    """Return a family of an unknown type."""
    family = gauge("odd")
    family.type = "weird"
    return family


def with_sample(name: str, labels: dict[str, str], value: Any) -> Family:
    """Return a family of one sample."""
    family = Family("odd", "Odd.", "gauge")
    family.add_sample(name, labels, value)
    return family


@pytest.mark.parametrize("accept", [TEXT, OPENMETRICS, PROMETHEUS_3])
@pytest.mark.parametrize(
    "odd",
    [
        with_sample("odd", {}, Leaves()),
        with_sample("odd", {}, None),
        with_sample("odd", {}, "many"),
        with_sample("odd\n", {}, 1),
        with_sample("odd", {"name\n": "value"}, 1),
        weird(),
        None,
    ],
    ids=["exits", "nothing", "text", "line", "label", "type", "no family"],
)
def test_a_family_that_nobody_could_read_costs_only_itself(
    registry: CollectorRegistry, accept: str, odd: Any
) -> None:
    """``SystemExit`` would end the connection, and a value or a name can make a page invalid."""
    registry.register(Collects(lambda: [odd]))
    with aiometrics.start_exporter(0, "127.0.0.1", registry=registry) as exporter:
        families(exporter, accept)
        found = families(exporter, accept)
    assert {"stock_before", "asyncio_tasks"} <= found.keys()
    assert ("odd" in found, errors(found)) == (False, 1)


def test_a_name_of_ours_is_a_warning_and_no_internal_error(
    registry: CollectorRegistry, caplog: pytest.LogCaptureFixture
) -> None:
    """It is counted, and logged once without a traceback."""
    Gauge("asyncio_tasks", "Theirs.", registry=registry).set(7)
    Gauge("asyncio_wait_seconds_sum", "Theirs.", registry=registry).set(7)
    with aiometrics.start_exporter(0, "127.0.0.1", registry=registry) as exporter:
        found = [families(exporter) for _ in range(3)][-1]
    assert 4 == errors(found)
    records = [record for record in caplog.records if record.name == "aiometrics"]
    assert [(logging.WARNING, None)] * 2 == [(each.levelno, each.exc_info) for each in records]
    assert "a metric 'asyncio_tasks', which aiometrics has too" in records[0].getMessage()


@pytest.mark.parametrize("accept", ["text/plain", OPENMETRICS, PROMETHEUS_3])
def test_a_page_with_two_families_of_one_name_is_valid(
    registry: CollectorRegistry, accept: str
) -> None:
    """The second one is left out and counted; it may have the same name only as it is written."""
    registry.register(Collects(lambda: [gauge("twice"), gauge("twice")]))
    registry.register(Collects(lambda: [gauge("queue_size"), gauge("queue.size")]))
    with aiometrics.start_exporter(0, "127.0.0.1", registry=registry) as exporter:
        text = [
            requests.get(exporter.url, headers={"Accept": accept}, timeout=300).text
            for _ in range(2)
        ][-1]
    types = [line.split()[2] for line in text.splitlines() if line.startswith("# TYPE")]
    assert len(types) == len(set(types))
    utf_8 = accept == PROMETHEUS_3
    assert utf_8 == ('{"queue.size"} 1' in text)
    assert f'aiometrics_errors_total{{probe="registry"}} {1 if utf_8 else 2}\n' in text


@pytest.mark.parametrize("accept", [OPENMETRICS, PROMETHEUS_3, "text/plain"])
def test_names_come_out_as_prometheus_client_would_send_them(accept: str) -> None:
    """A colon needs no escaping, and other letters only where the scraper cannot read them."""
    registry = CollectorRegistry()
    Gauge("vllm:num_requests", "Colon.", ["model"], registry=registry).labels("a").set(3)
    Counter("vllm:tokens", "Colon.", registry=registry)
    Gauge("queue.size", "Dot.", registry=registry).set(4)
    with aiometrics.start_exporter(0, "127.0.0.1", registry=registry) as exporter:
        response = requests.get(exporter.url, headers={"Accept": accept}, timeout=300)
    scheme = "allow-utf-8" if accept == PROMETHEUS_3 else "underscores"
    if accept == "text/plain":
        theirs = generate_latest(registry, scheme)
    else:
        assert f"escaping={scheme}" in response.headers["Content-Type"]
        theirs = generate_openmetrics(registry, scheme)  # type: ignore[no-untyped-call]
    theirs = theirs.replace(b"\nvllm_", b"\nvllm:")  # it forgets the name of the family there
    assert response.text.endswith(theirs.decode())
