"""The dashboards are generated, agree with metrics, rules and alerts, and link to each other."""

from __future__ import annotations

import json
import math
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import jsonschema  # type: ignore[import-untyped]  # it has no stubs of its own
import pytest
import yaml

from aiometrics.exposition.metrics import METRICS

ROOT = Path(__file__).resolve().parents[2]
FILES = sorted((ROOT / "grafana/dashboards").glob("*.json"))
V2_FILES = sorted((ROOT / "grafana/dashboards-v2").glob("*.json"))
VARIABLES = ["datasource", "job", "instance", "loop", "coroutine", "request", "topk"]
NAME = re.compile(r"[a-zA-Z_:][a-zA-Z0-9_:]*(?=\{)")

#: Panels whose thresholds are those of alerts.
LIMITS = {
    "How busy is the busiest loop?": ["AsyncioLoopSaturated"],
    "Which loop is busy?": ["AsyncioLoopSaturated"],
    "Which instances are busiest?": ["AsyncioLoopSaturated"],
    "How much of the time is a loop blocked?": [
        "AsyncioLoopStarvedBudgetSpent",
        "AsyncioLoopStarvedSlowBurn",
        "AsyncioLoopStarvedFastBurn",
    ],
    "Which loop is blocked?": [
        "AsyncioLoopStarvedBudgetSpent",
        "AsyncioLoopStarvedSlowBurn",
        "AsyncioLoopStarvedFastBurn",
    ],
    "Which instances were blocked, and when?": [
        "AsyncioLoopStarvedBudgetSpent",
        "AsyncioLoopStarvedSlowBurn",
        "AsyncioLoopStarvedFastBurn",
    ],
    "Which loop waits for a CPU?": ["AsyncioLoopThreadStarvedByScheduler"],
    "Which loop has stopped responding?": ["AsyncioLoopHung"],
    "How old is the oldest await?": ["AsyncioAwaitStuck"],
    "How old is its oldest await?": ["AsyncioAwaitStuck"],
    "How many tasks fail?": ["AsyncioTaskFailures"],
    "How many of its tasks fail?": ["AsyncioTaskFailures"],
    "How much of a loop's time does it take?": ["AsyncioHotYieldPoint"],
}

#: The panel to look at first when an alert fires.
PANEL_OF_ALERT = {
    "AsyncioLoopStarvedFastBurn": "Which line blocked the loop?",
    "AsyncioLoopStarvedSlowBurn": "Which line blocked the loop?",
    "AsyncioLoopStarvedBudgetSpent": "Which line blocked the loop?",
    "AsyncioLoopHung": "Which loop has stopped responding?",
    "AsyncioLoopSaturated": "Which lines hold the loop?",
    "AsyncioLoopThreadStarvedByScheduler": "Which loop waits for a CPU?",
    "AsyncioHotYieldPoint": "Which yield points do the most harm?",
    "AsyncioAwaitStuck": "Which await is stuck?",
    "AsyncioTaskFailures": "Which tasks fail, or are destroyed while pending?",
    "AsyncioTaskLeak": "Which tasks pile up?",
    "AsyncioExecutorSaturated": "Does the executor keep up?",
    "AsyncioUnhandledExceptions": "Which loop has unhandled exceptions?",
    "AsyncioTasksDestroyedPending": "Which tasks fail, or are destroyed while pending?",
    "AsyncioRequestObjectiveFastBurn": "Which requests miss their objective?",
    "AsyncioRequestObjectiveSlowBurn": "Which requests miss their objective?",
    "AsyncioRequestObjectiveBudgetSpent": "Which requests miss their objective?",
    "AsyncioExporterDown": "How many processes answer?",
    "AsyncioExporterAbsent": "How many processes answer?",
    "AsyncioSeriesOverflowing": "Did the tables of names run out of room?",
    "AsyncioExporterErrors": "Were there internal errors?",
}


def boards() -> dict[str, dict[str, Any]]:
    """Return the committed dashboards by file name."""
    return {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in FILES}


def panels(board: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield every panel that is not a row, including those in collapsed rows."""
    for panel in board["panels"]:
        if panel["type"] != "row":
            yield panel
        yield from panel.get("panels", [])


def all_panels() -> Iterator[dict[str, Any]]:
    """Yield the panels of all dashboards."""
    for board in boards().values():
        yield from panels(board)


def exported() -> set[str]:
    """Return the names of all samples in the list of metrics."""
    suffixes = {"histogram": ("_bucket", "_sum", "_count", "")}
    return {
        f"{metric.name}{suffix}"
        for metric in METRICS
        for suffix in suffixes.get(metric.kind, ("",))
    }


def rules(kind: str, field: str = "expr") -> dict[str, Any]:
    """Return the expressions of the rules of one kind, ``record`` or ``alert``, by name."""
    files = sorted((ROOT / "rules").glob("*.yml"))
    groups = [
        group
        for path in files
        for group in yaml.safe_load(path.read_text(encoding="utf-8"))["groups"]
    ]
    return {rule[kind]: rule[field] for group in groups for rule in group["rules"] if kind in rule}


def first_limit(expression: str) -> float:
    """Return the number, or product, in the first comparison of an alert's expression."""
    matched = re.search(r" > ([\d.]+(?: \* [\d.]+)*)(?!\S)(?:\s|$)", expression.replace("> 0)", ""))
    assert matched, expression
    return math.prod(float(factor) for factor in matched[1].split(" * "))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_uid_is_derived_from_the_file_name(path: Path) -> None:
    """The uid of a dashboard is stable, since links between dashboards use it."""
    assert f"aiometrics-{path.stem}" == boards()[path.stem]["uid"]


def test_committed_files_are_what_the_generator_writes() -> None:
    """No generated file was edited by hand, and the generator was run after the last change."""
    command = [sys.executable, "-m", "grafana.generate", "--check"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (0, "", "") == (done.returncode, done.stdout, done.stderr)


def test_generator_names_a_file_that_differs(tmp_path: Path) -> None:
    """A changed dashboard is found and named."""
    code = (
        "import pathlib, sys; from grafana.generate import files, stale; root = "
        "pathlib.Path(sys.argv[1]);wanted = "
        "{root / path.name: text for path, text in files().items()};[path.write_text(text) for "
        "path, text in wanted.items()];(root / 'fleet.json').write_text('{}'); (root / "
        "'hotspots.json').unlink();print(sorted(path.name for path in stale(wanted)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert "['fleet.json', 'hotspots.json']" == done.stdout.strip()


def test_queries_ask_only_for_metrics_that_exist() -> None:
    """Every name in a query is a sample or a recorded series; others leave a panel empty."""
    queried = {
        name
        for panel in all_panels()
        for target in panel["targets"]
        for name in NAME.findall(target["expr"])
    }
    assert set() == queried - exported() - rules("record").keys()


def test_labels_in_queries_exist() -> None:
    """Queries match and group by labels of a metric, of a rule, or of every target."""
    known = {label for metric in METRICS for label in metric.labels} | {
        "job",
        "instance",
        "le",
        "state",
        "generation",
        "blocked_at",
    }
    known.add("every")  # the label that no series has
    expressions = [target["expr"] for panel in all_panels() for target in panel["targets"]]
    matched = {
        label for text in expressions for label in re.findall(r"[{,](\w+)(?:=~|!~|=|!=)\"", text)
    }
    grouped = {
        label
        for text in expressions
        for group in re.findall(r"(?:by|on) \(([^)]+)\)", text)
        for label in group.split(", ")
    }
    assert set() == (matched | grouped) - known


@pytest.mark.parametrize("label", ["coroutine", "request"])
def test_hotspots_of_all_instances_read_recorded_series(label: str) -> None:
    """With all instances selected, no panel computes rates over many series.

    The part of each query that reads raw series then matches nothing.
    """
    expressions = [
        target["expr"] for panel in panels(boards()["hotspots"]) for target in panel["targets"]
    ]
    selectors = [
        found for text in expressions for found in re.findall(r"(\w[\w:]*)\{([^}]*)\}", text)
    ]
    raw = [
        (name, matchers)
        for name, matchers in selectors
        if f"{label}=~" in matchers and ":" not in name
    ]
    assert raw
    assert [] == [name for name, matchers in raw if 'every!~"$instance"' not in matchers]


def test_all_instances_are_one_regular_expression() -> None:
    """The value of *All* is ``.*``.

    Queries tell all instances from some by it, and a list of thousands of names would be slow.
    """
    for board in boards().values():
        pickers = [
            variable for variable in board["templating"]["list"] if variable["type"] == "query"
        ]
        assert [".*"] * 5 == [variable["allValue"] for variable in pickers]


def test_fleet_reads_only_recorded_series() -> None:
    """The dashboard for a thousand instances computes no rates.

    It reads only recorded series, and one series per process.
    """
    queried = {
        name
        for panel in panels(boards()["fleet"])
        for target in panel["targets"]
        for name in NAME.findall(target["expr"])
    }
    assert {"aiometrics_build_info"} == queried - rules("record").keys()


def test_every_panel_asks_a_question_and_says_how_to_read_it() -> None:
    """A title ends in a question mark, and a description is at least a sentence."""
    assert [] == [
        panel["title"]
        for panel in all_panels()
        if not panel["title"].endswith("?") or not panel["description"].endswith(".")
    ]


def test_titles_are_unique() -> None:
    """No two panels of a dashboard ask the same question."""
    for board in boards().values():
        titles = [panel["title"] for panel in panels(board)]
        assert sorted(set(titles)) == sorted(titles)


@pytest.mark.parametrize("title", LIMITS)
def test_thresholds_are_those_of_the_alerts(title: str) -> None:
    """A panel changes its colour exactly at the value at which its alert fires."""
    alerts = rules("alert")
    expected = [pytest.approx(first_limit(alerts[name])) for name in LIMITS[title]]
    found = [panel for panel in all_panels() if panel["title"] == title]
    assert found
    for panel in found:
        steps = panel["fieldConfig"]["defaults"]["thresholds"]["steps"]
        assert expected == [step["value"] for step in steps if step["value"] is not None]


def test_table_of_stuck_awaits_agrees_with_the_alert() -> None:
    """100 % is the alert's age and multiple of the mean wait; neither has who waits on purpose."""
    alert = rules("alert")["AsyncioAwaitStuck"]
    panel = next(panel for panel in all_panels() if panel["title"] == "Which await is stuck?")
    score = panel["targets"][0]["expr"]
    ((factor, age),) = re.findall(r"clamp_min\((\d+) \* .*, (\d+)\)", score)
    patient, *_ = re.findall(r'awaits!~"[^"]*"', alert)
    assert f"> {age}\n" in alert
    assert re.search(rf"> {factor} \* \(\s*asyncio_wait_seconds_sum", alert)
    assert patient in score


def test_burn_rates_of_requests_agree_with_the_alerts() -> None:
    """Burn rates change colour at the alerts' factors, shares at factor times budget."""
    alerts = rules("alert")
    shares = [
        first_limit(alerts[f"AsyncioRequestObjective{name}"])
        for name in ("BudgetSpent", "SlowBurn", "FastBurn")
    ]
    burn = next(
        panel for panel in all_panels() if panel["title"] == "How fast is each error budget spent?"
    )
    table = next(
        panel for panel in all_panels() if panel["title"] == "Which requests miss their objective?"
    )
    (budget,) = set(re.findall(r"\) >= 0\) / ([\d.]+) and", burn["targets"][0]["expr"]))
    (steps,) = (
        {one["id"]: one["value"] for one in override["properties"]}["thresholds"]["steps"]
        for override in table["fieldConfig"]["overrides"]
        if override["matcher"]["options"]["names"] == ["Missed %"]
    )
    assert [pytest.approx(share / float(budget)) for share in shares] == [
        step["value"] for step in burn["fieldConfig"]["defaults"]["thresholds"]["steps"][1:]
    ]
    assert [pytest.approx(100 * share) for share in shares] == [step["value"] for step in steps[1:]]


def test_histograms_show_exemplars() -> None:
    """Every chart of buckets queries exemplars, which lead from a slow bucket to its trace."""
    charts = [panel for panel in all_panels() if panel["type"] in {"timeseries", "heatmap"}]
    without = [
        panel["title"]
        for panel in charts
        for target in panel["targets"]
        if "_bucket{" in target["expr"] and not target.get("exemplar")
    ]
    assert [] == without


@pytest.mark.parametrize("name", [path.stem for path in FILES])
def test_frame_is_the_same_everywhere(name: str) -> None:
    """Every dashboard has the same variables, crosshair, annotations and links."""
    board = boards()[name]
    assert VARIABLES == [variable["name"] for variable in board["templating"]["list"]]
    assert 1 == board["graphTooltip"]
    assert ['ALERTS{alertname=~"Asyncio.*",alertstate="firing",job=~"$job"}'] == [
        a["expr"] for a in board["annotations"]["list"]
    ]
    assert [(["aiometrics"], True, True)] == [
        (link["tags"], link["includeVars"], link["keepTime"]) for link in board["links"]
    ]
    assert "aiometrics" in board["tags"]


def test_links_open_a_dashboard_with_the_same_selection() -> None:
    """A link leads to an existing dashboard and passes on time, data source and all variables."""
    uids = {board["uid"] for board in boards().values()}
    links = [
        link for panel in all_panels() for link in panel["fieldConfig"]["defaults"].get("links", [])
    ]
    assert links
    for link in links:
        url = urlsplit(link["url"])
        passed_on = {name.removeprefix("var-") for name, _ in parse_qsl(url.query)}
        passed_on |= {
            part[2:].split(":")[0]
            for part in url.query.split("&")
            if part.startswith("${") and part.endswith(":queryparam}")
        }
        assert url.path.removeprefix("/d/") in uids
        assert {"datasource", "job", "instance", "loop", "request", "topk"} <= passed_on
        assert "${__url_time_range}" in url.query


def test_links_name_a_column_or_a_label_that_is_there() -> None:
    """The field that a link takes from the clicked row is a heading of that table."""
    tables = [panel for panel in all_panels() if panel["type"] == "table"]
    for panel in tables:
        links = json.dumps(panel["fieldConfig"]["defaults"].get("links", []))
        headings = next(t for t in panel["transformations"] if t["id"] == "organize")["options"][
            "renameByName"
        ].values()
        assert set(re.findall(r"__data\.fields\.(\w+)", links)) <= set(headings)


def test_tables_put_the_worst_row_first() -> None:
    """A table is sorted by one of its columns, largest value first."""
    for panel in all_panels():
        if panel["type"] == "table":
            headings = next(t for t in panel["transformations"] if t["id"] == "organize")[
                "options"
            ]["renameByName"].values()
            (sort,) = panel["options"]["sortBy"]
            assert sort["displayName"] in headings
            assert sort["desc"]


@pytest.mark.parametrize("alert", PANEL_OF_ALERT)
def test_alerts_link_to_the_panel_that_shows_their_cause(alert: str) -> None:
    """The link opens one panel, with the job and instance of the alert selected."""
    url = urlsplit(rules("alert", "annotations")[alert]["dashboard_url"])
    query = dict(parse_qsl(url.query))
    (board,) = (one for one in boards().values() if f"/d/{one['uid']}" == url.path)
    titles = {str(panel["id"]): panel["title"] for panel in panels(board)}
    assert PANEL_OF_ALERT[alert] == titles[query["viewPanel"]]
    assert "{{ $labels.job | urlquery }}" == query["var-job"]
    assert {name.removeprefix("var-") for name in query} <= {*VARIABLES, "viewPanel"}


def test_every_alert_has_a_panel() -> None:
    """No alert was added without saying what to look at."""
    assert set(rules("alert")) == set(PANEL_OF_ALERT)


def test_time_of_a_thread_ends_at_a_hundred_percent() -> None:
    """The states are all of the time: the last is what the others leave, and is drawn quietly."""
    (panel,) = (
        one
        for one in all_panels()
        if one["title"] == "Where does the loop's thread spend its time?"
    )
    *states, idle = panel["targets"]
    assert (
        f"clamp_min(1 - {states[0]['expr']} - {states[2]['expr']} - {states[1]['expr']}, 0)"
        == (idle["expr"])
    )
    assert 1 == panel["fieldConfig"]["defaults"]["max"]
    assert "normal" == panel["fieldConfig"]["defaults"]["custom"]["stacking"]["mode"]
    assert {
        "on a CPU": "blue",
        "in a system call, or waiting for the GIL": "orange",
        "waiting for a CPU": "red",
        "idle": "rgba(128, 128, 128, 0.3)",
    } == colours(panel)


def test_means_of_loops_are_of_those_that_run() -> None:
    """A loop that is gone leaves its counters, and would be taken for an idle one."""
    means = [
        target["expr"]
        for panel in all_panels()
        for target in panel["targets"]
        if re.search(r"\bavg\b[^(]*\(", target["expr"])
    ]
    assert means
    for query in means:
        assert "asyncio_loop_process_id" in query, query


def test_shares_that_are_judged_are_of_all_loops() -> None:
    """What loops of several workers add up to is divided by their number before it is coloured."""
    summed = re.compile(
        r"asyncio_(segment_seconds_sum|blocking_seconds|active_sampled_seconds"
        r"|request_(active|background)_seconds)"
    )
    judged = 0
    for panel in all_panels():
        limits = {
            name
            for override in panel["fieldConfig"]["overrides"]
            if any(one["id"] == "thresholds" for one in override["properties"])
            for name in override["matcher"]["options"]["names"]
        }
        names = {
            key.removeprefix("Value #"): name
            for one in panel.get("transformations", [])
            for key, name in one["options"].get("renameByName", {}).items()
        }
        for target in panel["targets"]:
            name = names.get(target["refId"], "")
            if name.endswith(" %") and name in limits and summed.search(target["expr"]):
                judged += 1
                assert "asyncio_loops:count" in target["expr"], (panel["title"], name)
    assert judged


def colours(panel: dict[str, Any]) -> dict[str, str]:
    """Return the fixed colours of series, by name."""
    return {
        override["matcher"]["options"]["names"][0]: one["value"]["fixedColor"]
        for override in panel["fieldConfig"]["overrides"]
        for one in override["properties"]
        if one["id"] == "color" and one["value"]["mode"] == "fixed"
    }


def test_histograms_are_read_as_native_ones_too() -> None:
    """No query of a histogram's buckets, sum or count is blind where there are only native ones."""
    histograms = {metric.name for metric in METRICS if metric.kind == "histogram"}
    for panel in all_panels():
        for target in panel["targets"]:
            names = set(NAME.findall(target["expr"]))
            classic = {name for name in names if name.rpartition("_")[0] in histograms}
            assert {name.rpartition("_")[0] for name in classic} <= names, target["expr"]


def test_version_2_shows_the_same() -> None:
    """Each panel has its queries, place and look, whether its row is open or not."""
    for path in V2_FILES:
        board, spec = boards()[path.stem], load(path)["spec"]
        placed = [
            (row["spec"]["title"], item["spec"]["element"]["name"])
            for row in spec["layout"]["spec"]["rows"]
            for item in row["spec"]["layout"]["spec"]["items"]
        ]
        assert [f"panel-{panel['id']}" for panel in panels(board)] == [name for _, name in placed]
        assert set(spec["elements"]) == {name for _, name in placed}
        assert VARIABLES == [variable["spec"]["name"] for variable in spec["variables"]]
        for panel in panels(board):
            shown = spec["elements"][f"panel-{panel['id']}"]["spec"]
            assert panel["title"] == shown["title"]
            assert [target["expr"] for target in panel["targets"]] == [
                one["spec"]["query"]["spec"]["expr"] for one in shown["data"]["spec"]["queries"]
            ]
            assert panel["type"] == shown["vizConfig"]["group"]


def test_version_2_is_what_grafana_13_reads() -> None:
    """Each field has its name and type in a schema made of Grafana's types; none is missing."""
    schema = load(Path(__file__).parent / "dashboard_v2.schema.json")
    for path in V2_FILES:
        jsonschema.validate(load(path)["spec"], schema)


def test_files_of_both_versions_are_of_the_same_dashboards() -> None:
    """Nothing is in one version only."""
    assert [path.name for path in FILES] == [path.name for path in V2_FILES]
    assert {f"aiometrics-{path.stem}" for path in FILES} == {
        load(path)["metadata"]["name"] for path in V2_FILES
    }


def test_tables_of_version_2_have_a_unit_for_each_column() -> None:
    """A share, a time or a rate is shown as one, and the headings need not say so."""
    tables = [
        element["spec"]
        for path in V2_FILES
        for element in load(path)["spec"]["elements"].values()
        if element["spec"]["vizConfig"]["group"] == "table"
    ]
    assert tables
    (harm,) = (one for one in tables if one["title"] == "Which yield points do the most harm?")
    assert {
        "Harm": "percent",
        "Active": "percent",
        "Blocked": "percent",
        "Short segments": "percent",
        "Inflicted wait": "percent",
        "Segments": "cps",
        "Mean segment": "ms",
    } == units(harm)
    for table in tables:
        (organize,) = (
            one["spec"]["options"]
            for one in table["data"]["spec"]["transformations"]
            if one["group"] == "organize"
        )
        headings = organize["renameByName"].values()
        assert [] == [one for one in headings if re.search(r"(%|/s| ms| s)$", one)]
        assert set(units(table)) <= set(headings)


def units(panel: dict[str, Any]) -> dict[str, str]:
    """Return the units of the columns of a table in version 2."""
    return {
        override["matcher"]["options"]["names"][0]: one["value"]
        for override in panel["vizConfig"]["spec"]["fieldConfig"]["overrides"]
        for one in override["properties"]
        if one["id"] == "unit"
    }


def load(path: Path) -> Any:
    """Return the content of a JSON file."""
    return json.loads(path.read_text(encoding="utf-8"))
