"""The shared directory of a service.

It has a numbered file for the page of each loop of each process.
"""

from __future__ import annotations

import errno
import logging
import os
import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from aiometrics.base.unpatched import getpid, sleep
from aiometrics.base.yielding import Pause, no_pause
from aiometrics.pages.header import (
    PageError,
    PageFormat,
    PageVersionError,
    parse_header,
    version_of,
)
from aiometrics.pages.merge import labelled, merged
from aiometrics.pages.multiprocess import page_copy, slot_file
from aiometrics.pages.multiprocess.page_copy import Copy
from aiometrics.pages.multiprocess.private_directory import DirectoryError, PrivateDirectory
from aiometrics.pages.multiprocess.private_file import REASONS, Reason, UnusableFileError
from aiometrics.pages.multiprocess.slot_file import SlotFile
from aiometrics.pages.page import Page
from aiometrics.pages.reader import PageView, check_range, read
from aiometrics.pages.records import Records
from aiometrics.pages.snapshot import Snapshot

logger = logging.getLogger("aiometrics")

#: More loops than one machine runs. This limits the work of a reader.
MAX_SLOTS = 1000
_NAME = re.compile(r"(0|[1-9][0-9]{0,2})\.page")
#: Longer than a reader holds the lock of a slot to find out whether it is free.
_READER_SECONDS = 0.002


@dataclass(slots=True, eq=False)
class ClaimedSlot:
    """A slot that this process has claimed, and its page."""

    number: int
    page: Page
    _locked: SlotFile

    def release(self) -> None:
        """Release the slot. Its page must not be written any more."""
        self._locked.release()

    def is_intact(self, page_format: PageFormat) -> bool:
        """Whether the file still begins as a page of that format, and has its size."""
        return _compatibility(*self._locked.head()) == page_format

    @property
    def deleted(self) -> bool:
        """Whether the file has been deleted, so that no other process reads it any more."""
        return self._locked.deleted


class DirectoryView(NamedTuple):
    """The content of slots: pages by number, and the number of files left out, by reason."""

    pages: Mapping[int, PageView]
    skipped: Mapping[str, int]
    #: The format of these pages, whose loops are named by slot number; ``None`` if there are no
    #: pages.
    page_format: PageFormat | None

    def snapshot(self, taken_ns: int, errors: Mapping[str, int]) -> Snapshot:
        """Return the sums of all pages, with the internal errors of who reads them."""
        return merged(
            [self.pages[number] for number in sorted(self.pages)],
            taken_ns=taken_ns,
            errors=errors,
            sample_ratio=1 / self.page_format.weight if self.page_format else 1.0,
            skipped_pages=self.skipped,
        )


class SharedDirectory:
    """The directory at ``path``. Each warning is logged once.

    Raises ``DirectoryError`` where directories cannot be shared.
    """

    def __init__(self, path: str) -> None:
        self._directory = PrivateDirectory(path)
        self.path = path
        self._warnings: set[str] = set()

    def prepare(self) -> bool:
        """Create the directory if necessary, and warn if it is not in memory.

        Returns whether this call created it. Raises ``DirectoryError`` if it cannot be created,
        belongs to another user, or others can write to it.
        """
        return self._directory.prepare()

    @property
    def exists(self) -> bool:
        """Whether there is a directory of that name."""
        return Path(self.path).is_dir()

    def check(self) -> None:
        """Raise ``DirectoryError`` if the directory exists and cannot be used."""
        try:
            with self._directory.opened():
                pass
        except DirectoryError as error:
            if error.errno != errno.ENOENT:
                raise

    def claim(self, page_format: PageFormat) -> ClaimedSlot:
        """Claim a slot for a loop.

        A page that a dead process left is continued; if there is none, an unusable file is emptied,
        or a new one is created.

        Raises ``OSError`` if no slot can be claimed.
        """
        with self._directory.opened() as directory:
            slot = self._claim_left(directory, page_format)
            if slot is None:
                sleep(_READER_SECONDS)
                slot = self._claim_left(directory, page_format) or self._claim_new(
                    directory, page_format
                )
            return slot

    def warn_of_damage(self, slot: ClaimedSlot) -> None:
        """Warn that the file of a slot that this process has claimed was overwritten or cut off."""
        name = _name(slot.number)
        self._warn_once(
            f"{name} damaged",
            f"aiometrics: {Path(self.path) / name} was overwritten or cut off while a loop of "
            f"process {getpid()} writes to it: its counters begin at 0 again",
        )

    def warn_if_deleted(self, slot: ClaimedSlot) -> None:
        """Warn if the file of a slot that this process has claimed was deleted."""
        if slot.deleted:
            name = _name(slot.number)
            self._warn_once(
                f"{name} deleted",
                f"aiometrics: {Path(self.path) / name} was deleted while a loop of process "
                f"{getpid()} writes to it: other processes do not show that loop until this "
                "process is restarted",
            )

    def read(
        self,
        own: Collection[int],
        page_format: PageFormat | None,
        now_ns: int,
        unix_ns: int,
        *,
        pause: Pause = no_pause,
        records: Records | None = None,
    ) -> DirectoryView:
        """Read all slots except our ``own``.

        Pages of another format are skipped; without ``page_format``, the newest page sets it.
        ``records`` are those of :func:`~aiometrics.pages.reader.read`.

        Never raises: files that cannot be read are skipped, counted, and logged once. A missing
        directory counts as empty.
        """
        skipped: Counter[str] = Counter(dict.fromkeys(REASONS, 0))
        copied: dict[int, Copy] = {}
        pages: dict[int, PageView] = {}
        with self._skipping(skipped, ""), self._directory.opened() as directory:
            numbers = [number for number in self._numbers(directory) if number not in own]
            page_format = _newest(directory, numbers) if page_format is None else page_format
            for number in numbers:
                with self._skipping(skipped, _name(number)):
                    found = page_copy.copy(directory, _name(number), page_format, now_ns)
                    pause()
                    if found is not None:
                        copied[number] = found
        for number, (data, alive) in copied.items():
            with self._skipping(skipped, _name(number)):
                view = read(data, now_ns, unix_ns, alive=alive, pause=pause, records=records)
                pages[number] = labelled(view, str(number))
        return DirectoryView(pages, skipped, page_format)

    @contextmanager
    def _skipping(self, skipped: Counter[str], name: str) -> Iterator[None]:
        try:
            yield
        except (UnusableFileError, PageError, OSError) as error:
            if isinstance(error, DirectoryError) and error.errno == errno.ENOENT:
                return
            reason = _reason(error)
            skipped[reason] += 1
            self._warn_once(
                f"{name} {reason}",
                f"aiometrics: {Path(self.path) / name} is left out ({reason}): {error}",
            )

    @staticmethod
    def _numbers(directory: int) -> list[int]:
        found = map(_NAME.fullmatch, os.listdir(directory))
        return sorted(int(match[1]) for match in found if match)

    def _claim_left(self, directory: int, page_format: PageFormat) -> ClaimedSlot | None:
        """Claim a slot that no process holds.

        A page that can be continued comes first, then one that no running process can use.
        """
        left: dict[int, object] = {}
        used: set[object] = set()
        for number in self._numbers(directory):
            with suppress(UnusableFileError, OSError):
                locked = slot_file.lock(directory, _name(number))
                if locked is None:
                    used.add(_compatibility(*slot_file.head(directory, _name(number))))
                    continue
                with locked.released_on_error():
                    found = _compatibility(*locked.head())
                    if found == page_format and _is_sound(locked.content(page_format.layout.size)):
                        return self._claimed(number, locked, page_format)
                locked.release()
                left[number] = None if found == page_format else found
        return self._claim_empty(
            directory,
            (number for number, found in left.items() if found is None or found not in used),
            page_format,
        )

    def _claim_new(self, directory: int, page_format: PageFormat) -> ClaimedSlot:
        known = set(self._numbers(directory))
        slot = self._claim_empty(
            directory, (number for number in range(MAX_SLOTS) if number not in known), page_format
        )
        if slot is None:
            raise DirectoryError(
                f"all {MAX_SLOTS} slots of {self.path!r} are taken: "
                "give each service a directory of its own"
            )
        return slot

    def _claim_empty(
        self, directory: int, numbers: Iterable[int], page_format: PageFormat
    ) -> ClaimedSlot | None:
        """Claim the first of these slots that is free, and empty it."""
        for number in numbers:
            locked = slot_file.lock(directory, _name(number))
            if locked is None:
                continue
            with locked.released_on_error():
                try:
                    locked.clear(page_format.layout.size)
                    return self._claimed(number, locked, page_format)
                except BaseException:
                    locked.remove()
                    raise
        return None

    @staticmethod
    def _claimed(number: int, locked: SlotFile, page_format: PageFormat) -> ClaimedSlot:
        return ClaimedSlot(
            number,
            Page(
                page_format.layout,
                blocking_threshold_ns=page_format.blocking_threshold_ns,
                weight=page_format.weight,
                memory=locked.memory(page_format.layout.size),
            ),
            locked,
        )

    def _warn_once(self, subject: str, message: str) -> None:
        if subject not in self._warnings:
            self._warnings.add(subject)
            logger.warning("%s", message)


def _name(number: int) -> str:
    return f"{number}.page"


def _compatibility(start: bytes, size: int) -> object:
    """Return a value that is equal for all pages that the same processes can read.

    It is the format, or the version if that is another; ``None`` if no process can read the page.
    """
    try:
        return parse_header(start, size)
    except PageVersionError:
        return version_of(start)
    except PageError:
        return None


def _is_sound(content: bytes) -> bool:
    """Whether a page can be continued."""
    try:
        read(content, 0, 0)
        check_range(content)
    except PageError:
        return False
    return True


def _newest(directory: int, numbers: Iterable[int]) -> PageFormat | None:
    """Return the format of the page that was opened last; live pages come before dead ones."""
    heads: list[page_copy.Head] = []
    for number in numbers:
        with suppress(UnusableFileError, PageError, OSError):
            found = page_copy.head(directory, _name(number))
            if found is not None:
                heads.append(found)
    newest = max(heads, key=lambda head: (head.alive, head.opened_unix_ns), default=None)
    return None if newest is None else newest.page_format


def _reason(error: Exception) -> Reason:
    if isinstance(error, UnusableFileError):
        return error.reason
    if isinstance(error, PageVersionError):
        return "version"
    return "damaged" if isinstance(error, PageError) else "unreadable"
