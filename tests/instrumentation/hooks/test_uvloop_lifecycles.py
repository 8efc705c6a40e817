"""Nothing that happens to loops of uvloop is different because their turns are timed."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from ast import literal_eval
from functools import cache
from pathlib import Path

import pytest

from aiometrics.recorder.implementation import IMPLEMENTATIONS

pytest.importorskip("uvloop")

from support.uvloop_lifecycles import LIVES

PROGRAM = Path(__file__).parents[2] / "support" / "uvloop_lifecycles.py"
#: The uvloop that is installed, and directories with other versions of it.
VERSIONS = ["", *filter(None, os.environ.get("AIOMETRICS_UVLOOPS", "").split(os.pathsep))]
#: Lives that end by an exception.
FATAL = {"dies_of_an_exception", "is_interrupted"}
#: Lives in which tracing ends, so that nothing is left to be seen.
UNTRACED = {"is_no_longer_traced_by_another_thread", "another_tool_wraps_the_methods"}
Ending = tuple[int, str, str]


def stable(text: str) -> str:
    """Text without addresses and numbers, which differ between runs."""
    return re.sub(r"0x[0-9a-f]+|Task-\d+|pid=\d+|fd=\d+|\d+\.\d+ seconds", "#", text)


def live(life: str, version: str, *traced: str) -> Ending:
    """Run one life; return its exit status and what it printed."""
    done = subprocess.run(
        [sys.executable, "-X", "dev", PROGRAM, life, *traced],
        env={**os.environ, "PYTHONPATH": version},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    return done.returncode, stable(done.stdout), stable(done.stderr)


bare = cache(live)


@pytest.mark.once
@pytest.mark.skipif("c" not in IMPLEMENTATIONS, reason="the C recorder is not built")
@pytest.mark.parametrize("version", VERSIONS, ids=os.path.basename)
@pytest.mark.parametrize("life", LIVES)
def test_each_life_is_the_same_bare_and_traced(life: str, version: str, tmp_path: Path) -> None:
    """Exit status, output and errors are the same, and turns were timed."""
    seen = tmp_path / "seen"
    ending = live(life, version, str(seen))
    assert bare(life, version) == ending
    assert (ending[0] != 0) == (life in FATAL)
    turns, errors = seen.read_text().split("] ")
    assert {} == literal_eval(errors)
    assert life in UNTRACED or any(literal_eval(f"{turns}]"))
