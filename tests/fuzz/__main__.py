"""Fuzz a target: ``python -m fuzz pages --cases 1000000``, ``core``, ``messages`` or ``http``.

It is to be run in ``tests/``, and exits with 1 if anything was found.
"""

from __future__ import annotations

import argparse
import multiprocessing
import sys
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

from . import core, endpoint, messages, pages
from .attacks import ATTACKS


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m fuzz", description=__doc__)
    targets = parser.add_subparsers(required=True, metavar="TARGET")
    for name, campaign, text in (
        ("pages", pages.campaign, "feed broken pages to the reader"),
        ("core", core.campaign, "feed broken pages to the C core"),
    ):
        pages_parser = targets.add_parser(name, help=text)
        _add_size(pages_parser)
        pages_parser.add_argument(
            "--jobs",
            type=int,
            default=1,
            help="number of processes, each with a part of the cases and its own seed",
        )
        pages_parser.add_argument(
            "--keep",
            type=Path,
            metavar="DIR",
            help="write the pages that found something to this directory",
        )
        pages_parser.set_defaults(run=partial(_in_processes, campaign))
    messages_parser = targets.add_parser(
        "messages", help="feed broken requests to the parser of requests"
    )
    _add_size(messages_parser)
    messages_parser.set_defaults(run=_messages)
    http_parser = targets.add_parser(
        "http", help="attack a busy service with hostile clients, each kind for some seconds"
    )
    http_parser.add_argument(
        "attacks", nargs="*", metavar="ATTACK", help=f"some of {', '.join(ATTACKS)} (default: all)"
    )
    http_parser.add_argument("--seconds", type=float, default=10.0)
    http_parser.add_argument(
        "--pause",
        type=float,
        default=0.001,
        metavar="SECONDS",
        help="time that the loop waits between two turns; 0 is a busy loop",
    )
    http_parser.set_defaults(
        run=lambda options: min(1, endpoint.run(options.attacks, options.pause, options.seconds))
    )
    return parser.parse_args()


def _add_size(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--cases", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=1)


def _in_processes(
    campaign: Callable[[int, int], pages.Report | core.Report], options: argparse.Namespace
) -> int:
    parts = [(options.cases // options.jobs, options.seed + job) for job in range(options.jobs)]
    # Unlike a pool of multiprocessing, this one ends if the C core lets a process crash.
    with ProcessPoolExecutor(options.jobs, multiprocessing.get_context("spawn")) as pool:
        reports = list(pool.map(campaign, *zip(*parts, strict=True)))
    for job, report in enumerate(reports):
        print(f"job {job}: {report}")
    findings = {trace: data for report in reports for trace, data in report.findings.items()}
    for number, (trace, data) in enumerate(findings.items()):
        print(f"\nfinding {number}:\n{trace}")
        if options.keep:
            options.keep.mkdir(parents=True, exist_ok=True)
            (options.keep / f"finding-{number}.page").write_bytes(data)
    print(f"{sum(report.cases for report in reports)} cases, {len(findings)} findings")
    return 1 if findings else 0


def _messages(options: argparse.Namespace) -> int:
    report = messages.campaign(options.cases, options.seed)
    for status, count in report.refusals.most_common():
        print(f"{count:9} {status}")
    for trace, data in report.findings.items():
        print(f"\n{data!r}\n{trace}")
    print(
        f"{report.cases} cases, {report.accepted} accepted, {report.branches} branches, "
        f"{len(report.findings)} findings"
    )
    return 1 if report.findings else 0


if __name__ == "__main__":
    options = _arguments()
    sys.exit(options.run(options))
