"""The shared directory: slots are claimed, continued and read, and broken files are left out."""

from __future__ import annotations

import errno
import gc
import logging
import os
import stat
import tracemalloc
from array import array
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from support.samples import LAYOUT

from aiometrics.pages.header import PageFormat
from aiometrics.pages.layout import (
    AT_START,
    COROUTINE,
    HEADER,
    LOOP,
    LOOP_STATS,
    REQUEST,
    SEGMENT_PATH,
    VERSION,
    WORD,
    YIELD_POINT,
    Layout,
)
from aiometrics.pages.merge import merged
from aiometrics.pages.multiprocess.directory import MAX_SLOTS, ClaimedSlot, SharedDirectory
from aiometrics.pages.multiprocess.private_directory import (
    DirectoryError,
    filesystem_of,
    in_memory,
)
from aiometrics.pages.multiprocess.private_file import REASONS, SUPPORTED
from aiometrics.pages.multiprocess.slot_file import SlotFile
from aiometrics.pages.page import Page
from aiometrics.pages.reader import PageView

pytestmark = pytest.mark.skipif(not SUPPORTED, reason="this system has no flock()")

PAGE_FORMAT = PageFormat(LAYOUT, 100, 1)
NONE_SKIPPED = dict.fromkeys(REASONS, 0)


@pytest.fixture
def directory(tmp_path: Path) -> SharedDirectory:
    """An empty shared directory."""
    made = SharedDirectory(str(tmp_path / "shared"))
    made.prepare()
    return made


@pytest.fixture
def claim(directory: SharedDirectory) -> Iterator[Callable[..., ClaimedSlot]]:
    """A function that claims a slot and opens its page, as a process does.

    All claimed slots are released after the test.
    """
    claimed: list[ClaimedSlot] = []

    def claim(page_format: PageFormat = PAGE_FORMAT, name: str = "MainThread") -> ClaimedSlot:
        claimed.append(directory.claim(page_format))
        claimed[-1].page.open(name)
        return claimed[-1]

    yield claim
    for slot in claimed:
        slot.release()


def descriptors() -> int:
    """Return the number of open files, without those of garbage."""
    gc.collect()
    return len(list(Path("/dev/fd").iterdir()))


def files(directory: SharedDirectory) -> list[str]:
    """Return the names of the files in the directory."""
    return sorted(path.name for path in Path(directory.path).iterdir())


def messages(caplog: pytest.LogCaptureFixture, about: str) -> list[str]:
    """Return the log messages that contain ``about``."""
    return [record.getMessage() for record in caplog.records if about in record.getMessage()]


def only(directory: SharedDirectory, now_ns: int = 0) -> PageView:
    """Return the content of the only page, as a reader in another process sees it."""
    (view,) = directory.read((), PAGE_FORMAT, now_ns, 0).pages.values()
    return view


def count(page: Page, name: str, times: int, live: int = 0) -> None:
    """Count tasks of a coroutine, as a recorder does."""
    known = {found: number for number, found in page.coroutines()}
    record = page.layout.coroutine(known.get(name) or page.add_coroutine(name))
    page.words[record + COROUTINE["created"]] += times
    page.words[record + COROUTINE["live"]] += live


def created(view: PageView) -> dict[str, tuple[int, int]]:
    """Return the numbers of created and of live tasks by coroutine."""
    return {entry.coroutine: (entry.created, entry.live) for entry in view.coroutines}


def test_each_loop_has_a_slot_of_its_own(
    directory: SharedDirectory, claim: Callable[..., ClaimedSlot]
) -> None:
    """Slots are numbered from 0, and no other user can open their files."""
    assert [0, 1, 2] == [claim().number for _ in range(3)]
    assert ["0.page", "1.page", "2.page"] == files(directory)
    assert {"-rw-------"} == {
        stat.filemode(path.stat().st_mode) for path in Path(directory.path).iterdir()
    }
    assert "drwx------" == stat.filemode(Path(directory.path).stat().st_mode)


def test_other_processes_read_the_pages_of_a_process(
    directory: SharedDirectory, claim: Callable[..., ClaimedSlot]
) -> None:
    """Loops are named by slot number, and a process does not read its own pages."""
    for tasks in (5, 7):
        count(claim().page, "shop.handle", tasks, 1)
    found = directory.read((), PAGE_FORMAT, 0, 0)
    assert [("0", {"shop.handle": (5, 1)}), ("1", {"shop.handle": (7, 1)})] == [
        (v.loop.loop, created(v)) for v in found.pages.values()
    ]
    assert {os.getpid()} == {view.loop.process_id for view in found.pages.values()}
    assert [1] == list(directory.read({0}, PAGE_FORMAT, 0, 0).pages)
    assert NONE_SKIPPED == found.skipped


def test_page_is_shown_without_gauges_when_its_process_is_gone(
    directory: SharedDirectory, claim: Callable[..., ClaimedSlot]
) -> None:
    """Counters stay; no task is alive, nothing is in progress, and no process is shown."""
    slot = claim()
    page = slot.page
    count(page, "shop.handle", 5, 2)
    page.add_yield_point(2, "shop.py:1 f", "g")
    page.add_request("GET /")
    words, layout = page.words, page.layout
    words[layout.loop + LOOP["segment_since_ns"]] = 10
    words[layout.segments(1) + 1] = 1
    words[layout.yield_point(1) + YIELD_POINT["suspended"]] = 2
    words[layout.yield_point(1) + YIELD_POINT["oldest_ns"]] = 10
    words[layout.request(1) + REQUEST["in_progress"]] = 2
    for name in ("untraced_tasks", "ready_handles", "unhandled_exceptions"):
        words[layout.loop_stats + LOOP_STATS[name]] = 3
    alive = only(directory)
    slot.release()
    dead = only(directory)
    assert [{"shop.handle": (5, 2)}, {"shop.handle": (5, 0)}] == [created(alive), created(dead)]
    points = [view.yield_points[-1] for view in (alive, dead)]
    assert [(2, 10), (0, 0)] == [(point.suspended, point.oldest_suspension_ns) for point in points]
    assert [2, 0] == [view.requests[0].in_progress for view in (alive, dead)]
    assert [(3, 3, 3), (0, None, 3)] == [
        (v.untraced_tasks, v.loop.ready_handles, v.loop.unhandled_exceptions) for v in (alive, dead)
    ]
    assert [False, True] == [view.loop.running is None for view in (alive, dead)]
    assert [(os.getpid(), False), (0, True)] == [
        (view.loop.process_id, view.loop.heartbeat_ns == 0) for view in (alive, dead)
    ]


def test_next_process_continues_the_page_of_the_last_one(
    directory: SharedDirectory, claim: Callable[..., ClaimedSlot]
) -> None:
    """It gets the same slot and records; counters go on, gauges start at zero, no file is added."""
    first = claim()
    count(first.page, "shop.handle", 5, 2)
    first.page.words[LAYOUT.loop + LOOP["started"]] += 1  # it died in the middle of an update
    first.release()
    second = claim(name="Thread-1")
    assert {"shop.handle": (5, 0)} == created(only(directory))
    count(second.page, "shop.handle", 1, 1)
    count(second.page, "shop.other", 1, 1)
    assert (0, {"shop.handle": (6, 1), "shop.other": (1, 1)}) == (
        second.number,
        created(only(directory)),
    )
    assert ["0.page"] == files(directory)
    second.release()
    assert [0, 1] == [claim().number for _ in range(2)]


@pytest.mark.parametrize("field", ["turn_since_ns", "poll_since_ns"])
def test_observed_time_does_not_fall_when_the_process_dies(
    directory: SharedDirectory, claim: Callable[..., ClaimedSlot], field: str
) -> None:
    """It dies in the middle of a turn or a wait, and then another process claims the slot."""
    slot = claim()
    slot.page.words[LAYOUT.loop + LOOP["timed"]] = 1
    slot.page.words[LAYOUT.loop + LOOP[field]] = 1_000
    shown = [only(directory, now_ns) for now_ns in (1_500, 4_000)]
    slot.release()
    shown.append(only(directory, 9_000))
    claim()
    shown.append(only(directory, 12_000))
    times = [max(view.loop.active_ns, view.loop.idle_ns or 0) for view in shown]
    assert [500, 3_000, 3_000, 3_000] == times


def test_observed_blocking_time_does_not_fall_when_the_process_dies(
    directory: SharedDirectory, claim: Callable[..., ClaimedSlot]
) -> None:
    """It grows while readers observe the block, and stays when another process claims the slot."""
    slot = claim()
    slot.page.words[LAYOUT.loop + LOOP["segment_since_ns"]] = 1_000
    shown = [only(directory, now_ns) for now_ns in (1_050, 1_500, 4_000)]
    slot.release()
    shown.append(only(directory, 9_000))
    claim()
    shown.append(only(directory, 12_000))
    assert [0, 500, 3_000, 3_000, 3_000] == [view.loop.blocking_ns for view in shown]


@pytest.mark.parametrize("field", ["turn_since_ns", "poll_since_ns", "segment_since_ns"])
@pytest.mark.parametrize("step", ["head", "content", "memory"])
def test_time_is_not_counted_while_no_process_has_the_slot(
    directory: SharedDirectory,
    claim: Callable[..., ClaimedSlot],
    field: str,
    step: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A reader does not count it either while the next process is claiming the slot.

    At that time, the file is locked but the page is not in use yet.
    """
    slot = claim()
    slot.page.words[LAYOUT.loop + LOOP["timed"]] = 1
    slot.page.words[LAYOUT.loop + LOOP[field]] = 1_000
    shown = [only(directory, 1_500)]
    slot.release()
    original = getattr(SlotFile, step)

    def interrupted(locked: SlotFile, *args: Any) -> Any:
        shown.append(only(directory, 9_000))
        return original(locked, *args)

    monkeypatch.setattr(SlotFile, step, interrupted)
    claim()
    shown.append(only(directory, 12_000))
    times = [
        max(view.loop.active_ns, view.loop.idle_ns or 0, view.loop.blocking_ns) for view in shown
    ]
    assert 3 <= len(times)
    assert {500} == set(times)


def test_nothing_falls_when_an_observation_is_written_late(
    directory: SharedDirectory, claim: Callable[..., ClaimedSlot]
) -> None:
    """Of two readers, in this process or another, the first to read the clock may write last."""
    page = claim().page
    page.words[LAYOUT.loop + LOOP["segment_since_ns"]] = 1_000
    observers = (page.mark_observed, lambda now_ns: only(directory, now_ns))
    shown = []
    for now_ns in (4_000, 1_500):
        for observe in observers:
            observe(now_ns)
            shown.append(only(directory).loop.blocking_ns)
    assert [3_000] * 4 == shown


# --- what is left out


def _with(field: str, value: int) -> Callable[[Path], None]:
    def change(path: Path) -> None:
        data = bytearray(path.read_bytes())
        memoryview(data).cast("q")[HEADER[field]] = value
        path.write_bytes(data)

    return change


def _as_link(path: Path) -> None:
    path.rename(path.with_suffix(".elsewhere"))
    path.symlink_to(path.with_suffix(".elsewhere"))


def _as_fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path, 0o600)


def _as_directory(path: Path) -> None:
    path.unlink()
    path.mkdir()


def _sparse(path: Path) -> None:
    with path.open("r+b") as file:
        file.truncate(1 << 40)


def _cut(size: int) -> Callable[[Path], None]:
    def change(path: Path) -> None:
        os.truncate(path, size)

    return change


BROKEN: dict[str, tuple[str, Callable[[Path], Any]]] = {
    "another version": ("version", _with("version", VERSION + 1)),
    "other buckets": ("damaged", _with("segment_bounds", 3)),
    "no bytes": ("damaged", _cut(0)),
    "cut in its header": ("damaged", _cut(16)),
    "cut in its records": ("damaged", _cut(4096)),
    "cut by one byte": ("damaged", _cut(LAYOUT.size - 1)),
    "too many records": ("damaged", _with("coroutines", 1_000_000)),
    "too many strings": ("damaged", _with("strings_used", 1 << 40)),
    "garbage": ("damaged", lambda path: path.write_bytes(os.urandom(LAYOUT.size))),
    "a terabyte of nothing": ("damaged", _sparse),
    "a symbolic link": ("foreign", _as_link),
    "a fifo": ("foreign", _as_fifo),
    "a directory": ("foreign", _as_directory),
    "open to the group": ("foreign", lambda path: path.chmod(0o660)),
}


@pytest.mark.parametrize("case", BROKEN)
def test_file_is_left_out_when_it_is_not_a_page(
    directory: SharedDirectory,
    claim: Callable[..., ClaimedSlot],
    case: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """It is counted by reason and logged once, other pages are read, and a new loop gets a slot."""
    reason, damage = BROKEN[case]
    broken, whole = claim(), claim()
    count(whole.page, "shop.handle", 1)
    broken.release()
    damage(Path(directory.path) / "0.page")
    for _ in range(2):
        found = directory.read((), PAGE_FORMAT, 0, 0)
        assert ([1], NONE_SKIPPED | {reason: 1}) == (list(found.pages), found.skipped)
    (line,) = messages(caplog, "0.page")
    assert f"0.page is left out ({reason}): " in line
    assert (2 if reason == "foreign" else 0) == claim().number
    assert {1, 2 if reason == "foreign" else 0} == set(directory.read((), PAGE_FORMAT, 0, 0).pages)


@pytest.mark.skipif(
    not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root can give files away"
)
def test_file_is_left_out_when_it_belongs_to_another_user(
    directory: SharedDirectory, claim: Callable[..., ClaimedSlot]
) -> None:
    """It is neither read nor claimed."""
    claim().release()
    os.chown(Path(directory.path) / "0.page", 12345, -1)
    assert ({}, NONE_SKIPPED | {"foreign": 1}) == directory.read((), PAGE_FORMAT, 0, 0)[:2]
    assert 1 == claim().number


def test_page_is_not_damaged_while_it_is_being_created(
    directory: SharedDirectory, claim: Callable[..., ClaimedSlot]
) -> None:
    """A process has locked the file, and has not written its first word yet."""
    slot = claim()
    slot.page.words[HEADER["magic"]] = 0
    assert ({}, NONE_SKIPPED) == directory.read((), PAGE_FORMAT, 0, 0)[:2]
    slot.release()
    assert NONE_SKIPPED | {"damaged": 1} == directory.read((), PAGE_FORMAT, 0, 0).skipped


OTHER_FORMAT = PageFormat(
    Layout((1_000,), (2_000,), max_coroutines=3, max_yield_points=4, max_requests=2), 100, 1
)


@pytest.mark.parametrize(
    "page_format",
    [OTHER_FORMAT, PAGE_FORMAT._replace(blocking_threshold_ns=200), PAGE_FORMAT._replace(weight=2)],
)
def test_pages_of_another_format_are_neither_added_nor_continued(
    directory: SharedDirectory, claim: Callable[..., ClaimedSlot], page_format: PageFormat
) -> None:
    """Their numbers mean something else.

    Their slots are claimed only when no process that can read them is left.
    """
    released, old = claim(), claim()
    released.release()
    new = claim(page_format)
    assert 2 == new.number
    found = directory.read((), PAGE_FORMAT, 0, 0)
    assert ([0, 1], NONE_SKIPPED | {"options": 1}) == (list(found.pages), found.skipped)
    old.release()
    assert [0, 1] == [claim(page_format).number for _ in range(2)]


@pytest.mark.parametrize(
    ("number", "expected"),
    [
        (1 << 62, (1 << 62) + 1),
        (-(1 << 62), 1 - (1 << 62)),
        ((1 << 62) + 1, 1),
        (-(1 << 62) - 1, 1),
        ((1 << 63) - 1, 1),
    ],
)
def test_page_is_begun_anew_when_its_numbers_are_impossible(
    directory: SharedDirectory, claim: Callable[..., ClaimedSlot], number: int, expected: int
) -> None:
    """A damaged counter must not overflow in a process that continues the page."""
    slot = claim()
    count(slot.page, "shop.handle", number)
    slot.release()
    again = claim()
    count(again.page, "shop.handle", 1)

    assert 0 == again.number
    assert {"shop.handle": (expected, 0)} == created(only(directory))


def test_newest_page_sets_the_format_when_none_is_given(
    directory: SharedDirectory, claim: Callable[..., ClaimedSlot]
) -> None:
    """A live page takes precedence; without pages there is no format."""
    assert directory.read((), None, 0, 0).page_format is None
    old, new = claim(), claim(OTHER_FORMAT)
    old.page.words[HEADER["opened_unix_ns"]] = 1
    assert (OTHER_FORMAT, [1]) == (
        directory.read((), None, 0, 0).page_format,
        list(directory.read((), None, 0, 0).pages),
    )
    new.release()
    assert (PAGE_FORMAT, [0]) == (
        directory.read((), None, 0, 0).page_format,
        list(directory.read((), None, 0, 0).pages),
    )


@pytest.mark.parametrize(
    "page_format", [PAGE_FORMAT, None], ids=["a process of the service", "a sidecar"]
)
def test_page_is_not_copied_when_it_is_left_out(
    directory: SharedDirectory, claim: Callable[..., ClaimedSlot], page_format: PageFormat | None
) -> None:
    """A sparse file that claims to be a very large page costs the reader no memory."""
    claim()
    huge = PageFormat(
        Layout((1_000,), (2_000,), max_coroutines=1, max_yield_points=400_000, max_requests=1),
        100,
        1,
    )
    page = Page(*huge)
    page.words[HEADER["yield_points"]] = 400_000
    file = Path(directory.path) / "1.page"
    file.write_bytes(page.memory[:4096])
    file.chmod(0o600)
    os.truncate(file, huge.layout.size)
    del page
    tracemalloc.start()
    try:
        found = directory.read((), page_format, 0, 0)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert ([0], NONE_SKIPPED | {"options": 1}) == (list(found.pages), found.skipped)
    assert huge.layout.size > 100 * peak


def test_page_is_left_out_when_it_is_begun_anew_while_it_is_read(
    directory: SharedDirectory, claim: Callable[..., ClaimedSlot], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its size is the same, but its numbers mean something else, so that they are not added."""
    page, preadv = claim().page, os.preadv

    def late(descriptor: int, buffers: Any, offset: int) -> int:
        page.words[LAYOUT.bounds] = 11
        return preadv(descriptor, buffers, offset)

    monkeypatch.setattr(os, "preadv", late)
    assert ({}, NONE_SKIPPED | {"options": 1}) == directory.read((), PAGE_FORMAT, 0, 0)[:2]


def test_a_yield_point_that_is_added_while_the_page_is_read_is_read_too(
    directory: SharedDirectory, claim: Callable[..., ClaimedSlot], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Segment paths, which are read last, may lead to it: without it the page would be damaged."""
    page, preadv = claim().page, os.preadv
    added: list[int] = []

    def late(descriptor: int, buffers: Any, offset: int) -> int:
        if offset == LAYOUT.segment_paths * WORD and not added:
            coroutine = page.add_coroutine("shop.handle")
            added.append(page.add_yield_point(coroutine, "shop/main.py:1 handle", ""))
            path = LAYOUT.segment_path(0)
            page.words[path : path + len(SEGMENT_PATH)] = memoryview(
                array("q", [AT_START, added[0], 1, 5])
            )
        return preadv(descriptor, buffers, offset)

    monkeypatch.setattr(os, "preadv", late)
    found = directory.read((), PAGE_FORMAT, 0, 0)
    assert ([0], NONE_SKIPPED) == (list(found.pages), found.skipped)
    assert [1] == [path.segments for path in found.pages[0].segment_paths]


def test_files_that_are_not_slots_are_ignored(
    directory: SharedDirectory, claim: Callable[..., ClaimedSlot]
) -> None:
    """They are neither read nor warned about."""
    for name in ("README", "01.page", "-1.page", "1000.page", "0.page.bak"):
        (Path(directory.path) / name).write_text("mine")
    assert 0 == claim().number
    assert ([0], NONE_SKIPPED) == (
        list((found := directory.read((), PAGE_FORMAT, 0, 0)).pages),
        found.skipped,
    )


@pytest.mark.parametrize("step", ["attempt", "head", "content", "memory"])
def test_slot_is_released_when_claiming_it_fails(
    directory: SharedDirectory,
    claim: Callable[..., ClaimedSlot],
    step: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """No file stays open or locked, and the next attempt gets the slot with its counters."""
    slot = claim()
    count(slot.page, "shop.handle", 5)
    slot.release()

    def refused(*_: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    before = descriptors()
    with monkeypatch.context() as broken:
        broken.setattr(SlotFile, step, refused)
        with suppress(OSError):
            directory.claim(PAGE_FORMAT).release()
    assert before == descriptors()
    assert 0 == claim().number
    assert {"shop.handle": (5, 0)} == created(directory.read((), PAGE_FORMAT, 0, 0).pages[0])


# --- the directory


def test_preparing_fails_when_the_parent_of_the_directory_is_missing(tmp_path: Path) -> None:
    """The error says what to do; a path that is a file is refused as well."""
    with pytest.raises(
        DirectoryError,
        match=r"cannot make the directory '.*/no/shared': No such file or directory. "
        r"Make it for user",
    ):
        SharedDirectory(str(tmp_path / "no" / "shared")).prepare()
    (tmp_path / "file").touch()
    with pytest.raises(
        DirectoryError, match=r"cannot open the directory '.*/file': Not a directory"
    ):
        SharedDirectory(str(tmp_path / "file")).prepare()


@pytest.mark.parametrize(
    ("mode", "text"), [(0o770, "drwxrwx---"), (0o702, "drwx----w-"), (0o1777, "drwxrwxrwt")]
)
def test_directory_is_refused_when_others_can_write_to_it(
    directory: SharedDirectory, mode: int, text: str
) -> None:
    """Nothing is written or read there, even if its mode was changed only later."""
    Path(directory.path).chmod(mode)
    message = (
        f"others can write to the directory '.*shared', whose mode is {text}: "
        "use one that .*, and chmod it to 0700"
    )
    for use in (directory.prepare, directory.check, lambda: directory.claim(PAGE_FORMAT)):
        with pytest.raises(DirectoryError, match=message):
            use()
    assert ({}, NONE_SKIPPED | {"unreadable": 1}) == directory.read((), PAGE_FORMAT, 0, 0)[:2]
    assert [] == files(directory)


def test_directory_is_accepted_when_others_can_only_read_it(
    directory: SharedDirectory, claim: Callable[..., ClaimedSlot]
) -> None:
    """They still cannot read its files."""
    Path(directory.path).chmod(0o755)
    assert 0 == claim().number


@pytest.mark.skipif(
    not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root can give directories away"
)
def test_directory_is_refused_when_it_belongs_to_another_user(directory: SharedDirectory) -> None:
    """The error names both users."""
    os.chown(directory.path, 12345, -1)
    with pytest.raises(
        DirectoryError,
        match=r"belongs to user 12345, and this process to user 0: run all processes",
    ):
        directory.prepare()


def test_nothing_is_read_while_the_directory_does_not_exist(
    directory: SharedDirectory, caplog: pytest.LogCaptureFixture
) -> None:
    """Reading logs no warning, but claiming a slot raises an error."""
    Path(directory.path).rmdir()
    directory.check()
    assert ({}, NONE_SKIPPED) == directory.read((), PAGE_FORMAT, 0, 0)[:2]
    assert [] == caplog.records
    with pytest.raises(DirectoryError, match="cannot open the directory"):
        directory.claim(PAGE_FORMAT)


def test_warning_is_logged_when_the_file_of_a_slot_is_deleted(
    directory: SharedDirectory, claim: Callable[..., ClaimedSlot], caplog: pytest.LogCaptureFixture
) -> None:
    """It is logged once and names the consequence; the writer goes on."""
    slot = claim()
    directory.warn_if_deleted(slot)
    assert [] == messages(caplog, "0.page")
    (Path(directory.path) / "0.page").unlink()
    directory.warn_if_deleted(slot)
    directory.warn_if_deleted(slot)
    (line,) = messages(caplog, "0.page")
    assert (
        f"0.page was deleted while a loop of process {os.getpid()} writes to it: "
        "other processes do not show that loop" in line
    )
    count(slot.page, "shop.handle", 1)


def test_directories_cannot_be_shared_when_the_system_has_no_locks(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The error says what to do."""
    monkeypatch.setattr("aiometrics.pages.multiprocess.private_directory.SUPPORTED", False)
    with pytest.raises(
        DirectoryError,
        match=r"the directory '/x' cannot be shared: this system has no flock\(\). "
        r"Leave the directory out",
    ):
        SharedDirectory("/x")


def test_number_of_slots_is_limited(
    claim: Callable[..., ClaimedSlot], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The limit also bounds the work of a reader."""
    assert 1000 == MAX_SLOTS
    monkeypatch.setattr("aiometrics.pages.multiprocess.directory.MAX_SLOTS", 2)
    claim()
    claim()
    with pytest.raises(
        DirectoryError,
        match=r"all 2 slots of '.*' are taken: give each service a directory of its own",
    ):
        claim()


def test_file_is_removed_when_there_is_no_room_for_it(
    directory: SharedDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error is that of the system, and no part of a page is left.

    A writer would be killed at the first word without room on the disk.
    """

    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(OSError, match="No space left on device"):
        directory.claim(PAGE_FORMAT)
    assert [] == files(directory)


def test_warning_is_logged_once_when_the_directory_is_on_a_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """There is none for a file system in memory, nor for an unknown one."""
    kinds = iter(["tmpfs", None, "ext4", "ext4"])
    monkeypatch.setattr(
        "aiometrics.pages.multiprocess.private_directory.filesystem_of", lambda _: next(kinds)
    )
    directory = SharedDirectory(str(tmp_path))
    with caplog.at_level(logging.WARNING, "aiometrics"):
        directory.prepare()
        directory.prepare()
        assert [] == caplog.records
        directory.prepare()
        directory.prepare()
    (line,) = [record.getMessage() for record in caplog.records]
    assert (
        f"the directory '{tmp_path}' is on ext4: a loop may stall while its page is written "
        "to the disk. Use one in memory" in line
    )


def test_file_system_of_a_directory_is_found(tmp_path: Path) -> None:
    """It is looked up in the table of mounts by the number of the device."""
    device = tmp_path.stat().st_dev
    table = tmp_path / "mountinfo"
    numbers = f"{os.major(device)}:{os.minor(device)}"
    table.write_text(
        f"22 1 0:99 / /proc rw - proc proc rw\n23 1 {numbers} / / rw shared:1 - tmpfs none rw\n",
        encoding="ascii",
    )
    assert "tmpfs" == filesystem_of(str(tmp_path), table)
    table.write_text("22 1 0:99 / /proc rw - proc proc rw\nnonsense\n", encoding="ascii")
    assert filesystem_of(str(tmp_path), table) is None
    assert filesystem_of(str(tmp_path / "no"), table) is None
    assert filesystem_of(str(tmp_path), tmp_path / "no") is None
    assert [True, True, False] == [in_memory(kind) for kind in ("tmpfs", "ramfs", "ext4")]


def test_page_is_read_when_its_writer_never_finishes_an_update(
    directory: SharedDirectory, claim: Callable[..., ClaimedSlot]
) -> None:
    """The writer died or was stopped in the middle of it; the reader shows the page as it is."""
    slot = claim()
    count(slot.page, "shop.handle", 5)
    slot.page.words[LAYOUT.loop + LOOP["started"]] += 1
    assert {"shop.handle": (5, 0)} == created(only(directory))
    slot.release()
    assert {"shop.handle": (5, 0)} == created(only(directory))


def test_reader_pauses_after_every_record(
    directory: SharedDirectory, claim: Callable[..., ClaimedSlot]
) -> None:
    """It pauses when it copies, when it decodes and when it adds up, if it is given a pause."""
    pauses: list[None] = []
    for _ in range(2):
        page = claim().page
        for number in range(3):
            count(page, f"shop.handle{number}", 1)
            page.words[LAYOUT.segments(page.add_yield_point(2, f"shop.py:{number} f", "g")) + 1] = 1
            page.words[
                LAYOUT.request(page.add_request(f"GET /{number}")) + REQUEST["background_ns"]
            ] = 1
    pages = list(
        directory.read((), PAGE_FORMAT, 0, 0, pause=lambda: pauses.append(None)).pages.values()
    )
    # A page has 5 coroutines, 4 yield points, and 4 requests, one of them (other).
    assert len(pauses) >= 2 * (5 + 4 + 4)
    pauses.clear()
    seen = merged(pages, taken_ns=0, sample_ratio=1, pause=lambda: pauses.append(None))
    # 6 coroutines, 6 yield points and 6 requests.
    assert len(pauses) >= 6 + 6 + 6
    assert merged(pages, taken_ns=0, sample_ratio=1) == seen


def test_words_of_the_page_are_words_of_the_file(
    directory: SharedDirectory, claim: Callable[..., ClaimedSlot]
) -> None:
    """A word that is written to the page is in the file at once."""
    claim().page.words[HEADER["weight"]] = 7
    data = (Path(directory.path) / "0.page").read_bytes()
    assert (LAYOUT.size, 7) == (
        len(data),
        int.from_bytes(data[HEADER["weight"] * WORD :][:WORD], "little"),
    )
