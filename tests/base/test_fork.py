"""The registry of what a forked child forgets: its order, and owners that are gone."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")

PROGRAM = """
import gc, os
from aiometrics.base.fork import Stage, forget_in_child

class Owner:
    def __init__(self, name):
        self.name = name

def printing(stage):
    return lambda owner: print(owner.name, stage.name, flush=True)

def fail(owner):
    raise ValueError(owner.name)

owners = {name: Owner(name) for name in ("first", "second", "dead", "failing")}
forget_in_child(owners["failing"], Stage.LOCKS, fail)
for stage in (Stage.SESSION, Stage.LOCKS, Stage.DESCRIPTORS):
    for name in ("first", "second", "dead"):
        forget_in_child(owners[name], stage, printing(stage))
del owners["dead"]
gc.collect()
child = os.fork()
if child:
    assert 0 == os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
else:
    os._exit(0)
"""


def test_child_forgets_stage_by_stage() -> None:
    """Within a stage it follows the order of registration, without owners that are gone.

    An error is logged, and the remaining functions are still called.
    """
    done = subprocess.run(
        [sys.executable, "-W", "ignore::DeprecationWarning", "-c", PROGRAM],
        check=True,
        capture_output=True,
        text=True,
    )
    expected = ["DESCRIPTORS", "LOCKS", "SESSION"]
    assert done.stdout.splitlines() == [
        f"{name} {stage}" for stage in expected for name in ("first", "second")
    ]
    assert done.stderr.startswith("aiometrics: internal error in a forked child, in stage LOCKS")
    assert "ValueError: failing" in done.stderr
