"""Counts by name in a page: a table of fixed size, whose last entry is (other)."""

from __future__ import annotations

from collections.abc import Iterator

from aiometrics.pages.layout import ENTRY, ENTRY_BYTES, ENTRY_WORDS, WORD
from aiometrics.pages.page import Page, encoded
from aiometrics.pages.snapshot import OTHER

_COUNT, _LENGTH = ENTRY["count"], ENTRY["length"]


class CounterTable:
    """The table of ``capacity`` entries that starts at word ``start``.

    Counts that the table already has are continued. Only one thread at a time may add.

    A name is cut at 256 bytes. Names for which there is no room are counted as ``(other)``.
    """

    def __init__(self, page: Page, start: int, capacity: int) -> None:
        self._page = page
        self._starts = range(start, start + capacity * ENTRY_WORDS, ENTRY_WORDS)
        self._entries = {name: entry for entry, name in self._written()}

    def add(self, name: str, count: int = 1) -> None:
        """Add ``count`` to the count of ``name``."""
        data = encoded(name, ENTRY_BYTES)
        entry = self._entries.get(data)
        if entry is None:
            entry = self._new(data)
        self._page.words[entry + _COUNT] += count

    def counts(self) -> dict[str, int]:
        """Return the count of each name."""
        return {
            data.decode("utf-8", "replace"): self._page.words[entry + _COUNT]
            for data, entry in self._entries.items()
        }

    def _written(self) -> Iterator[tuple[int, bytes]]:
        for entry in self._starts:
            text, length = (entry + len(ENTRY)) * WORD, self._page.words[entry + _LENGTH]
            if length:
                yield entry, bytes(self._page.memory[text : text + length])

    def _new(self, data: bytes) -> int:
        other = OTHER.encode()
        used = len(self._entries) - (other in self._entries)
        if used >= len(self._starts) - 1:
            data = other
        if data == other and other in self._entries:
            return self._entries[other]
        entry = self._entries[data] = self._starts[-1 if data == other else used]
        text = (entry + len(ENTRY)) * WORD
        self._page.memory[text : text + len(data)] = data
        # Written last, because readers ignore an entry without a length.
        self._page.words[entry + _LENGTH] = len(data)
        return entry
