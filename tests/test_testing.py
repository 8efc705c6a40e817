"""The tools for users' tests: a clock that is moved by hand, and an event loop in its time."""

from __future__ import annotations

import asyncio

import pytest
from support.tracing import every_loop

import aiometrics
from aiometrics.base.clock import SECOND_NS
from aiometrics.testing import ManualClock, traced_loop


def test_the_clock_moves_only_when_told() -> None:
    """It moves by seconds or nanoseconds, never back."""
    clock = ManualClock(5)
    clock.advance(1.5)
    clock.advance_ns(7)
    assert SECOND_NS * 3 // 2 + 12 == clock()
    with pytest.raises(ValueError, match="cannot advance by -1 ns: give 0 or more"):
        clock.advance_ns(-1)
    with pytest.raises(ValueError, match="cannot advance by -100000000 ns: give 0 or more"):
        clock.advance(-0.1)


@pytest.mark.parametrize("seconds", [1e-9, 0.001, 0.1, 1 / 3, 1, 86_400.5])
def test_sleeping_takes_exact_virtual_time_and_no_real_time(seconds: float) -> None:
    """Sleeps are exact to the nanosecond, and take no real time."""

    async def main() -> None:
        for _ in range(3):
            await asyncio.sleep(seconds)

    clock = ManualClock(0)
    with traced_loop(clock=clock) as traced:
        traced.run(main())
        assert 3 * round(seconds * SECOND_NS) == clock()
        assert clock() / SECOND_NS == traced.loop.time()


def test_timeouts_pass_at_once_and_in_order() -> None:
    """Concurrent sleeps end in the order of their ends, at those times."""

    async def note(seconds: float) -> None:
        await asyncio.sleep(seconds)
        noted.append((seconds, traced.clock() - SECOND_NS))

    async def main() -> None:
        await asyncio.gather(note(3), note(1), note(2))
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(asyncio.Event().wait(), 10)

    noted: list[tuple[float, int]] = []
    with traced_loop() as traced:
        traced.run(main())
        assert [(1, SECOND_NS), (2, 2 * SECOND_NS), (3, 3 * SECOND_NS)] == noted
        assert 14 * SECOND_NS == traced.clock()


def test_time_stands_still_while_a_thread_works() -> None:
    """A thread takes real time, in which neither timeouts nor the end of the loop may pass."""

    async def main() -> tuple[int, int]:
        found = await asyncio.wait_for(asyncio.to_thread(sum, range(100_000)), 1)
        return found, traced.clock()

    with traced_loop() as traced:
        assert (4_999_950_000, SECOND_NS) == traced.run(main())


def test_numbers_can_be_read_during_and_after_the_run() -> None:
    """A snapshot can be taken at any time; times of day are the clock's."""

    async def works() -> None:
        traced.clock.advance(0.25)

    with traced_loop(blocking_threshold=0.2) as traced:
        traced.run(works())
        during = traced.snapshot()
    assert (1_250_000_000, 250_000_000) == (during.taken_ns, during.loops[0].blocking_ns)
    assert 1 == traced.snapshot().coroutine(f"{__name__}.{works.__qualname__}").created


def test_nothing_else_is_traced() -> None:
    """Other loops of the process are not traced before, during or after."""

    async def works() -> None:
        pass

    with traced_loop() as traced:
        asyncio.run(works())
        assert () == traced.snapshot().coroutines


def test_a_traced_loop_has_its_own_numbers_beside_an_exporter(
    implementation: str,
) -> None:
    """Its tasks and requests count there alone; the other numbers go on as before."""

    async def child() -> None:
        await asyncio.sleep(1)

    async def main() -> None:
        class OwnTask(asyncio.Task[None]):
            pass

        with aiometrics.request("GET /"):
            await asyncio.create_task(child())
            await asyncio.Task(child())
            await OwnTask(child())

    name = f"{__name__}.{child.__qualname__}"
    with every_loop(implementation) as outside:
        with traced_loop(implementation=implementation) as traced:
            traced.run(main())
            seen = traced.snapshot()
        assert name not in {entry.coroutine for entry in outside.snapshot().coroutines}
    assert 3 == seen.coroutine(name).created
    assert ["GET /"] == [entry.request for entry in seen.requests]
