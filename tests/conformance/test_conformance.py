"""CPython's own asyncio tests have the same outcomes instrumented as bare.

The other tests check the comparison itself.
"""

from __future__ import annotations

import subprocess
import time
from typing import TYPE_CHECKING

import pytest

from aiometrics import IMPLEMENTATION
from conformance import campaign, comparison
from conformance.campaign import Outcomes
from conformance.comparison import Difference

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

#: Most of these tests wait for sockets, processes and timers, so that four modules at the same time
#: take a third of the time on two cores.
JOBS = 4
#: How often a test must differ. One that fails every second time, bare or not, differs in half of
#: the rounds, and in all of them with a probability of 3 %; one that fails every tenth time with
#: one of 0.02 %.
ROUNDS = 5
#: Each is a test of its own, since no test may take more than ten minutes.
SHARES = 4


def differing(modules: Sequence[str], jobs: int) -> dict[str, Difference]:
    """Return CPython's tests whose outcome differs without being justified."""
    bare = campaign.run(modules, instrumented=False, jobs=jobs)
    instrumented = campaign.run(
        modules, instrumented=True, extensions=IMPLEMENTATION == "c", jobs=jobs
    )
    assert IMPLEMENTATION == instrumented.implementation
    if jobs > 1:  # one module alone may have no tasks
        assert 0 < instrumented.traced_tasks
    found = comparison.differences(bare, instrumented)
    return {
        difference.test: difference
        for difference in found
        if difference.test not in comparison.justified(IMPLEMENTATION)
    }


@pytest.mark.long
@pytest.mark.parametrize("share", range(SHARES))
def test_cpython_asyncio_tests_have_the_same_outcomes_instrumented(share: int) -> None:
    """With every loop of the process instrumented, only justified differences remain.

    A busy machine can make a test fail, so modules with a difference run again, bare and
    instrumented, one at a time, until no test has differed each time.
    """
    modules = campaign.modules()[share::SHARES]
    found = differing(modules, JOBS)
    for _ in range(ROUNDS - 1):
        modules = [module for module in modules if any(f"{module}." in test for test in found)]
        again = differing(modules, 1) if modules else {}
        found = {test: again[test] for test in found.keys() & again.keys()}
    assert [] == sorted(map(str, found.values()))


def test_a_difference_is_reported_with_the_last_line_of_its_message() -> None:
    """The comparison reports a changed, a missing and a new test, and no other."""
    before = Outcomes(results={"a": "ok", "b": "ok", "c": "skip", "d": "ok"})
    after = Outcomes(
        results={"a": "ok", "b": "fail", "d": "ok", "e": "ok"},
        details={"b": "Traceback\nAssertionError: 1 != 2"},
    )
    expected = (
        Difference("b", "ok", "fail", "Traceback\nAssertionError: 1 != 2"),
        Difference("c", "skip", "absent", ""),
        Difference("e", "absent", "ok", ""),
    )
    assert expected == comparison.differences(before, after)
    assert "b: bare ok, instrumented fail: AssertionError: 1 != 2" == str(expected[0])


def test_a_flaky_test_is_left_out() -> None:
    """A test whose outcome differs between two bare runs is not compared."""
    first, second = (
        Outcomes(results={"a": "ok", "b": "ok"}),
        Outcomes(results={"a": "fail", "b": "ok"}),
    )
    assert frozenset({"a"}) == comparison.flaky_tests(first, second)
    assert () == comparison.differences(first, second, flaky=frozenset({"a"}))


def test_the_worst_event_of_a_test_is_its_outcome() -> None:
    """A failed subtest outweighs the success of its test, in either order."""
    outcomes = Outcomes()
    outcomes.record("a", "fail", "subtest")
    outcomes.record("a", "ok", "")
    assert ("fail", "subtest") == (outcomes.results["a"], outcomes.details["a"])


def test_a_justified_difference_holds_where_it_says(tmp_path: Path) -> None:
    """An entry without conditions always holds; one for another Python or recorder does not."""
    listed = tmp_path / "justified.toml"
    listed.write_text(
        '[[difference]]\ntest = "a"\nreason = "always"\n'
        '[[difference]]\ntest = "b"\nreason = "another Python"\npython = ["2.7"]\n'
        '[[difference]]\ntest = "c"\nreason = "another implementation"\nimplementation = ["c"]\n'
    )
    assert {"a": "always"} == comparison.justified("python", listed)


def test_a_module_that_hangs_or_dies_loses_only_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The test in progress has timed out or crashed; those before it keep their outcomes."""
    child = tmp_path / "child.py"
    child.write_text(
        "import os, sys\n"
        "def say(test, event):\n"
        '    line = f\'{{"test": "{test}", "event": "{event}", "detail": ""}}\\n\'\n'
        "    os.write(3, line.encode())\n"
        "name = sys.argv[1]\n"
        "say(name + '.one', 'start'); say(name + '.one', 'ok'); say(name + '.two', 'start')\n"
        "print('last words', file=sys.stderr, flush=True)\n"
        "if name == 'dies': os.abort()\n"
        f"open({str(tmp_path / 'hangs')!r}, 'x'); os.read(os.pipe()[0], 1)\n"
    )
    wait = campaign._wait

    def wait_from_then_on(process: subprocess.Popen[bytes], limit_seconds: float) -> str:
        """The time limit begins when there is nothing left to wait for."""
        while process.poll() is None and not (tmp_path / "hangs").exists():
            time.sleep(0.01)
        return wait(process, limit_seconds)

    monkeypatch.setattr(campaign, "_wait", wait_from_then_on)
    monkeypatch.setattr(campaign, "CHILD", child)
    outcomes = campaign.run(["dies", "hangs"], instrumented=False, limit_seconds=0.1)
    assert {
        "dies.one": "ok",
        "dies.two": "crash",
        "hangs.one": "ok",
        "hangs.two": "timeout",
    } == outcomes.results
    assert "last words\n" == outcomes.details["dies.two"]
