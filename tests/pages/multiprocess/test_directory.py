"""The shared directory: who holds a slot, who goes on with it, and what is left out."""

from __future__ import annotations

import errno
import gc
import logging
import os
import stat
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from support.samples import LAYOUT

from aiometrics.pages.header import PageFormat
from aiometrics.pages.layout import (
    COROUTINE,
    HEADER,
    LOOP,
    LOOP_STATS,
    REQUEST,
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

TERMS = PageFormat(LAYOUT, 100, 1)
NONE = dict.fromkeys(REASONS, 0)


@pytest.fixture
def shelf(tmp_path: Path) -> SharedDirectory:
    """An empty shelf."""
    made = SharedDirectory(str(tmp_path / "shared"))
    made.prepare()
    return made


@pytest.fixture
def take(shelf: SharedDirectory) -> Iterator[Callable[..., ClaimedSlot]]:
    """Takes a slot of the shelf and opens its page, as a process does; what is left at the end is released."""
    taken: list[ClaimedSlot] = []

    def take(page_format: PageFormat = TERMS, name: str = "MainThread") -> ClaimedSlot:
        taken.append(shelf.claim(page_format))
        taken[-1].page.open(name)
        return taken[-1]

    yield take
    for held in taken:
        held.release()


def descriptors() -> int:
    """How many files are open, those of what is garbage not counted."""
    gc.collect()
    return len(list(Path("/dev/fd").iterdir()))


def files(shelf: SharedDirectory) -> list[str]:
    """The names of the files that are there."""
    return sorted(path.name for path in Path(shelf.path).iterdir())


def messages(caplog: pytest.LogCaptureFixture, about: str) -> list[str]:
    """What was logged of it."""
    return [record.getMessage() for record in caplog.records if about in record.getMessage()]


def only(shelf: SharedDirectory, now_ns: int = 0) -> PageView:
    """What the only page of the shelf says, to a reader outside."""
    (view,) = shelf.read((), TERMS, now_ns, 0).pages.values()
    return view


def count(page: Page, name: str, times: int, live: int = 0) -> None:
    """Count tasks of a coroutine, as a recorder does."""
    known = {found: number for number, found in page.coroutines()}
    record = page.layout.coroutine(known.get(name) or page.add_coroutine(name))
    page.words[record + COROUTINE["created"]] += times
    page.words[record + COROUTINE["live"]] += live


def created(view: PageView) -> dict[str, tuple[int, int]]:
    """Tasks that were created, and those alive, by coroutine."""
    return {entry.coroutine: (entry.created, entry.live) for entry in view.coroutines}


def test_each_loop_has_a_slot_of_its_own(
    shelf: SharedDirectory, take: Callable[..., ClaimedSlot]
) -> None:
    """Numbered from 0, in files that nobody else can open."""
    assert [0, 1, 2] == [take().number for _ in range(3)]
    assert ["0.page", "1.page", "2.page"] == files(shelf)
    assert {"-rw-------"} == {
        stat.filemode(path.stat().st_mode) for path in Path(shelf.path).iterdir()
    }
    assert "drwx------" == stat.filemode(Path(shelf.path).stat().st_mode)


def test_others_read_what_one_writes(
    shelf: SharedDirectory, take: Callable[..., ClaimedSlot]
) -> None:
    """Loops are called by their numbers; our own pages are left to ourselves."""
    for tasks in (5, 7):
        count(take().page, "shop.handle", tasks, 1)
    found = shelf.read((), TERMS, 0, 0)
    assert [("0", {"shop.handle": (5, 1)}), ("1", {"shop.handle": (7, 1)})] == [
        (v.loop.loop, created(v)) for v in found.pages.values()
    ]
    assert {os.getpid()} == {view.loop.process_id for view in found.pages.values()}
    assert [1] == list(shelf.read({0}, TERMS, 0, 0).pages)
    assert NONE == found.skipped


def test_what_a_process_left_is_shown_without_its_gauges(
    shelf: SharedDirectory, take: Callable[..., ClaimedSlot]
) -> None:
    """Counters stay; no task is alive, nothing is in progress, and there is no process."""
    held = take()
    page = held.page
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
    alive = only(shelf)
    held.release()
    dead = only(shelf)
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


def test_the_next_process_goes_on_where_the_last_one_stood(
    shelf: SharedDirectory, take: Callable[..., ClaimedSlot]
) -> None:
    """The same slot, the same records, counters that go on and gauges from zero; no file more."""
    first = take()
    count(first.page, "shop.handle", 5, 2)
    first.page.words[LAYOUT.loop + LOOP["started"]] += 1  # it died in the middle of an update
    first.release()
    second = take(name="Thread-1")
    assert {"shop.handle": (5, 0)} == created(only(shelf))
    count(second.page, "shop.handle", 1, 1)
    count(second.page, "shop.other", 1, 1)
    assert (0, {"shop.handle": (6, 1), "shop.other": (1, 1)}) == (
        second.number,
        created(only(shelf)),
    )
    assert ["0.page"] == files(shelf)
    second.release()
    assert [0, 1] == [take().number for _ in range(2)]


@pytest.mark.parametrize("field", ["turn_since_ns", "poll_since_ns"])
def test_time_that_was_shown_is_not_taken_back(
    shelf: SharedDirectory, take: Callable[..., ClaimedSlot], field: str
) -> None:
    """Neither when the process dies in the middle of a turn or a wait, nor when another takes the slot."""
    held = take()
    held.page.words[LAYOUT.loop + LOOP["timed"]] = 1
    held.page.words[LAYOUT.loop + LOOP[field]] = 1_000
    shown = [only(shelf, now_ns) for now_ns in (1_500, 4_000)]
    held.release()
    shown.append(only(shelf, 9_000))
    take()
    shown.append(only(shelf, 12_000))
    times = [max(view.loop.active_ns, view.loop.idle_ns or 0) for view in shown]
    assert [500, 3_000, 3_000, 3_000] == times


def test_a_block_that_was_shown_is_not_taken_back(
    shelf: SharedDirectory, take: Callable[..., ClaimedSlot]
) -> None:
    """It is counted as long as somebody looks, and stays when the process dies in it and when another takes the slot."""
    held = take()
    held.page.words[LAYOUT.loop + LOOP["segment_since_ns"]] = 1_000
    shown = [only(shelf, now_ns) for now_ns in (1_050, 1_500, 4_000)]
    held.release()
    shown.append(only(shelf, 9_000))
    take()
    shown.append(only(shelf, 12_000))
    assert [0, 500, 3_000, 3_000, 3_000] == [view.loop.blocking_ns for view in shown]


@pytest.mark.parametrize("field", ["turn_since_ns", "poll_since_ns", "segment_since_ns"])
@pytest.mark.parametrize("step", ["head", "content", "memory"])
def test_time_in_which_nobody_held_a_slot_is_not_counted(
    shelf: SharedDirectory,
    take: Callable[..., ClaimedSlot],
    field: str,
    step: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Also not by a reader that comes while the next process takes the slot, at whatever step: it is locked, but not in use yet."""
    held = take()
    held.page.words[LAYOUT.loop + LOOP["timed"]] = 1
    held.page.words[LAYOUT.loop + LOOP[field]] = 1_000
    shown = [only(shelf, 1_500)]
    held.release()
    original = getattr(SlotFile, step)

    def interrupted(locked: SlotFile, *args: Any) -> Any:
        shown.append(only(shelf, 9_000))
        return original(locked, *args)

    monkeypatch.setattr(SlotFile, step, interrupted)
    take()
    shown.append(only(shelf, 12_000))
    times = [
        max(view.loop.active_ns, view.loop.idle_ns or 0, view.loop.blocking_ns) for view in shown
    ]
    assert 3 <= len(times)
    assert {500} == set(times)


def test_a_look_that_comes_late_takes_nothing_back(
    shelf: SharedDirectory, take: Callable[..., ClaimedSlot]
) -> None:
    """Of two readers at a time, in the process or outside, the one that read the clock first may write last."""
    page = take().page
    page.words[LAYOUT.loop + LOOP["segment_since_ns"]] = 1_000
    looks = (page.mark_observed, lambda now_ns: only(shelf, now_ns))
    shown = []
    for now_ns in (4_000, 1_500):
        for look in looks:
            look(now_ns)
            shown.append(only(shelf).loop.blocking_ns)
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
def test_what_is_no_page_is_left_out(
    shelf: SharedDirectory,
    take: Callable[..., ClaimedSlot],
    case: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """It is counted by its reason and logged once; the others are read, also while it is there, and a new loop finds a slot."""
    reason, damage = BROKEN[case]
    broken, whole = take(), take()
    count(whole.page, "shop.handle", 1)
    broken.release()
    damage(Path(shelf.path) / "0.page")
    for _ in range(2):
        found = shelf.read((), TERMS, 0, 0)
        assert ([1], NONE | {reason: 1}) == (list(found.pages), found.skipped)
    (line,) = messages(caplog, "0.page")
    assert f"0.page is left out ({reason}): " in line
    assert (2 if reason == "foreign" else 0) == take().number
    assert {1, 2 if reason == "foreign" else 0} == set(shelf.read((), TERMS, 0, 0).pages)


@pytest.mark.skipif(
    not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root can give files away"
)
def test_what_belongs_to_somebody_else_is_left_out(
    shelf: SharedDirectory, take: Callable[..., ClaimedSlot]
) -> None:
    """Neither read nor taken."""
    take().release()
    os.chown(Path(shelf.path) / "0.page", 12345, -1)
    assert ({}, NONE | {"foreign": 1}) == shelf.read((), TERMS, 0, 0)[:2]
    assert 1 == take().number


def test_a_page_that_is_being_made_is_no_damage(
    shelf: SharedDirectory, take: Callable[..., ClaimedSlot]
) -> None:
    """Somebody holds it, and has not written its first word yet."""
    held = take()
    held.page.words[HEADER["magic"]] = 0
    assert ({}, NONE) == shelf.read((), TERMS, 0, 0)[:2]
    held.release()
    assert NONE | {"damaged": 1} == shelf.read((), TERMS, 0, 0).skipped


OTHER_TERMS = PageFormat(
    Layout((1_000,), (2_000,), max_coroutines=3, max_yield_points=4, max_requests=2), 100, 1
)


@pytest.mark.parametrize(
    "page_format",
    [OTHER_TERMS, TERMS._replace(blocking_threshold_ns=200), TERMS._replace(weight=2)],
)
def test_pages_of_other_terms_are_neither_added_nor_continued(
    shelf: SharedDirectory, take: Callable[..., ClaimedSlot], page_format: PageFormat
) -> None:
    """Their numbers mean something else. A slot of theirs is taken only when no process that reads it is left."""
    left, old = take(), take()
    left.release()
    new = take(page_format)
    assert 2 == new.number
    found = shelf.read((), TERMS, 0, 0)
    assert ([0, 1], NONE | {"options": 1}) == (list(found.pages), found.skipped)
    old.release()
    assert [0, 1] == [take(page_format).number for _ in range(2)]


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
def test_a_page_with_impossible_numbers_is_not_continued(
    shelf: SharedDirectory, take: Callable[..., ClaimedSlot], number: int, expected: int
) -> None:
    """A damaged counter must not overflow in the process that would go on with it: that one begins anew."""
    held = take()
    count(held.page, "shop.handle", number)
    held.release()
    again = take()
    count(again.page, "shop.handle", 1)

    assert 0 == again.number
    assert {"shop.handle": (expected, 0)} == created(only(shelf))


def test_without_terms_the_newest_page_sets_them(
    shelf: SharedDirectory, take: Callable[..., ClaimedSlot]
) -> None:
    """A live one, if there is any; with no page there are none."""
    assert shelf.read((), None, 0, 0).page_format is None
    old, new = take(), take(OTHER_TERMS)
    old.page.words[HEADER["opened_unix_ns"]] = 1
    assert (OTHER_TERMS, [1]) == (
        shelf.read((), None, 0, 0).page_format,
        list(shelf.read((), None, 0, 0).pages),
    )
    new.release()
    assert (TERMS, [0]) == (
        shelf.read((), None, 0, 0).page_format,
        list(shelf.read((), None, 0, 0).pages),
    )


@pytest.mark.parametrize(
    "page_format", [TERMS, None], ids=["a process of the service", "a sidecar"]
)
def test_what_is_left_out_is_not_copied(
    shelf: SharedDirectory, take: Callable[..., ClaimedSlot], page_format: PageFormat | None
) -> None:
    """A file of holes that says it is a page with room for very much costs no memory."""
    take()
    huge = PageFormat(
        Layout((1_000,), (2_000,), max_coroutines=1, max_yield_points=400_000, max_requests=1),
        100,
        1,
    )
    page = Page(*huge)
    page.words[HEADER["yield_points"]] = 400_000
    file = Path(shelf.path) / "1.page"
    file.write_bytes(page.memory[:4096])
    file.chmod(0o600)
    os.truncate(file, huge.layout.size)
    del page
    tracemalloc.start()
    try:
        found = shelf.read((), page_format, 0, 0)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert ([0], NONE | {"options": 1}) == (list(found.pages), found.skipped)
    assert huge.layout.size > 100 * peak


def test_a_slot_that_is_begun_anew_while_it_is_read_is_left_out(
    shelf: SharedDirectory, take: Callable[..., ClaimedSlot], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its size is the same, but its numbers mean something else: they are not added to the others."""
    page, preadv = take().page, os.preadv

    def late(descriptor: int, buffers: Any, offset: int) -> int:
        page.words[LAYOUT.bounds] = 11
        return preadv(descriptor, buffers, offset)

    monkeypatch.setattr(os, "preadv", late)
    assert ({}, NONE | {"options": 1}) == shelf.read((), TERMS, 0, 0)[:2]


def test_other_files_are_no_business_of_ours(
    shelf: SharedDirectory, take: Callable[..., ClaimedSlot]
) -> None:
    """They are neither read nor complained about."""
    for name in ("README", "01.page", "-1.page", "1000.page", "0.page.bak"):
        (Path(shelf.path) / name).write_text("mine")
    assert 0 == take().number
    assert ([0], NONE) == (list((found := shelf.read((), TERMS, 0, 0)).pages), found.skipped)


@pytest.mark.parametrize("step", ["attempt", "head", "content", "memory"])
def test_a_slot_that_cannot_be_had_is_let_go(
    shelf: SharedDirectory,
    take: Callable[..., ClaimedSlot],
    step: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Whatever the system refuses, nothing stays open or locked, and the next attempt has it, with its counters."""
    held = take()
    count(held.page, "shop.handle", 5)
    held.release()

    def refused(*_: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    before = descriptors()
    with monkeypatch.context() as broken:
        broken.setattr(SlotFile, step, refused)
        with suppress(OSError):
            shelf.claim(TERMS).release()
    assert before == descriptors()
    assert 0 == take().number
    assert {"shop.handle": (5, 0)} == created(shelf.read((), TERMS, 0, 0).pages[0])


# --- the directory


def test_a_directory_is_needed_whose_parent_is_there(tmp_path: Path) -> None:
    """The error says what to do."""
    with pytest.raises(
        DirectoryError,
        match=r"cannot make the directory '.*/no/shared': No such file or directory. Make it for user",
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
def test_a_directory_that_others_can_write_is_refused(
    shelf: SharedDirectory, mode: int, text: str
) -> None:
    """Whether it was so from the start or became so: nothing is written or read there."""
    Path(shelf.path).chmod(mode)
    message = f"others can write to the directory '.*shared', whose mode is {text}: use one that .*, and chmod it to 0700"
    for use in (shelf.prepare, shelf.check, lambda: shelf.claim(TERMS)):
        with pytest.raises(DirectoryError, match=message):
            use()
    assert ({}, NONE | {"unreadable": 1}) == shelf.read((), TERMS, 0, 0)[:2]
    assert [] == files(shelf)


def test_a_directory_that_others_can_read_will_do(
    shelf: SharedDirectory, take: Callable[..., ClaimedSlot]
) -> None:
    """Its files cannot be read."""
    Path(shelf.path).chmod(0o755)
    assert 0 == take().number


@pytest.mark.skipif(
    not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root can give directories away"
)
def test_a_directory_of_somebody_else_is_refused(shelf: SharedDirectory) -> None:
    """The error names both users."""
    os.chown(shelf.path, 12345, -1)
    with pytest.raises(
        DirectoryError,
        match=r"belongs to user 12345, and this process to user 0: run all processes",
    ):
        shelf.prepare()


def test_while_there_is_no_directory_there_is_nothing_to_read(
    shelf: SharedDirectory, caplog: pytest.LogCaptureFixture
) -> None:
    """That is nothing to complain about; to take a slot is an error."""
    Path(shelf.path).rmdir()
    shelf.check()
    assert ({}, NONE) == shelf.read((), TERMS, 0, 0)[:2]
    assert [] == caplog.records
    with pytest.raises(DirectoryError, match="cannot open the directory"):
        shelf.claim(TERMS)


def test_a_file_that_is_deleted_under_its_writer_is_complained_about(
    shelf: SharedDirectory, take: Callable[..., ClaimedSlot], caplog: pytest.LogCaptureFixture
) -> None:
    """Once, and it says what follows; the writer goes on."""
    held = take()
    shelf.warn_if_deleted(held)
    assert [] == messages(caplog, "0.page")
    (Path(shelf.path) / "0.page").unlink()
    shelf.warn_if_deleted(held)
    shelf.warn_if_deleted(held)
    (line,) = messages(caplog, "0.page")
    assert (
        f"0.page was deleted while a loop of process {os.getpid()} writes to it: other processes do not show that loop"
        in line
    )
    count(held.page, "shop.handle", 1)


def test_a_system_without_locks_has_no_shelf(monkeypatch: pytest.MonkeyPatch) -> None:
    """The error says what to do."""
    monkeypatch.setattr("aiometrics.pages.multiprocess.private_directory.SUPPORTED", False)
    with pytest.raises(
        DirectoryError,
        match=r"the directory '/x' cannot be shared: this system has no flock\(\). Leave the directory out",
    ):
        SharedDirectory("/x")


def test_slots_are_bounded(
    take: Callable[..., ClaimedSlot], monkeypatch: pytest.MonkeyPatch
) -> None:
    """So is what a reader reads."""
    assert 1000 == MAX_SLOTS
    monkeypatch.setattr("aiometrics.pages.multiprocess.directory.MAX_SLOTS", 2)
    take()
    take()
    with pytest.raises(
        DirectoryError,
        match=r"all 2 slots of '.*' are taken: give each service a directory of its own",
    ):
        take()


def test_a_file_that_finds_no_room_is_not_left_behind(
    shelf: SharedDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error is the system's, and there is no half page; the writer would be killed at the first word without a room."""

    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(OSError, match="No space left on device"):
        shelf.claim(TERMS)
    assert [] == files(shelf)


def test_a_disk_is_warned_about_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Memory is not, nor what cannot be told."""
    kinds = iter(["tmpfs", None, "ext4", "ext4"])
    monkeypatch.setattr(
        "aiometrics.pages.multiprocess.private_directory.filesystem_of", lambda _: next(kinds)
    )
    shelf = SharedDirectory(str(tmp_path))
    with caplog.at_level(logging.WARNING, "aiometrics"):
        shelf.prepare()
        shelf.prepare()
        assert [] == caplog.records
        shelf.prepare()
        shelf.prepare()
    (line,) = [record.getMessage() for record in caplog.records]
    assert (
        f"the directory '{tmp_path}' is on ext4: a loop may stall while its page is written to the disk. Use one in memory"
        in line
    )


def test_the_file_system_of_a_directory_is_known(tmp_path: Path) -> None:
    """From the table of mounts, by the number of the device."""
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


def test_a_page_whose_writer_never_rests_is_read_all_the_same(
    shelf: SharedDirectory, take: Callable[..., ClaimedSlot]
) -> None:
    """It died, or was stopped, in the middle of an update: what is there is shown."""
    held = take()
    count(held.page, "shop.handle", 5)
    held.page.words[LAYOUT.loop + LOOP["started"]] += 1
    assert {"shop.handle": (5, 0)} == created(only(shelf))
    held.release()
    assert {"shop.handle": (5, 0)} == created(only(shelf))


def test_a_reader_pauses_after_every_few_records(
    shelf: SharedDirectory, take: Callable[..., ClaimedSlot]
) -> None:
    """When it decodes and when it adds up, if it is told how; else never."""
    pauses: list[None] = []
    for _ in range(2):
        page = take().page
        for number in range(3):
            count(page, f"shop.handle{number}", 1)
            page.words[LAYOUT.segments(page.add_yield_point(2, f"shop.py:{number} f", "g")) + 1] = 1
            page.words[
                LAYOUT.request(page.add_request(f"GET /{number}")) + REQUEST["background_ns"]
            ] = 1
    pages = list(shelf.read((), TERMS, 0, 0, lambda: pauses.append(None)).pages.values())
    # Of each page 5 coroutines, 4 yield points, and 3 requests, of which one is (other), in pieces of 4.
    assert 2 * 2 == len(pauses)
    seen = merged(pages, taken_ns=0, sample_ratio=1, pause=lambda: pauses.append(None))
    # 6 coroutines, 6 yield points and 4 requests.
    assert 2 * 2 + 3 == len(pauses)
    assert merged(pages, taken_ns=0, sample_ratio=1) == seen


def test_words_are_where_the_file_has_them(
    shelf: SharedDirectory, take: Callable[..., ClaimedSlot]
) -> None:
    """What is written to the page is in the file at once, word by word."""
    take().page.words[HEADER["weight"]] = 7
    data = (Path(shelf.path) / "0.page").read_bytes()
    assert (LAYOUT.size, 7) == (
        len(data),
        int.from_bytes(data[HEADER["weight"] * WORD :][:WORD], "little"),
    )
