"""The command line: runs sections and writes their results."""

from __future__ import annotations

import argparse
import json
import os
import platform
import time
from pathlib import Path

from contenders.contender import Unavailable
from contenders.registry import CONTENDERS, OURS
from sections import (
    busy_scrape,
    instructions,
    live,
    memory,
    middleware,
    owners,
    price,
    routes,
    scopes,
    scrape,
    services,
    truth,
    turns,
)

from harness import plot
from harness.plan import Plan

SECTIONS = {
    "price": price.run,
    "instructions": instructions.run,
    "routes": routes.run,
    "scopes": scopes.run,
    "middleware": middleware.run,
    "services": services.run,
    "owners": owners.run,
    "truth": truth.run,
    "turns": turns.run,
    "memory": memory.run,
    "live": live.run,
    "scrape": scrape.run,
    "busy_scrape": busy_scrape.run,
}
RESULTS = Path(__file__).parents[1] / "results"


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python benchmarks", description="Measure what aiometrics and its peers cost."
    )
    parser.add_argument(
        "sections",
        nargs="*",
        metavar="section",
        help=f"some of {', '.join(SECTIONS)} (default: all)",
    )
    parser.add_argument(
        "--rounds", type=int, help="how often each contender runs (default 9, with --quick 3)"
    )
    parser.add_argument(
        "--quick", action="store_true", help="short measurements: a first look, not a result"
    )
    parser.add_argument(
        "--contender",
        action="append",
        choices=list(CONTENDERS),
        help="measure only these and a bare loop; may be repeated",
    )
    parser.add_argument(
        "--output", type=Path, default=RESULTS, metavar="DIRECTORY", help="default: %(default)s"
    )
    options = parser.parse_args()
    if unknown := set(options.sections) - SECTIONS.keys():
        parser.error(
            f"unknown section {', '.join(sorted(unknown))}: choose from {', '.join(SECTIONS)}"
        )
    return options


def _plan(options: argparse.Namespace) -> Plan:
    selected = [
        name for name in CONTENDERS if not options.contender or name in {"bare", *options.contender}
    ]
    ours = [contender.name for contender in OURS if contender.name in selected]
    return Plan(
        options.rounds or (3 if options.quick else 9),
        0.2 if options.quick else 1.0,
        tuple(selected),
        tuple(ours),
    )


def _machine() -> dict[str, object]:
    return {
        "taken": time.strftime("%Y-%m-%d %H:%M:%S %Z"),
        "python": platform.python_version(),
        "system": platform.platform(),
        "cores": os.cpu_count(),
        "load before": os.getloadavg()[0],
    }


def main() -> int:
    """Run the selected sections; print and save the result of each as soon as it is complete."""
    options = _arguments()
    plan, machine = _plan(options), _machine()
    options.output.mkdir(parents=True, exist_ok=True)
    for section in options.sections or SECTIONS:
        try:
            table = SECTIONS[section](plan)
        except Unavailable as error:
            print(f"### {section} did not run: {error}\n", flush=True)
            continue
        table.notes.append(
            f"Python {machine['python']}, {machine['cores']} cores, {machine['taken']}."
        )
        print(table.markdown(), flush=True)
        contents = {
            "machine": machine,
            "rounds": plan.rounds,
            "scale": plan.scale,
            "title": table.title,
            "data": table.data,
        }
        (options.output / f"{section}.md").write_text(table.markdown())
        (options.output / f"{section}.json").write_text(json.dumps(contents, indent=1) + "\n")
        if section == "price":
            (options.output / "peers.svg").write_text(plot.peers(table.data["nanoseconds"]))
    return 0
