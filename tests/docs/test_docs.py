"""The documentation is right: its code runs, its tables agree with the code, its links work."""

from __future__ import annotations

import asyncio
import re
import subprocess
import sys
from collections.abc import Callable
from inspect import signature
from pathlib import Path
from typing import Any

import pytest
import yaml
from support.samples import FACTS

from aiometrics import start_exporter
from aiometrics.base.options import Options, RecordingOptions, ServingOptions, resolve, variable_of
from aiometrics.exposition.collector import SnapshotCollector
from aiometrics.exposition.metrics import METRICS, Metric
from aiometrics.testing import traced_loop

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]
RUNBOOKS = ROOT / "docs/runbooks.md"  # the tests of the rules check its metrics
README = (ROOT / "README.md").read_text(encoding="utf-8")
METRICS_PAGE = (ROOT / "docs/metrics.md").read_text(encoding="utf-8")
SHOP = """
async def main():
    import aiometrics
    print([entry.coroutine for entry in aiometrics.snapshot().coroutines])
"""


def blocks(text: str, language: str) -> list[str]:
    """Return the fenced blocks of one language, in order."""
    return re.findall(rf"^```{language}\n(.*?)^```", text, flags=re.DOTALL | re.MULTILINE)


def prose(text: str) -> str:
    """Return ``text`` without its fenced blocks."""
    return re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)


def rows(text: str, heading: str) -> list[list[str]]:
    """Return the cells of the table whose first column has this heading, without backticks."""
    (table,) = re.findall(
        rf"^\| {heading} \|.*\n\|[-| ]+\|\n((?:\|.*\n)+)", text, flags=re.MULTILINE
    )
    return [
        [cell.strip().strip("`") for cell in line.strip("|").split(" | ")]
        for line in table.splitlines()
    ]


def anchors(page: Path) -> set[str]:
    """Return the fragments that lead to a heading of the page."""
    headings = re.findall(r"^#+ (.*)$", prose(page.read_text(encoding="utf-8")), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def one_line(text: str) -> str:
    """Return ``text`` with every run of white space replaced by one space."""
    return " ".join(text.split())


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    """Return a directory with the service that the examples import."""
    (tmp_path / "shop.py").write_text(SHOP, encoding="utf-8")
    return tmp_path


def python(directory: Path, *arguments: str) -> str:
    """Run Python in ``directory`` and return what it prints; fail the test if it fails."""
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=directory,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert (0, "") == (done.returncode, done.stderr), done.stdout
    return done.stdout


def examples() -> list[str]:
    """Return the programs of the README: every Python block that is not a test."""
    return [block for block in blocks(README, "python") if "def test_" not in block]


def test_the_first_example_traces_the_service(shop: Path) -> None:
    """At most six lines make a service's main task appear. The test replaces only the port."""
    first = examples()[0]
    assert 6 >= len([line for line in first.splitlines() if line])
    (shop / "six_lines.py").write_text(first.replace("9400", "0"), encoding="utf-8")
    assert "['shop.main']\n" == python(shop, "six_lines.py")


@pytest.mark.parametrize(
    ("number", "expected"),
    [(1, "HOTSPOTS"), (2, 'asyncio_tasks_created_total{coroutine="asyncio.tasks.sleep"} 1.0')],
)
def test_the_other_examples_run(number: int, expected: str, shop: Path) -> None:
    """Each example prints what the text around it says."""
    assert expected in python(shop, "-c", examples()[number])


def test_every_example_is_run() -> None:
    """The README has as many examples as the tests above run."""
    assert 3 == len(examples())


def test_the_example_of_a_test_passes(shop: Path) -> None:
    """The example of ``aiometrics.testing`` in the README passes as a test file."""
    (example,) = [block for block in blocks(README, "python") if "def test_" in block]
    (shop / "test_example.py").write_text(example, encoding="utf-8")
    assert "1 passed" in python(
        shop,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        "-p",
        "no:asyncio",
        "--rootdir",
        str(shop),
        "test_example.py",
    )


def test_the_table_of_options_has_every_option_in_order() -> None:
    """The table has each argument of start_exporter with its variable, and no other row."""
    arguments = [name for name in signature(start_exporter).parameters if name != "registry"]
    expected = [(name, variable_of(name)) for name in arguments]
    assert expected == [(argument, variable) for argument, variable, *_ in rows(README, "argument")]


def test_the_table_of_options_has_the_defaults() -> None:
    """If every variable is set to the default in the table, the options are the defaults."""
    environ = {
        variable: default.replace("none", "")
        for _, variable, default, _ in rows(README, "argument")
    }
    assert Options(RecordingOptions(), ServingOptions()) == resolve(environ=environ)
    given = {name for name, value in environ.items() if value}
    unset = {
        f"AIOMETRICS_{name}"
        for name in (
            "APPLICATION",
            "DETAIL",
            "DIR",
            "EXCLUDE",
            "INCLUDE",
            "LABELS",
            "LIBRARY",
            "OBJECTIVES",
            "PATIENT",
            "REQUEST_ID",
            "SLOW_REQUEST",
            "WEB_CONFIG",
        )
    }
    assert unset == environ.keys() - given


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_work(page: Path) -> None:
    """Every relative link leads to an existing file, and every fragment to a heading in it."""
    links = re.findall(r"\]\(([^)\s]+)\)", prose(page.read_text(encoding="utf-8")))
    broken = []
    for link in links:
        if re.match(r"[a-z]+:", link):
            continue
        path, _, fragment = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        if not target.exists() or (fragment and fragment not in anchors(target)):
            broken.append(link)
    assert [] == broken


def sections() -> dict[str, str]:
    """Return the sections of metrics.md that are about one metric, by its name."""
    parts = re.split(r"^##+ (.*)$", METRICS_PAGE, flags=re.MULTILINE)[1:]
    return {
        heading.strip("`"): body
        for heading, body in zip(parts[::2], parts[1::2], strict=True)
        if heading.startswith("`")
    }


def test_the_page_of_metrics_has_every_metric_and_no_other() -> None:
    """The page describes every metric, and none that was removed."""
    assert {metric.name for metric in METRICS} == sections().keys()


@pytest.mark.parametrize("metric", METRICS, ids=lambda metric: metric.name)
def test_descriptions_agree_with_the_metrics(metric: Metric) -> None:
    """A section has type, labels and HELP text, says how to read the metric, and queries it."""
    section = sections().get(metric.name, "")
    labels = ", ".join(f"`{label}`" for label in metric.labels) or "no labels"
    definition = one_line(
        " ".join(line.removeprefix(">") for line in section.splitlines() if line.startswith(">"))
    )
    assert (f"*{metric.kind}* · {labels}", one_line(metric.help)) == (
        section.strip().partition("\n")[0],
        definition,
    )
    assert re.search(r"^If ", section, flags=re.MULTILINE)
    queries = "".join(blocks(section, "promql"))
    assert metric.name in queries


@pytest.mark.parametrize("name", ["metrics.md", "diagnosis.md"])
def test_queries_can_be_parsed(name: str, binary: Callable[[str], str], tmp_path: Path) -> None:
    """Each line of a query block is a query that Prometheus accepts."""
    text = (ROOT / "docs" / name).read_text(encoding="utf-8")
    queries = [
        line for block in blocks(text, "promql") for line in block.splitlines() if line.strip()
    ]
    rules = [{"record": f"query:{number}", "expr": query} for number, query in enumerate(queries)]
    path = tmp_path / "queries.yml"
    path.write_text(
        yaml.safe_dump({"groups": [{"name": "docs", "rules": rules}]}), encoding="utf-8"
    )
    done = subprocess.run(
        [binary("promtool"), "check", "rules", str(path)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert f"{len(queries)} rules found" in done.stdout, done.stdout + done.stderr


@pytest.mark.parametrize(
    "page", [page for page in PAGES if page != RUNBOOKS], ids=lambda page: page.name
)
def test_metrics_that_pages_name_exist(page: Path) -> None:
    """Every series on a page is a sample of a metric or recorded by a rule."""
    exported = {metric.name for metric in METRICS} | {
        f"{metric.name}_{suffix}"
        for metric in METRICS
        if metric.kind == "histogram"
        for suffix in ("bucket", "count", "sum")
    }
    recorded = {rule["record"] for rule in _rules() if "record" in rule}
    text = page.read_text(encoding="utf-8")
    named = set(
        re.findall(r"(?<![\w:/.])(?:asyncio|aiometrics)_\w+(?![\w:/.*(])|\bjob\w*:\w+:\w+", text)
    )
    assert set() == named - exported - recorded


def test_the_architecture_names_files_that_exist() -> None:
    """Every source file that the page names exists."""
    named = set(
        re.findall(
            r"`([\w/]+\.(?:py|c|h|toml))`",
            (ROOT / "docs/architecture.md").read_text(encoding="utf-8"),
        )
    )
    assert named
    assert [] == [
        name
        for name in sorted(named)
        if not (ROOT / name).exists() and not (ROOT / "aiometrics" / name).exists()
    ]


async def _waits() -> None:
    await asyncio.sleep(1)


@pytest.mark.parametrize(
    ("column", "options"),
    [
        pytest.param(1, {}, id="default"),
        pytest.param(
            2,
            {"segment_buckets": (0.01, 0.1, 1), "wait_buckets": (0.01, 0.1, 1, 10)},
            id="seven bounds",
        ),
    ],
)
def test_the_budget_counts_the_series_of_a_yield_point(
    column: int, options: dict[str, Any]
) -> None:
    """One where a task has waited has them all."""
    with traced_loop(**options) as traced:
        traced.run(_waits())
        snapshot = traced.snapshot()
    series = [
        sample
        for family in SnapshotCollector(lambda: (snapshot, FACTS)).collect()
        for sample in family.samples
        if sample.labels.get("yield_point", "").endswith(" _waits")
    ]
    table = rows((ROOT / "docs/series.md").read_text(encoding="utf-8"), "for each")
    assert [str(len(series))] == [row[column] for row in table if row[0] == "yield point"]


def _rules() -> list[dict[str, str]]:
    files = (
        yaml.safe_load(path.read_text(encoding="utf-8"))
        for path in sorted((ROOT / "rules").glob("*.yml"))
    )
    return [rule for file in files for group in file["groups"] for rule in group["rules"]]
