"""Rules, their unit tests, the runbooks and the demo's configuration are valid and agree."""

from __future__ import annotations

import json
import os
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
NATIVE_TESTS = sorted((RULES / "tests" / "prometheus3").glob("*.yml"))
RUNBOOK_URL = "https://github.com/aiometrics/aiometrics/blob/main/docs/runbooks.md"
TARGET_LABELS = {"job", "instance", "pod", "le"}


def sample_names(metric: Metric) -> set[str]:
    """Return the names of the samples of ``metric``; that of a native histogram is its own."""
    return (
        {metric.name, *(f"{metric.name}_{suffix}" for suffix in ("bucket", "count", "sum"))}
        if metric.kind == "histogram"
        else {metric.name}
    )


SAMPLES = {name: metric for metric in METRICS for name in sample_names(metric)}


def load(path: Path) -> Any:
    """Return the content of a YAML file."""
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def rules(kind: str) -> dict[str, dict[str, Any]]:
    """Return all rules of one kind, ``record`` or ``alert``, by name."""
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
    """Return the text of each section of the runbooks by heading.

    The text before the first heading is under an empty name.
    """
    first, *rest = re.split(
        r"^## ", (ROOT / "docs" / "runbooks.md").read_text(encoding="utf-8"), flags=re.MULTILINE
    )
    return {"": first} | dict(section.split("\n", 1) for section in rest)


RUNBOOKS = sections()


def blocks(language: str, section: str) -> list[str]:
    """Return the fenced blocks of one language in a section, in order."""
    return re.findall(rf"^```{language}\n(.*?)^```", section, flags=re.DOTALL | re.MULTILINE)


def names_in(*queries: str) -> set[str]:
    """Return our metrics and the recorded series that the queries contain."""
    bare = re.sub(r'"[^"]*"|\[[^\]]*\]', "", "\n".join(queries))
    return {
        token
        for token in re.findall(r"[a-zA-Z_:][\w:]*", bare)
        if token.startswith(("asyncio_", "aiometrics_")) or ":" in token
    }


def queries_in(rule: dict[str, Any]) -> list[str]:
    """Return the expression of a rule and the queries in its description."""
    return [
        rule["expr"],
        *re.findall(r"`(.+?)`", rule.get("annotations", {}).get("description", "")),
    ]


def outcomes(alert: str) -> Iterator[list[bool]]:
    """Yield for each test case of ``alert`` whether it has to fire, in the order of time."""
    for case in CASES:
        tests = [test for test in case.get("alert_rule_test", ()) if test["alertname"] == alert]
        if tests:
            yield [
                bool(test.get("exp_alerts"))
                for test in sorted(tests, key=lambda test: seconds(test["eval_time"]))
            ]


def seconds(duration: str) -> int:
    """Return a duration such as 1h30m in seconds."""
    return sum(
        int(number) * {"h": 3600, "m": 60, "s": 1}[unit]
        for number, unit in re.findall(r"(\d+)([hms])", duration)
    )


def promtool(binary: Callable[[str], str], *arguments: str) -> str:
    """Run promtool and return what it prints; fail the test with that if promtool fails."""
    done = subprocess.run(
        [binary("promtool"), *arguments], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert 0 == done.returncode, done.stdout + done.stderr
    return done.stdout


def test_configuration_of_the_demo_is_valid(binary: Callable[[str], str]) -> None:
    """Prometheus accepts ``prometheus.yml`` as it is, with both rule files."""
    assert "2 rule files found" in promtool(binary, "check", "config", "prometheus.yml")


def test_rules_are_valid(binary: Callable[[str], str]) -> None:
    """Every expression and template can be parsed, and no rule occurs twice."""
    checked = promtool(
        binary, "check", "rules", *(str(path) for path in sorted(RULES.glob("*.yml")))
    )
    assert len(RECORDS) + len(ALERTS) == sum(map(int, re.findall(r"(\d+) rules found", checked)))


@pytest.mark.once
@pytest.mark.parametrize("path", TESTS, ids=lambda path: path.name.partition(".")[0])
def test_rules_pass_their_unit_tests(binary: Callable[..., str], path: Path) -> None:
    """Alerts fire, stay silent and clear as they should, and recording rules are right.

    The values are those of Prometheus 2, whose ranges include the sample at their left end; in
    Prometheus 3 they do not, which shifts values by one sample. So this takes the promtool of the
    system, even if a newer one is first on ``PATH``.
    """
    program = binary("promtool", os.defpath)
    told = subprocess.run([program, "--version"], capture_output=True, text=True, check=True)
    if "version 2." not in told.stdout + told.stderr:
        if os.environ.get("AIOMETRICS_REQUIRE_E2E") == "1":
            pytest.fail(
                f"{program} is not of Prometheus 2, and AIOMETRICS_REQUIRE_E2E=1 demands it"
            )
        pytest.skip(f"{program} is not of Prometheus 2")
    promtool(lambda _: program, "test", "rules", str(path))


@pytest.mark.once
@pytest.mark.parametrize("path", NATIVE_TESTS, ids=lambda path: path.name.partition(".")[0])
def test_rules_read_native_histograms(binary: Callable[..., str], path: Path) -> None:
    """They record the same, and alerts say the same, where there are no classic series."""
    promtool(lambda _: binary("promtool", "/opt/debian-forky/bin"), "test", "rules", str(path))


def test_each_histogram_that_is_recorded_is_tested_as_a_native_one() -> None:
    """The series by bucket are of classic ones only."""
    tested = {
        name
        for path in NATIVE_TESTS
        for case in load(path)["tests"]
        for test in case.get("promql_expr_test", ())
        for name in names_in(test["expr"])
    }
    assert tested == {name for name, rule in RECORDS.items() if "histogram_" in rule["expr"]}


@pytest.mark.parametrize("alert", ALERTS)
def test_every_alert_fires_and_clears_in_a_test_case(alert: str) -> None:
    """In one test case the alert fires and, later in the same case, no longer fires."""
    assert any(True in fired and not all(fired[fired.index(True) :]) for fired in outcomes(alert))


@pytest.mark.parametrize("alert", ALERTS)
def test_every_alert_stays_silent_in_a_test_case(alert: str) -> None:
    """In one test case the alert never fires."""
    assert any(not any(fired) for fired in outcomes(alert))


@pytest.mark.parametrize("record", RECORDS)
def test_every_recorded_series_has_a_test(record: str) -> None:
    """One test case states what the rule records."""
    expressions = [
        test["expr"]
        for case in CASES
        for test in case.get("promql_expr_test", ())
        if test["exp_samples"]
    ]
    assert any(record in names_in(expression) for expression in expressions)


@pytest.mark.parametrize("group", GROUPS, ids=lambda group: group["name"])
def test_a_recording_rule_reads_only_earlier_records_of_its_own_group(
    group: dict[str, Any],
) -> None:
    """Groups run in parallel, so a rule could read a record of this evaluation or of the last one.

    If the value is the old one, it would be recorded twice, and Prometheus drops it.
    """
    before: set[str] = set()
    for rule in group["rules"]:
        assert set() == (names_in(rule["expr"]) & RECORDS.keys()) - before, rule["record"]
        before.add(rule["record"])


@pytest.mark.parametrize("group", GROUPS, ids=lambda group: group["name"])
def test_series_recorded_less_often_are_still_found(group: dict[str, Any]) -> None:
    """Prometheus looks back five minutes for a sample, which covers one missed evaluation."""
    assert 300 > 2 * seconds(group.get("interval", "0s"))


@pytest.mark.parametrize("record", RECORDS)
def test_recorded_names_have_a_level_a_metric_and_operations(record: str) -> None:
    """Names are level:metric:operations, so that the level of aggregation can be read off them."""
    assert re.fullmatch(r"job(_\w+)?:(asyncio|aiometrics)_[a-z_]+:[a-z0-9_]+", record)


@pytest.mark.parametrize("alert", ALERTS)
def test_every_alert_has_all_labels_and_annotations(alert: str) -> None:
    """An alert has a severity, a constant summary, a description with values, and two links."""
    rule = ALERTS[alert]
    assert re.fullmatch(r"Asyncio([A-Z][a-z]+)+", alert)
    assert {"severity"} == set(rule["labels"])
    assert rule["labels"]["severity"] in {"critical", "warning", "info"}
    wanted = {"summary", "description", "runbook_url", "dashboard_url"}
    assert wanted == set(rule["annotations"])
    assert "{{" not in rule["annotations"]["summary"]
    assert "{{ $labels." in rule["annotations"]["description"]
    assert f"{RUNBOOK_URL}#{alert.lower()}" == rule["annotations"]["runbook_url"]


def test_runbooks_have_a_section_for_every_alert_and_no_other() -> None:
    """The headings of the runbooks are the names of the alerts, in the same order."""
    assert list(ALERTS) == [heading for heading in RUNBOOKS if heading]


@pytest.mark.parametrize("alert", ALERTS)
def test_every_runbook_section_answers_the_same_questions(alert: str) -> None:
    """A section has meaning, panel, query, causes, a change with example, and measurements."""
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
    """The titles in the **Open** paragraph of a runbook are titles of panels or rows."""
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
    """Yield every title in a dashboard, at any depth."""
    if isinstance(node, dict):
        if isinstance(node.get("title"), str):
            yield node["title"]
        node = list(node.values())
    if isinstance(node, list):
        for child in node:
            yield from titles_in(child)


def test_queries_of_the_runbooks_can_be_parsed(
    binary: Callable[[str], str], tmp_path: Path
) -> None:
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
    """The example runs after the function at the top of the page, and prints before and after."""
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
    """Every series in an expression or description is a metric or recorded by a rule."""
    used = names_in(*queries_in((RECORDS | ALERTS)[name]))
    assert used
    assert set() == used - SAMPLES.keys() - RECORDS.keys()


@pytest.mark.parametrize("alert", ALERTS)
def test_runbooks_only_use_metrics_that_exist(alert: str) -> None:
    """Every series in a runbook's queries is a metric or recorded by a rule."""
    assert set() == names_in(*blocks("promql", RUNBOOKS[alert])) - SAMPLES.keys() - RECORDS.keys()


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["name"][:60])
def test_unit_tests_of_rules_feed_series_as_they_are_exported(case: dict[str, Any]) -> None:
    """Input series have the labels of the metric and of the target, and no others.

    An empty label is left out.
    """
    for given in case["input_series"]:
        name, labels = re.fullmatch(r"(\w+)\{(.*)\}", given["series"]).groups()  # type: ignore[union-attr]
        own = set(re.findall(r'(\w+)="', labels)) - TARGET_LABELS
        if name == "up":
            assert set() == own
            continue
        assert set(SAMPLES[name].labels) - {"awaits"} == own - {"awaits"}, given["series"]


def test_rules_and_dashboards_do_without_native_histograms(
    tmp_path: Path, binary: Callable[[str], str]
) -> None:
    """The command in the documentation takes out what not every database knows, and no more."""
    text = (ROOT / "docs/metrics.md").read_text(encoding="utf-8")
    (command,) = re.findall(r"^sed -Ei .*$", text, flags=re.MULTILINE)
    for folder in ("rules", "grafana/dashboards", "grafana/dashboards-v2"):
        (tmp_path / folder).mkdir(parents=True)
        for path in (ROOT / folder).glob("aiometrics*.yml" if folder == "rules" else "*.json"):
            (tmp_path / folder / path.name).write_bytes(path.read_bytes())
    subprocess.run(command, shell=True, cwd=tmp_path, check=True)  # noqa: S602 - our own page
    left = {path: path.read_text(encoding="utf-8") for path in tmp_path.rglob("*.*")}
    assert 10 == len(left)
    for path, content in left.items():
        assert not re.search(r" or histogram_(sum|count)", content), path
        before = (ROOT / path.relative_to(tmp_path)).read_text(encoding="utf-8")
        assert content.count("_seconds_sum") == before.count("_seconds_sum"), path
        balance = [text.count("(") - text.count(")") for text in (content, before)]
        assert balance[0] == balance[1], path
    subprocess.run(
        [binary("promtool"), "check", "rules", *(tmp_path / "rules").glob("*.yml")],
        check=True,
        capture_output=True,
    )
