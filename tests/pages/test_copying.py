"""Pages are copied as they were at one moment, and no loop waits for it if that can be helped."""

from __future__ import annotations

import asyncio
import gc
import threading
from collections import Counter
from collections.abc import Sequence
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from support.samples import LAYOUT

from aiometrics.base.internal_errors import InternalErrors
from aiometrics.pages.layout import LOOP, WORD
from aiometrics.pages.page import PYTHON_COPYING, Copying, Memory, Page, Parts, _Writing, zeros
from aiometrics.recorder.implementation import IMPLEMENTATIONS
from aiometrics.recorder.labels import Labels
from aiometrics.recorder.places import Places
from aiometrics.recorder.recorder import Recorder
from aiometrics.testing import traced_loop

C = IMPLEMENTATIONS.get("c")
needs_c = pytest.mark.skipif(C is None, reason="the recorder in C was not built")


def a_page() -> Page:
    """Return a page with some records."""
    page = Page(LAYOUT, blocking_threshold_ns=100)
    coroutine = page.add_coroutine("shop.handle")
    page.add_yield_point(coroutine, "shop.py:1 handle", "fetch")
    page.add_request("GET /")
    return page


def in_use(page: Page, memory: Memory) -> Sequence[bytes]:
    """Return the parts of some memory that are in use in ``page``."""
    return [bytes(memory[a * WORD : b * WORD]) for a, b in page.layout.in_use(page.words)]


def loop_word(page: Page, name: str) -> int:
    """Return the number of a word of the loop."""
    return page.layout.loop + LOOP[name]


@pytest.mark.parametrize("name", IMPLEMENTATIONS)
def test_a_copy_has_all_that_is_in_use(name: str) -> None:
    """With each recorder."""
    page = a_page()
    copy = page.copy(IMPLEMENTATIONS[name].copying)
    assert in_use(page, page.memory) == in_use(page, copy)


@needs_c
def test_a_page_at_rest_is_copied_without_the_gil() -> None:
    """Nothing is copied once more with it."""
    core: Any = C
    page = a_page()
    copied: list[str] = []

    def copy_parts(*_: object) -> None:
        copied.append("with the GIL")

    page.copy(Copying(core.core.provide, copy_parts, core.core.copy_unheld))
    assert [] == copied


@needs_c
def test_a_page_in_the_middle_of_an_update_is_not_at_rest() -> None:
    """Whether it is, is looked at before and after."""
    core: Any = C
    page, parts = a_page(), ((0, 1),)
    copy = page.copy(PYTHON_COPYING)
    assert core.core.copy_unheld(copy, page.memory, parts, page.layout.loop)
    page.words[loop_word(page, "started")] += 1
    assert not core.core.copy_unheld(copy, page.memory, parts, page.layout.loop)
    page.words[loop_word(page, "finished")] += 1
    assert core.core.copy_unheld(copy, page.memory, parts, page.layout.loop)


def test_a_copy_is_made_again_if_records_came_into_use_meanwhile() -> None:
    """They were not among the parts that were copied."""
    page = a_page()
    attempts: list[Parts] = []

    def copy_unheld(target: Memory, source: Memory, parts: Parts, _: int) -> bool:
        attempts.append(parts)
        if len(attempts) == 1:
            page.add_yield_point(1, "late.py:1 late", "late")
        PYTHON_COPYING.copy_parts(target, source, parts)
        return True

    copy = page.copy(PYTHON_COPYING._replace(copy_unheld=copy_unheld))
    assert 2 == len(attempts)
    assert in_use(page, page.memory) == in_use(page, copy)


def test_a_copy_that_began_within_an_update_is_made_again() -> None:
    """Even if the update was over when the copy was."""
    page = a_page()
    first, last = loop_word(page, "events"), loop_word(page, "idle_ns")
    page.words[loop_word(page, "started")] += 1
    page.words[first] += 1

    def copy_parts(target: Memory, source: Memory, parts: Parts) -> None:
        PYTHON_COPYING.copy_parts(target, source, parts)
        if not page.words[last]:
            page.words[last] += 1
            page.words[loop_word(page, "finished")] += 1

    copy = page.copy(PYTHON_COPYING._replace(copy_parts=copy_parts))
    words = memoryview(copy)[: page.layout.strings * WORD].cast("q")
    assert 1 == words[first] == words[last]


async def waits_for_ever() -> None:
    """Wait for what nobody else refers to."""
    await asyncio.get_running_loop().create_future()


@pytest.mark.parametrize("name", IMPLEMENTATIONS)
def test_a_task_that_comes_or_is_lost_is_one_update(name: str) -> None:
    """It is two counters, and readers rely on their sum."""

    async def main() -> None:
        [page] = [slot.page for slot in traced.instrumentation.slots()]
        started, finished = (loop_word(page, field) for field in ("started", "finished"))

        def updates() -> int:
            assert page.words[started] == page.words[finished]
            return page.words[started]

        seen = [updates()]
        task: Any = asyncio.create_task(waits_for_ever())
        seen.append(updates())
        await asyncio.sleep(0)
        task._log_destroy_pending = False
        seen.append(updates())
        del task
        gc.collect()
        seen.append(updates())
        assert sorted(set(seen)) == seen

    with traced_loop(implementation=name) as traced:
        traced.run(main())


@pytest.mark.parametrize("update", range(1, 6))
def test_an_update_that_an_interrupt_ends_is_not_in_progress_for_ever(
    monkeypatch: pytest.MonkeyPatch, update: int
) -> None:
    """No copy would ever be whole."""
    complete, updates = _Writing.__exit__, count(1)

    def interrupted(self: _Writing, *exc_info: object) -> None:
        if next(updates) == update:
            raise KeyboardInterrupt
        complete(self, *exc_info)

    page, errors = a_page(), InternalErrors()
    waits = asyncio.sleep(0)
    task = Recorder(page, Labels(page, Places(), errors), errors).trace(waits)

    def run() -> None:
        task.admit()
        task.send(None)
        task.send(None)

    with monkeypatch.context() as patch:
        patch.setattr(_Writing, "__exit__", interrupted)
        with pytest.raises(KeyboardInterrupt):
            run()
    waits.close()
    assert page.words[loop_word(page, "started")] == page.words[loop_word(page, "finished")]


@needs_c
def test_what_is_copied_beside_a_writer_is_of_one_moment() -> None:
    """The writer keeps two far words equal, within updates."""
    core: Any = C
    page = a_page()
    first, last = loop_word(page, "events"), page.layout.strings - 1
    parts = ((0, page.layout.strings),)
    target = page.copy(PYTHON_COPYING)
    words = memoryview(target)[: page.layout.strings * WORD].cast("q")
    page.words[first] = page.words[last] = 0
    stopped = threading.Event()

    def write() -> None:
        while not stopped.is_set():
            with page.writing:
                page.words[first] += 1
                page.words[last] += 1

    thread = threading.Thread(target=write)
    thread.start()
    try:
        for _ in range(300):
            if core.core.copy_unheld(target, page.memory, parts, page.layout.loop):
                assert words[first] == words[last]
    finally:
        stopped.set()
        thread.join()


@needs_c
def test_copy_unheld_refuses_what_is_not_there() -> None:
    """Parts or a loop outside of the memory."""
    core: Any = C
    memory = bytearray(100 * WORD)
    for parts, loop in ((((0, 101),), 0), (((0, 1),), -1), (((0, 1),), 84)):
        with pytest.raises(ValueError, match=r"within|no loop"):
            core.core.copy_unheld(bytearray(memory), memory, parts, loop)
    assert core.core.copy_unheld(bytearray(memory), memory, ((0, 100),), 83)


@pytest.mark.parametrize("name", IMPLEMENTATIONS)
def test_the_start_of_a_file_is_read(name: str, tmp_path: Path) -> None:
    """Those of the kernel are short."""
    path = tmp_path / "schedstat"
    path.write_bytes(b"1 2 3\n")
    assert b"1 2 3\n" == IMPLEMENTATIONS[name].read_file(str(path))
    with pytest.raises(FileNotFoundError, match="missing"):
        IMPLEMENTATIONS[name].read_file(str(tmp_path / "missing"))


@needs_c
def test_only_copies_that_are_mapped_are_given_back() -> None:
    """Other memory is not that of the copy alone."""
    core: Any = C
    page, size = a_page(), 5 * 4096
    for memory in (zeros(size), bytearray(size)):
        memory[:] = bytes(range(1, 129)) * (size // 128)
        records = core.new_records()
        layout = page.layout
        assert not records.add(
            memory,
            layout,
            Counter(),
            weight=1,
            threshold_ns=1,
            alive=True,
            unix_offset_ns=0,
            exemplars={},
        )
        records.release()
        assert isinstance(memory, bytearray) == any(memory[:])
        assert records.filled is None
        records.release()


@pytest.mark.parametrize("name", IMPLEMENTATIONS)
def test_a_file_is_read_whatever_the_application_has_replaced(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its tests mock how files are read."""
    path = tmp_path / "schedstat"
    path.write_bytes(b"1 2 3\n")
    with monkeypatch.context() as patched:
        patched.setattr(Path, "read_bytes", lambda _: b"of a test")
        patched.setattr(Path, "open", None)
        found = IMPLEMENTATIONS[name].read_file(str(path))
    assert b"1 2 3\n" == found
