"""Expensive things are made for everybody who asked before they were begun."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from aiometrics.base.singleflight import SingleFlight

GUARD_SECONDS = 300.0


class Making:
    """Numbers what it makes; the first one takes until it may end."""

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


def test_one_after_the_other_each_gets_its_own() -> None:
    """What was begun before one asked is never what one gets."""
    making = Making()
    making.may_end.set()
    shared = SingleFlight(making)

    assert ["a0", "a1", "b2", "a3"] == [shared(key) for key in "aaba"]


def test_who_asks_meanwhile_gets_the_next_one() -> None:
    """However many they are: one more is made for all of them, and one for each other key."""
    making = Making()
    shared = SingleFlight(making)
    asked = threading.Barrier(6)

    def ask(key: str) -> str:
        asked.wait(GUARD_SECONDS)
        return shared(key)

    with ThreadPoolExecutor(6) as pool:
        first = pool.submit(shared, "a")
        assert making.begun.wait(GUARD_SECONDS)
        others = [pool.submit(ask, key) for key in "aaaab"]
        asked.wait(GUARD_SECONDS)
        making.may_end.set()
        got = [future.result(GUARD_SECONDS) for future in others]

    assert "a0" == first.result()
    assert ["a", "a", "a", "a", "b"] == [made[0] for made in got]
    assert "a0" not in got


def test_a_failure_is_raised_to_all_who_wait_for_it() -> None:
    """And to nobody else: the next one is made anew."""

    def make(key: str) -> str:
        if key == "bad":
            raise ValueError("it did not work")
        return key

    shared = SingleFlight(make)
    for _ in range(2):
        with pytest.raises(ValueError, match="it did not work"):
            shared("bad")
    assert "good" == shared("good")
