"""Rules, their unit tests, the runbooks and the demo's configuration: each holds by itself, and they fit each other."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from aiometrics.exposition.metrics import METRICS, Metric

ROOT = Path(__file__).resolve().parents[2]
RULES = ROOT / "rules"
TESTS = sorted((RULES / "tests").glob("*.yml"))
RUNBOOK_URL = "https://github.com/aiometrics/aiometrics/blob/main/docs/runbooks.md"
TARGET_LABELS = {"job", "instance", "pod", "le"}


def sample_names(metric: Metric) -> set[str]:
    """The names that the samples of ``metric`` carry."""
    return (
        {f"{metric.name}_{suffix}" for suffix in ("bucket", "count", "sum")}
        if metric.kind == "histogram"
        else {metric.name}
    )


SAMPLES = {name: metric for metric in METRICS for name in sample_names(metric)}


def load(path: Path) -> Any:
    """What a YAML file says."""
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def rules(kind: str) -> dict[str, dict[str, Any]]:
    """All rules of one kind, ``record`` or ``alert``, by name."""
    found = [
        rule
        for path in sorted(RULES.glob("*.yml"))
        for group in load(path)["groups"]
        for rule in group["rules"]
        if kind in rule
    ]
    by_name = {rule[kind]: rule for rule in found}
    assert len(found) == len(by_name), f"two {kind} rules share a name"
    return by_name


RECORDS, ALERTS = rules("record"), rules("alert")
GROUPS = load(RULES / "aiometrics.rules.yml")["groups"]
CASES = [case for path in TESTS for case in load(path)["tests"]]


def sections() -> dict[str, str]:
    """The text of each section of the runbooks, by heading; what comes before the first is under an empty name."""
    first, *rest = re.split(
        r"^## ", (ROOT / "docs" / "runbooks.md").read_text(encoding="utf-8"), flags=re.MULTILINE
    )
    return {"": first} | dict(section.split("\n", 1) for section in rest)


RUNBOOKS = sections()


def blocks(language: str, section: str) -> list[str]:
    """The fenced blocks of one language in a section, in their order."""
    return re.findall(rf"^```{language}\n(.*?)^```", section, flags=re.DOTALL | re.MULTILINE)


def names_in(*queries: str) -> set[str]:
    """Our metrics and the recorded series that the queries mention."""
    bare = re.sub(r'"[^"]*"|\[[^\]]*\]', "", "\n".join(queries))
    return {
        token
        for token in re.findall(r"[a-zA-Z_:][\w:]*", bare)
        if token.startswith(("asyncio_", "aiometrics_")) or ":" in token
    }


def queries_in(rule: dict[str, Any]) -> list[str]:
    """The expression of a rule, and the queries that its description runs."""
    return [
        rule["expr"],
        *re.findall(r"`(.+?)`", rule.get("annotations", {}).get("description", "")),
    ]


def outcomes(alert: str) -> Iterator[list[bool]]:
    """For each test case that asks for ``alert``: whether it was to fire, in the order of time."""
    for case in CASES:
        asked = [test for test in case.get("alert_rule_test", ()) if test["alertname"] == alert]
        if asked:
            yield [
                bool(test.get("exp_alerts"))
                for test in sorted(asked, key=lambda test: seconds(test["eval_time"]))
            ]


def seconds(duration: str) -> int:
    """A duration such as 1h30m in seconds."""
    return sum(
        int(number) * {"h": 3600, "m": 60, "s": 1}[unit]
        for number, unit in re.findall(r"(\d+)([hms])", duration)
    )


def promtool(binary: Callable[[str], str], *arguments: str) -> str:
    """What promtool prints; the test fails with it if promtool does not succeed."""
    done = subprocess.run(
        [binary("promtool"), *arguments], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert 0 == done.returncode, done.stdout + done.stderr
    return done.stdout


def test_configuration_of_the_demo_is_valid(binary: Callable[[str], str]) -> None:
    """Prometheus accepts prometheus.yml as it stands in the root, with both rule files."""
    assert "2 rule files found" in promtool(binary, "check", "config", "prometheus.yml")


def test_rules_are_valid(binary: Callable[[str], str]) -> None:
    """Every expression and template parses, and no rule is there twice."""
    checked = promtool(
        binary, "check", "rules", *(str(path) for path in sorted(RULES.glob("*.yml")))
    )
    assert len(RECORDS) + len(ALERTS) == sum(map(int, re.findall(r"(\d+) rules found", checked)))


@pytest.mark.once
@pytest.mark.parametrize("path", TESTS, ids=lambda path: path.name.partition(".")[0])
def test_rules_do_what_their_unit_tests_say(binary: Callable[[str], str], path: Path) -> None:
    """Alerts fire with these labels and texts, stay silent and clear; recording rules record these values."""
    promtool(binary, "test", "rules", str(path))


@pytest.mark.parametrize("alert", ALERTS)
def test_every_alert_is_seen_firing_and_clearing(alert: str) -> None:
    """One test case has the alert fire and, later in the same case, not fire any more."""
    assert any(True in fired and not all(fired[fired.index(True) :]) for fired in outcomes(alert))


@pytest.mark.parametrize("alert", ALERTS)
def test_every_alert_stays_silent_in_an_innocent_case(alert: str) -> None:
    """One test case looks for the alert and never finds it."""
    assert any(not any(fired) for fired in outcomes(alert))


@pytest.mark.parametrize("record", RECORDS)
def test_every_recorded_series_has_a_test(record: str) -> None:
    """One test case says what the rule records."""
    expressions = [
        test["expr"]
        for case in CASES
        for test in case.get("promql_expr_test", ())
        if test["exp_samples"]
    ]
    assert any(record in names_in(expression) for expression in expressions)


@pytest.mark.parametrize("group", GROUPS, ids=lambda group: group["name"])
def test_a_recording_rule_reads_only_what_its_own_group_has_recorded_before(
    group: dict[str, Any],
) -> None:
    """Groups run side by side: what another one records may be of this evaluation or of the last, and a value recorded twice is dropped."""
    before: set[str] = set()
    for rule in group["rules"]:
        assert set() == (names_in(rule["expr"]) & RECORDS.keys()) - before, rule["record"]
        before.add(rule["record"])


@pytest.mark.parametrize("group", GROUPS, ids=lambda group: group["name"])
def test_what_is_recorded_more_rarely_is_still_found(group: dict[str, Any]) -> None:
    """Prometheus looks back five minutes for a sample: even if one evaluation is missed, alerts and dashboards find the one before."""
    assert 300 > 2 * seconds(group.get("interval", "0s"))


@pytest.mark.parametrize("record", RECORDS)
def test_recorded_names_have_a_level_a_metric_and_operations(record: str) -> None:
    """level:metric:operations, so that nobody has to look up what is left after the aggregation."""
    assert re.fullmatch(r"job(_\w+)?:(asyncio|aiometrics)_[a-z_]+:[a-z0-9_]+", record)


@pytest.mark.parametrize("alert", ALERTS)
def test_every_alert_says_what_an_alert_has_to_say(alert: str) -> None:
    """A name in CamelCase, a severity, a summary that never changes, a description with values, and where to read on."""
    rule = ALERTS[alert]
    assert re.fullmatch(r"Asyncio([A-Z][a-z]+)+", alert)
    assert {"severity"} == set(rule["labels"])
    assert rule["labels"]["severity"] in {"critical", "warning", "info"}
    assert {"summary", "description", "runbook_url"} == set(rule["annotations"])
    assert "{{" not in rule["annotations"]["summary"]
    assert "{{ $labels." in rule["annotations"]["description"]
    assert f"{RUNBOOK_URL}#{alert.lower()}" == rule["annotations"]["runbook_url"]


def test_every_alert_has_a_runbook_section_and_no_section_is_left_over() -> None:
    """The headings of the runbooks are the names of the alerts, in their order."""
    assert list(ALERTS) == [heading for heading in RUNBOOKS if heading]


@pytest.mark.parametrize("alert", ALERTS)
def test_every_runbook_section_answers_the_same_questions(alert: str) -> None:
    """Meaning, panel, query, causes, change with an example, and what the example measured."""
    section = RUNBOOKS[alert]
    parts = (
        "**What it means.**",
        "**Open**",
        "**Narrow it down.**",
        "```promql",
        "**Usual causes.**",
        "**Change**",
        "```python",
        "Measured: ",
    )
    places = [section.find(part) for part in parts]
    assert -1 not in places
    assert sorted(places) == places


@pytest.mark.parametrize("alert", ALERTS)
def test_panels_that_runbooks_name_exist(alert: str) -> None:
    """Whoever follows a runbook finds the panel under the title it gives."""
    dashboards = [
        json.loads(path.read_text(encoding="utf-8"))
        for path in (ROOT / "grafana" / "dashboards").glob("*.json")
    ]
    paragraphs = [
        paragraph for paragraph in RUNBOOKS[alert].split("\n\n") if paragraph.startswith("**Open**")
    ]
    named = {
        re.sub(r"\s+", " ", title)
        for paragraph in paragraphs
        for title in re.findall(r'"(.+?)"', paragraph, flags=re.DOTALL)
    }
    assert named
    assert set() == named - set(titles_in(dashboards))


def titles_in(node: Any) -> Iterator[str]:
    """Every title in a dashboard, at any depth."""
    if isinstance(node, dict):
        if isinstance(node.get("title"), str):
            yield node["title"]
        node = list(node.values())
    if isinstance(node, list):
        for child in node:
            yield from titles_in(child)


def test_queries_of_the_runbooks_parse(binary: Callable[[str], str], tmp_path: Path) -> None:
    """Each line of a query block is a query that Prometheus accepts."""
    queries = [
        line
        for section in RUNBOOKS.values()
        for block in blocks("promql", section)
        for line in block.splitlines()
        if line.strip()
    ]
    group = {
        "name": "runbooks",
        "rules": [
            {"record": f"query:{number}", "expr": query} for number, query in enumerate(queries)
        ],
    }
    path = tmp_path / "queries.yml"
    path.write_text(yaml.safe_dump({"groups": [group]}), encoding="utf-8")
    assert f"{len(queries)} rules found" in promtool(binary, "check", "rules", str(path))


@pytest.mark.skipif(sys.platform != "linux", reason="the examples fork and read /proc")
@pytest.mark.parametrize("alert", ALERTS)
def test_examples_of_the_runbooks_run(alert: str) -> None:
    """The example runs behind the function that the page begins with, prints its before and after, and nothing goes wrong."""
    (shared,), (example,) = blocks("python", RUNBOOKS[""]), blocks("python", RUNBOOKS[alert])
    done = subprocess.run(
        [sys.executable, "-c", shared + example],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert (0, "") == (done.returncode, done.stderr)
    assert {"before", "after"} <= set(re.findall(r"before|after", done.stdout.lower()))


@pytest.mark.parametrize("name", sorted(RECORDS | ALERTS))
def test_rules_only_use_metrics_that_exist(name: str) -> None:
    """Every series in an expression or in a query of a description is in the catalogue, or recorded by a rule."""
    used = names_in(*queries_in((RECORDS | ALERTS)[name]))
    assert used
    assert set() == used - SAMPLES.keys() - RECORDS.keys()


@pytest.mark.parametrize("alert", ALERTS)
def test_runbooks_only_use_metrics_that_exist(alert: str) -> None:
    """Every series in a runbook's queries is in the catalogue, or recorded by a rule."""
    assert set() == names_in(*blocks("promql", RUNBOOKS[alert])) - SAMPLES.keys() - RECORDS.keys()


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["name"][:60])
def test_unit_tests_of_rules_feed_series_as_they_are_exported(case: dict[str, Any]) -> None:
    """Input series have the labels of the catalogue and no others, but for those of the target; an empty label is left out."""
    for given in case["input_series"]:
        name, labels = re.fullmatch(r"(\w+)\{(.*)\}", given["series"]).groups()  # type: ignore[union-attr]
        own = set(re.findall(r'(\w+)="', labels)) - TARGET_LABELS
        if name == "up":
            assert set() == own
            continue
        assert set(SAMPLES[name].labels) - {"awaits"} == own - {"awaits"}, given["series"]
