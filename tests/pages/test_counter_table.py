"""Numbers in a page that recorders do not write: counts by name, errors, loop statistics."""

from __future__ import annotations

import asyncio
import gc
import logging
from collections.abc import Iterator

import pytest
from support.samples import LAYOUT, page

from aiometrics.instrumentation import untraced
from aiometrics.pages.counter_table import CounterTable
from aiometrics.pages.layout import ENTRY_BYTES, LOOP, MAX_PROBES
from aiometrics.pages.page import Page
from aiometrics.pages.reader import read
from aiometrics.testing import TracedLoop, traced_loop

MS = 1_000_000


def errors(made: Page) -> CounterTable:
    """Return a page's table of errors, as made by each process that takes the page over."""
    return CounterTable(made, LAYOUT.errors, MAX_PROBES)


def test_counts_go_on_when_a_page_is_taken_over() -> None:
    """The new table finds the names in the page, and adds to their counts."""
    made = page()
    errors(made).add("http")
    errors(made).add("recorder", 4)
    later = errors(made)
    later.add("http", 2)
    assert (
        {"http": 3, "recorder": 4} == later.counts() == dict(read(bytes(made.memory), 0, 0).errors)
    )


def test_new_names_are_counted_as_other_when_the_table_is_full() -> None:
    """The last entry is for all of these names, also after the page was taken over."""
    made = page()
    first = errors(made)
    for number in range(MAX_PROBES + 1):
        first.add(f"probe {number}")
    errors(made).add("one more")
    found = read(bytes(made.memory), 0, 0).errors
    assert (MAX_PROBES, 1, 3) == (len(found), found[f"probe {MAX_PROBES - 2}"], found["(other)"])


def test_other_may_be_counted_before_the_table_is_full() -> None:
    """The name is an ordinary one then, and later names are added to the same count."""
    made = page()
    found = errors(made)
    found.add("(other)")
    for number in range(MAX_PROBES):
        found.add(f"probe {number}")
    assert (MAX_PROBES, 2) == (len(found.counts()), found.counts()["(other)"])


def test_names_are_cut_when_they_are_too_long() -> None:
    """Names that differ only after 256 bytes are one name; half a character is left out."""
    made = page()
    found = errors(made)
    found.add("x" * ENTRY_BYTES + "1")
    found.add("x" * ENTRY_BYTES + "2")
    found.add("ü" * 200 + "\udcff")
    found.add("a" + "ü" * 200)
    expected = {"x" * ENTRY_BYTES: 2, "ü" * 128: 1, "a" + "ü" * 127: 1}
    assert expected == found.counts() == dict(read(bytes(made.memory), 0, 0).errors)


def test_unknown_numbers_of_a_new_page_are_none() -> None:
    """No number stands for a value that is unknown."""
    loop = read(bytes(page().memory), 0, 0).loop
    unknown = loop.ready_handles, loop.scheduled_timers, loop.thread_cpu_ns, loop.thread_runqueue_ns
    assert (None,) * 6 == (*unknown, loop.executor_threads, loop.executor_queue_items)
    assert ((0, 0, 0), 0, {}) == (loop.gc_pauses_ns, loop.unhandled_exceptions, loop.block_samples)


def test_loop_statistics_are_in_the_page(implementation: str) -> None:
    """Its bytes alone show queues, executor, exceptions, garbage collections and samples."""

    def slow(phase: str, _: object) -> None:
        if phase == "start":
            traced.clock.advance_ns(3 * MS)

    async def main(traced: TracedLoop) -> None:
        gc.callbacks.append(slow)
        gc.collect(1)
        gc.callbacks.remove(slow)
        traced.loop.call_exception_handler({"message": "mine"})
        traced.loop.call_soon(int)
        traced.loop.call_later(60, int)
        await asyncio.to_thread(int)
        await asyncio.sleep(0.001)  # to_thread need not suspend for what is done already
        traced.loop.call_soon(int)
        (slot,) = traced.instrumentation.slots()
        slot.loop_stats.count_block_sample("shop.py:1 f")
        traced.instrumentation.refresh()
        found = read(bytes(slot.page.memory), 0, 0).loop
        assert (1, 1, 1, 0) == (
            found.ready_handles,
            found.scheduled_timers,
            found.executor_threads,
            found.executor_queue_items,
        )
        assert ((0, 3 * MS, 0), 1, {"shop.py:1 f": 1}) == (
            found.gc_pauses_ns,
            found.unhandled_exceptions,
            found.block_samples,
        )

    gc.disable()
    try:
        with traced_loop(implementation=implementation) as traced:
            traced.run(main(traced))
            (slot,) = traced.instrumentation.slots()
        found = read(bytes(slot.page.memory), 0, 0).loop
    finally:
        gc.enable()
    assert (None, None, None) == (
        found.ready_handles,
        found.scheduled_timers,
        found.executor_threads,
    )
    assert (1, {"shop.py:1 f": 1}) == (found.unhandled_exceptions, found.block_samples)


def test_error_is_counted_once_when_a_page_is_added_later(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """It is shown before there is a page, and as part of the page afterwards."""
    seen = []
    with pytest.raises(AssertionError, match=r"\{'http': 2\}"), traced_loop() as traced:  # noqa: PT012 - it raises at its end
        internal_errors = traced.instrumentation.internal_errors
        internal_errors.report("http", LookupError())
        seen.append(traced.snapshot().errors)
        traced.run(asyncio.sleep(0))
        seen += [traced.snapshot().errors, traced.snapshot().errors]
        internal_errors.report("http", LookupError())
        seen.append(traced.snapshot().errors)
        (slot,) = traced.instrumentation.slots()
        assert {"http": 2} == read(bytes(slot.page.memory), 0, 0).errors
    assert [{"http": 1}, {"http": 1}, {"http": 1}, {"http": 2}] == seen
    assert ["aiometrics"] == [
        record.name for record in caplog.records if record.levelno == logging.ERROR
    ]


def test_observed_time_of_a_turn_stays_when_the_loop_is_released(implementation: str) -> None:
    """Active and idle time do not fall, neither then nor when the loop is traced again."""

    async def main(traced: TracedLoop) -> list[tuple[int, int | None]]:
        await asyncio.sleep(2)
        traced.clock.advance(0.25)
        before = traced.snapshot()
        traced.instrumentation.uninstrument(traced.loop)
        gone = traced.snapshot()
        traced.instrumentation.instrument(traced.loop)
        await asyncio.sleep(1)
        await asyncio.create_task(asyncio.sleep(3))
        return [
            (seen.loops[0].active_ns, seen.loops[0].idle_ns)
            for seen in (before, gone, traced.snapshot())
        ]

    with traced_loop(implementation=implementation) as traced:
        assert [
            (250 * MS, 2_000 * MS),
            (250 * MS, 2_000 * MS),
            (250 * MS, 5_000 * MS),
        ] == traced.run(main(traced))


def _segment(made: Page, ns: int) -> None:
    made.words[LAYOUT.segments(0)] += ns


def test_active_time_goes_on_when_a_timed_loop_follows_an_untimed_one() -> None:
    """The time of an untimed loop is that of its segments, and of a timed loop that of its turns.

    Here an untimed loop, a timed one and another untimed one use the same page.
    """
    made = page(weight=2)
    words = made.words

    def times() -> tuple[int, int | None]:
        found = read(bytes(made.memory), 0, 0).loop
        return found.active_ns, found.idle_ns

    _segment(made, 100)
    words[LAYOUT.loop + LOOP["segment_since_ns"]] = 1_000
    made.mark_observed(1_100)
    assert (400, None) == times()
    made.close()
    assert (400, None) == times()
    made.open("timed")
    words[LAYOUT.loop + LOOP["timed"]] = 1
    _segment(made, 30)
    words[LAYOUT.loop + LOOP["active_ns"]] += 40
    words[LAYOUT.loop + LOOP["poll_since_ns"]] = 2_000
    made.mark_observed(2_007)
    assert (440, 7) == times()
    made.close()
    made.open("untimed")
    assert (440, 7) == times()
    _segment(made, 5)
    assert (450, 7) == times()


def test_observed_time_does_not_go_back() -> None:
    """If two readers observe the page, the later time counts."""
    made = page()
    made.words[LAYOUT.loop + LOOP["timed"]] = 1
    made.words[LAYOUT.loop + LOOP["turn_since_ns"]] = 10
    made.mark_turn_observed(30)
    made.mark_turn_observed(20)
    assert 20 == read(bytes(made.memory), 0, 0).loop.active_ns


def test_tasks_are_counted_again_when_the_registry_changes_meanwhile(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A task may end in another thread while the registry is iterated over."""

    class ChangingRegistry:
        """Raises at the first iteration, like a set that changed."""

        tries = 0

        def __iter__(self) -> Iterator[object]:
            self.tries += 1
            if self.tries == 1:
                raise RuntimeError("Set changed size during iteration")
            return iter([lambda: None])

    registry = ChangingRegistry()
    monkeypatch.setattr(untraced, "_registries", lambda _loops: [registry])
    assert (0, 2) == (untraced.untraced_tasks(bool, ()), registry.tries)
