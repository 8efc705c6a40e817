"""Runs modules of ``test.test_asyncio``, each in a process of its own with a time limit."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter

CHILD = Path(__file__).with_name("child.py")
#: From best to worst. The worst event of a test is its outcome.
OUTCOMES = ("ok", "skip", "fail", "error", "crash", "timeout")


@dataclass(slots=True)
class Outcomes:
    """The outcome of each test, one of ``OUTCOMES``, and the message that came with it."""

    implementation: str = ""
    traced_tasks: int = 0
    seconds: dict[str, float] = field(default_factory=dict)
    results: dict[str, str] = field(default_factory=dict)
    details: dict[str, str] = field(default_factory=dict)

    def record(self, test: str, outcome: str, detail: str) -> None:
        """Record the outcome of a test unless a worse one is known."""
        if OUTCOMES.index(outcome) >= OUTCOMES.index(self.results.get(test, "ok")):
            self.results[test] = outcome
            self.details[test] = detail

    def add(self, other: Outcomes) -> None:
        """Add the tests of another module."""
        self.implementation = other.implementation or self.implementation
        self.traced_tasks += other.traced_tasks
        self.seconds.update(other.seconds)
        self.results.update(other.results)
        self.details.update(other.details)

    def count(self, outcome: str) -> int:
        """Return how many tests had this outcome."""
        return sum(result == outcome for result in self.results.values())


def modules() -> list[str]:
    """Return all test modules of this interpreter's ``test.test_asyncio``.

    Raises ``FileNotFoundError`` if the interpreter was installed without its test suite.
    """
    spec = importlib.util.find_spec("test.test_asyncio")
    if spec is None or not spec.submodule_search_locations:
        raise FileNotFoundError(
            f"{sys.executable} has no test.test_asyncio: install the tests of its standard library"
        )
    return sorted(path.stem for path in Path(spec.submodule_search_locations[0]).glob("test_*.py"))


def run(
    names: Iterable[str],
    *,
    instrumented: bool,
    extensions: bool = True,
    limit_seconds: float = 300.0,
    jobs: int = 1,
    progress: Callable[[str], None] = lambda _: None,
) -> Outcomes:
    """Run the modules, bare or instrumented, with or without the C core, ``jobs`` at a time."""

    def one(name: str) -> Outcomes:
        outcomes = _run_module(
            name, instrumented=instrumented, extensions=extensions, limit_seconds=limit_seconds
        )
        progress(
            f"{outcomes.implementation or '?':6} {name}: "
            f"{len(outcomes.results)} tests, {outcomes.seconds[name]:.1f} s"
        )
        return outcomes

    total = Outcomes()
    with ThreadPoolExecutor(jobs) as pool:
        for outcomes in pool.map(one, names):
            total.add(outcomes)
    return total


def _run_module(
    name: str, *, instrumented: bool, extensions: bool, limit_seconds: float
) -> Outcomes:
    mode = "instrumented" if instrumented else "bare"
    started = perf_counter()
    with tempfile.TemporaryDirectory() as directory:
        # The shell opens the child's descriptor 3, because pass_fds cannot choose a number.
        process = subprocess.Popen(
            [
                "/bin/sh",
                "-c",
                'exec "$@" 3>events 2>stderr',
                "sh",
                sys.executable,
                "-P",
                str(CHILD),
                name,
                mode,
            ],
            cwd=directory,
            env=_environment(extensions=extensions),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            start_new_session=True,
        )
        how_it_ended = _wait(process, limit_seconds)
        outcomes = _parse(Path(directory), name, how_it_ended)
    outcomes.seconds[name] = perf_counter() - started
    return outcomes


def _environment(*, extensions: bool) -> dict[str, str]:
    environment = {
        key: value
        for key, value in os.environ.items()
        if not key.startswith(("PYTHON", "AIOMETRICS_", "PYTEST_"))
    }
    spec = importlib.util.find_spec("aiometrics")
    if spec is not None and spec.origin is not None:
        environment["PYTHONPATH"] = str(Path(spec.origin).parent.parent)
    if not extensions:
        environment["AIOMETRICS_NO_EXTENSIONS"] = "1"
    return environment


def _wait(process: subprocess.Popen[bytes], limit_seconds: float) -> str:
    try:
        code = process.wait(limit_seconds)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        return "timeout"
    return "crash" if code else "end"


def _parse(directory: Path, name: str, how_it_ended: str) -> Outcomes:
    outcomes = Outcomes()
    current, ended = f"test.test_asyncio.{name}", False
    for line in (directory / "events").read_text().splitlines():
        record = json.loads(line)
        match record["event"]:
            case "start":
                current = record["test"]
                outcomes.record(current, "ok", "")
            case "implementation":
                outcomes.implementation = record["detail"]
            case "traced":
                outcomes.traced_tasks = int(record["detail"])
            case "end":
                ended = True
            case outcome:
                outcomes.record(record["test"], outcome, record["detail"])
    if not ended:
        outcomes.record(
            current,
            "timeout" if how_it_ended == "timeout" else "crash",
            (directory / "stderr").read_text(errors="replace")[-4000:],
        )
    return outcomes
