"""Long work gives way to the event loops of the process."""

from __future__ import annotations

from aiometrics.base.yielding import CooperativeYield, in_slices, no_pause


class Machine:
    """A clock, and the lateness with which a thread wakes up after it has slept."""

    def __init__(self) -> None:
        self.now = 100.0
        self.late = 0.0
        self.slept: list[float] = []

    def clock(self) -> float:
        """Return the time in seconds."""
        return self.now

    def sleep(self, seconds: float) -> None:
        """Sleep, and wake up late."""
        self.slept.append(seconds)
        self.now += seconds + self.late


def pauses(machine: Machine, give_way: CooperativeYield, count: int) -> int:
    """Call ``give_way`` ``count`` times, 0.1 ms apart, and return how many of the calls slept."""
    before = len(machine.slept)
    for _ in range(count):
        machine.now += 100e-6
        give_way()
    return len(machine.slept) - before


def test_every_call_pauses_when_a_thread_gets_a_processor_at_once() -> None:
    """The number of pauses has no limit."""
    machine = Machine()
    assert 30_000 == pauses(machine, CooperativeYield(machine.clock, machine.sleep), 30_000)
    assert {50e-6} == set(machine.slept)


def test_a_pause_just_after_another_one_is_left_out() -> None:
    """It can be called after each item, however little work that is."""
    machine = Machine()
    give_way = CooperativeYield(machine.clock, machine.sleep)
    for _ in range(1000):
        machine.now += 10e-6
        give_way()
    # A slice ends at the first call after 75 us; a pause takes 50.
    assert 1 + 999 // 8 == len(machine.slept)


def test_pauses_stop_for_a_while_when_each_one_is_long() -> None:
    """Without a free processor, a scrape with dozens of pauses would come too late.

    They are tried again ten seconds later, and by the next answer.
    """
    machine = Machine()
    give_way = CooperativeYield(machine.clock, machine.sleep)
    machine.late = 0.013
    assert 10 == pauses(machine, give_way, 500)
    machine.now += 10.0
    assert 10 == pauses(machine, give_way, 500)
    give_way.renew()
    assert 10 == pauses(machine, give_way, 500)


def test_in_slices_pauses_after_each_item() -> None:
    """All items are yielded, in order."""
    paused_after: list[int] = []
    taken: list[int] = []

    def pause() -> None:
        paused_after.append(len(taken))

    for item in in_slices(range(3), pause):
        taken.extend([item])
    assert (list(range(3)), [1, 2, 3]) == (taken, paused_after)
    assert [1, 2] == list(in_slices([1, 2], no_pause))
