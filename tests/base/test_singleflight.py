"""Concurrent calls share a result if they asked before its making began."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from aiometrics.base.singleflight import SingleFlight

GUARD_SECONDS = 300.0


class Making:
    """Makes numbered results; the first call blocks until ``may_end`` is set."""

    def __init__(self) -> None:
        self.begun = threading.Event()
        self.may_end = threading.Event()
        self.made: list[str] = []

    def __call__(self, key: str) -> str:
        self.made.append(f"{key}{len(self.made)}")
        made = self.made[-1]
        if not self.begun.is_set():
            self.begun.set()
            assert self.may_end.wait(GUARD_SECONDS)
        return made


def test_each_call_gets_its_own_result_when_calls_do_not_overlap() -> None:
    """A call never gets a result whose making began before the call."""
    making = Making()
    making.may_end.set()
    single_flight = SingleFlight(making)

    assert ["a0", "a1", "b2", "a3"] == [single_flight(key) for key in "aaba"]


def test_calls_share_the_next_result_when_one_is_being_made() -> None:
    """One more result is made for all calls of the same key, and one for each other key."""
    making = Making()
    single_flight = SingleFlight(making)
    asked = threading.Barrier(6)

    def ask(key: str) -> str:
        asked.wait(GUARD_SECONDS)
        return single_flight(key)

    with ThreadPoolExecutor(6) as pool:
        first = pool.submit(single_flight, "a")
        assert making.begun.wait(GUARD_SECONDS)
        others = [pool.submit(ask, key) for key in "aaaab"]
        asked.wait(GUARD_SECONDS)
        making.may_end.set()
        got = [future.result(GUARD_SECONDS) for future in others]

    assert "a0" == first.result()
    assert ["a", "a", "a", "a", "b"] == [made[0] for made in got]
    assert "a0" not in got


def test_error_is_raised_to_all_callers_that_wait_for_it() -> None:
    """Later calls do not get it: they call the function again."""

    def make(key: str) -> str:
        if key == "bad":
            raise ValueError("it did not work")
        return key

    single_flight = SingleFlight(make)
    for _ in range(2):
        with pytest.raises(ValueError, match="it did not work"):
            single_flight("bad")
    assert "good" == single_flight("good")
