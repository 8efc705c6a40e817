"""How the work on a page gives way to the loops of the process."""

from __future__ import annotations

from aiometrics.base.yielding import CooperativeYield, in_slices, no_pause


class Machine:
    """A clock, and how late a thread is when it has slept."""

    def __init__(self) -> None:
        self.now = 100.0
        self.late = 0.0
        self.slept: list[float] = []

    def clock(self) -> float:
        """What time it is."""
        return self.now

    def sleep(self, seconds: float) -> None:
        """Get a processor again some time after that."""
        self.slept.append(seconds)
        self.now += seconds + self.late


def pauses(machine: Machine, give_way: CooperativeYield, count: int) -> int:
    """How many of so many pauses were made."""
    before = len(machine.slept)
    for _ in range(count):
        give_way()
    return len(machine.slept) - before


def test_work_pauses_as_often_as_it_may_where_a_thread_gets_a_processor_at_once() -> None:
    """However long it goes on."""
    machine = Machine()
    assert 30_000 == pauses(machine, CooperativeYield(machine.clock, machine.sleep), 30_000)
    assert {50e-6} == set(machine.slept)


def test_work_does_not_pause_for_ever_where_each_pause_is_long() -> None:
    """Without a free processor a scrape of hundreds of pauses would come too late for who asked; the next one is given its own patience."""
    machine = Machine()
    give_way = CooperativeYield(machine.clock, machine.sleep)
    machine.late = 0.101
    assert 10 == pauses(machine, give_way, 500)
    machine.now += 10.0
    assert 10 == pauses(machine, give_way, 500)


def test_there_is_a_pause_after_every_fourth_item() -> None:
    """The items themselves come through."""
    passed: list[int] = []
    taken: list[int] = []

    def pause() -> None:
        passed.append(len(taken))

    for item in in_slices(range(10), pause):
        taken.extend([item])
    assert (list(range(10)), [4, 8]) == (taken, passed)
    assert [1, 2] == list(in_slices([1, 2], no_pause))
