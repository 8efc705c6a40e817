"""Run a measurement in a process of its own.

``python -m harness.child MODULE CONTENDER LOOP [KEY=VALUE ...]`` calls
``sections.MODULE.measure(contender, loop, **options)`` and prints its result as one line of JSON.
Whatever a contender patches ends with the process.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import Any

from contenders.contender import Unavailable
from contenders.registry import CONTENDERS, environment

LIMIT_SECONDS = 600


def command(module: str, contender: str, loop: str, **options: object) -> list[str]:
    """Return the command that starts the measurement."""
    return [
        sys.executable,
        "-P",
        "-m",
        "harness.child",
        module,
        contender,
        loop,
        *(f"{key}={value}" for key, value in options.items()),
    ]


def run(
    module: str, contender: str, loop: str, *, prefix: Sequence[str] = (), **options: object
) -> Any:
    """Run a measurement and return its result.

    ``prefix`` is the command that runs it, such as valgrind. Raises ``Unavailable`` with the
    contender's own message if it cannot run here, or if it takes too long, and ``RuntimeError``
    with its standard error if it fails.
    """
    try:
        finished = subprocess.run(
            [*prefix, *command(module, contender, loop, **options)],
            env=environment(contender),
            capture_output=True,
            text=True,
            timeout=LIMIT_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise Unavailable(f"it took longer than {LIMIT_SECONDS} s") from None
    if finished.returncode:
        raise RuntimeError(
            f"{module} of {contender} on {loop} ended with {finished.returncode}:\n"
            f"{finished.stderr[-3000:]}"
        )
    answer = json.loads(finished.stdout.splitlines()[-1])
    if "unavailable" in answer:
        raise Unavailable(answer["unavailable"])
    return answer["result"]


def main(module: str, contender: str, loop: str, *pairs: str) -> None:
    """Run the measurement and print its result."""
    options = {key: json.loads(value) for key, _, value in (pair.partition("=") for pair in pairs)}
    try:
        answer = {
            "result": import_module(f"sections.{module}").measure(
                CONTENDERS[contender](), loop, **options
            )
        }
    except (Unavailable, ImportError) as error:
        answer = {"unavailable": str(error)}
    print(json.dumps(answer))


if __name__ == "__main__":
    main(*sys.argv[1:])
