"""One fault sends one page: what fires together with it is inhibited."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
INHIBITIONS: list[dict[str, Any]] = yaml.safe_load(
    (ROOT / "deploy/alertmanager/alertmanager.yml").read_text(encoding="utf-8")
)["inhibit_rules"]
SEVERITIES: dict[str, str] = {
    rule["alert"]: rule["labels"]["severity"]
    for group in yaml.safe_load((ROOT / "rules/aiometrics.alerts.yml").read_text(encoding="utf-8"))[
        "groups"
    ]
    for rule in group["rules"]
}
LOOP = {"job": "shop", "instance": "a:9400", "loop": "MainThread"}
INSTANCE = {"job": "shop", "instance": "a:9400"}
REQUEST = {"job": "shop", "request": "GET /"}
JOB = {"job": "shop"}
Alert = tuple[str, Mapping[str, str]]

STARVED: list[Alert] = [
    (f"AsyncioLoopStarved{burn}", LOOP) for burn in ("FastBurn", "SlowBurn", "BudgetSpent")
]
LATE: list[Alert] = [
    (f"AsyncioRequestObjective{burn}", REQUEST) for burn in ("FastBurn", "SlowBurn", "BudgetSpent")
]
#: The alerts that fire together, by fault; the first is the one that is sent.
FAULTS: dict[str, list[Alert]] = {
    "a line blocks the loop": [*STARVED, ("AsyncioLoopSaturated", LOOP)],
    "a line has blocked the loop for hours": STARVED[1:],
    "a loop blocks and its requests are late": [*STARVED, *LATE],
    "a loop hangs": [("AsyncioLoopHung", LOOP), *STARVED, *LATE],
    "a database is slow right after the start": LATE,
    "a database has been slow for hours": LATE[1:],
    "a machine has too few processors": [
        ("AsyncioLoopThreadStarvedByScheduler", LOOP),
        ("AsyncioLoopSaturated", LOOP),
    ],
    "nothing refers to a task": [
        ("AsyncioTasksDestroyedPending", {**INSTANCE, "coroutine": "shop.mail.send"}),
        ("AsyncioUnhandledExceptions", LOOP),
    ],
    "tasks fail and nobody awaits them": [
        ("AsyncioTaskFailures", {**JOB, "coroutine": "shop.mail.send"}),
        ("AsyncioUnhandledExceptions", LOOP),
    ],
    "a pool gives nothing back": [
        ("AsyncioAwaitStuck", {**INSTANCE, "coroutine": "shop.pay", "awaits": "Pool.acquire"}),
        ("AsyncioTaskLeak", {**INSTANCE, "coroutine": "shop.pay"}),
    ],
    "the only process is gone": [
        ("AsyncioExporterDown", INSTANCE),
        ("AsyncioExporterAbsent", JOB),
    ],
}


def matches(alert: Alert, matchers: list[str]) -> bool:
    """Whether all matchers are true of an alert, as Alertmanager reads them."""
    name, labels = alert
    for matcher in matchers:
        found = re.fullmatch(r'(\w+)(=~|!=|=)"(.*)"', matcher)
        assert found is not None, matcher
        value = {**labels, "alertname": name}.get(found[1], "")
        true = re.fullmatch(found[3], value) if found[2] == "=~" else value == found[3]
        if bool(true) == (found[2] == "!="):
            return False
    return True


def inhibited(target: Alert, firing: list[Alert]) -> bool:
    """Whether another alert that fires inhibits this one."""
    return any(
        matches(target, rule["target_matchers"])
        and matches(source, rule["source_matchers"])
        and all(source[1].get(label) == target[1].get(label) for label in rule["equal"])
        for rule in INHIBITIONS
        for source in firing
        if source is not target
    )


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_sends_one_alert(fault: str) -> None:
    """Of all alerts that it makes fire, the one that says most is sent."""
    firing = FAULTS[fault]
    sent = [alert for alert in firing if not inhibited(alert, firing)]
    assert firing[:1] == sent
    assert SEVERITIES[sent[0][0]] in {"critical", "warning"}


@pytest.mark.parametrize("fault", FAULTS)
def test_another_job_is_not_silenced(fault: str) -> None:
    """The same alerts of another job are sent as well."""
    firing = FAULTS[fault]
    others = [(name, {**labels, "job": "bank"}) for name, labels in firing]
    sent = [alert for alert in (*firing, *others) if not inhibited(alert, [*firing, *others])]
    assert [firing[0], others[0]] == sent
