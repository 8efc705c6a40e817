"""Run a soak: ``python -m tests.soak tasks`` or ``python -m tests.soak workers``.

It puts a program under full load for a long time, and exits with 1 if the metrics at the end are
not exactly what happened.
"""

from __future__ import annotations

import argparse
import os
import sys

from . import tasks, workers


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=__doc__)
    soaks = parser.add_subparsers(required=True, metavar="SOAK")
    of_tasks = soaks.add_parser(
        "tasks", help="tasks of every kind as fast as possible, and three scrapers"
    )
    of_tasks.add_argument("--seconds", type=float, default=60.0)
    of_tasks.add_argument("--seed", type=int, default=1)
    of_tasks.add_argument("--loop", choices=["asyncio", "uvloop"], default="asyncio")
    of_tasks.set_defaults(
        soak=lambda options: tasks.soak(options.seconds, options.seed, options.loop)
    )
    of_workers = soaks.add_parser(
        "workers", help="gunicorn with two workers under load, and a Prometheus"
    )
    of_workers.add_argument("--seconds", type=float, default=60.0)
    of_workers.add_argument(
        "--kills",
        type=int,
        default=0,
        help="how often the owner of the metrics' port is killed (default: %(default)s)",
    )
    of_workers.set_defaults(soak=lambda options: workers.soak(options.seconds, options.kills))
    return parser.parse_args()


def main() -> int:
    """Run one soak and print its outcome."""
    options = _arguments()
    print(f"load before: {os.getloadavg()[0]:.2f} on {os.cpu_count()} cores", flush=True)
    outcome = options.soak(options)
    print(*outcome.lines, sep="\n")
    for problem in outcome.problems[:20]:
        print(f"PROBLEM  {problem}")
    print(f"{len(outcome.problems)} problems")
    return 1 if outcome.problems else 0


if __name__ == "__main__":
    sys.exit(main())
