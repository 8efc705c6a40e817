"""Compares the outcomes of CPython's asyncio tests with every loop instrumented and without."""

from __future__ import annotations

import argparse
import dataclasses
import json
import platform
import sys
from functools import partial
from pathlib import Path

from . import campaign, comparison
from .campaign import Outcomes
from .comparison import Difference


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.conformance", description=__doc__)
    parser.add_argument("modules", nargs="*", help="for instance test_tasks (default: all)")
    parser.add_argument(
        "--implementation",
        choices=["bare", "python", "c"],
        default="c",
        help="bare: only two bare runs, to find flaky tests",
    )
    parser.add_argument("--jobs", type=int, default=1, help="how many modules run at the same time")
    parser.add_argument(
        "--limit", type=float, default=300.0, metavar="SECONDS", help="time limit of one module"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all outcomes to this file")
    return parser.parse_args()


def _progress(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _summary(name: str, outcomes: Outcomes) -> str:
    counts = ", ".join(
        f"{count} {outcome}" for outcome in campaign.OUTCOMES if (count := outcomes.count(outcome))
    )
    traced = f"; {outcomes.traced_tasks} tasks traced" if outcomes.traced_tasks else ""
    seconds = f"({sum(outcomes.seconds.values()):.0f} s)"
    return f"{name}: {len(outcomes.results)} tests: {counts} {seconds}{traced}"


def _report(
    runs: dict[str, Outcomes], flaky: frozenset[str], differing: tuple[Difference, ...]
) -> str:
    contents = {
        "python": sys.version,
        "runs": {name: dataclasses.asdict(outcomes) for name, outcomes in runs.items()},
        "flaky": sorted(flaky),
        "differing": [dataclasses.asdict(difference) for difference in differing],
    }
    return json.dumps(contents, indent=1)


def main() -> int:
    """Run the tests twice bare, which finds flaky ones, and once instrumented.

    Return 1 if there is a difference that is not justified.
    """
    options = _arguments()
    names = options.modules or campaign.modules()
    run = partial(
        campaign.run,
        names,
        extensions=options.implementation == "c",
        limit_seconds=options.limit,
        jobs=options.jobs,
        progress=_progress,
    )
    runs = {"bare": run(instrumented=False), "bare again": run(instrumented=False)}
    flaky = comparison.flaky_tests(runs["bare"], runs["bare again"])
    differing: tuple[Difference, ...] = ()
    if options.implementation != "bare":
        runs[options.implementation] = run(instrumented=True)
        differing = comparison.differences(runs["bare"], runs[options.implementation], flaky)
    if options.json:
        options.json.write_text(_report(runs, flaky, differing))

    reasons = comparison.justified(options.implementation)
    unjustified = [difference for difference in differing if difference.test not in reasons]
    print(f"Python {platform.python_version()}, test.test_asyncio, {len(names)} modules")
    for name, outcomes in runs.items():
        print(_summary(name, outcomes))
    print(f"flaky (differ between the bare runs): {sorted(flaky) or 'none'}")
    print(f"differing: {len(differing)}, of which not justified: {len(unjustified)}")
    for difference in differing:
        print(
            f"  {difference}"
            + (f" -- justified: {reasons[difference.test]}" if difference.test in reasons else "")
        )
    ran = runs.get(options.implementation, runs["bare"]).implementation
    if ran != options.implementation:
        print(f"asked for {options.implementation!r}, ran {ran!r}: build the C core first")
        return 1
    return 1 if unjustified else 0


if __name__ == "__main__":
    sys.exit(main())
