"""Counts by name in a page: a table of fixed size, whose last note is (other)."""

from __future__ import annotations

from collections.abc import Iterator

from aiometrics.pages.layout import NOTE, NOTE_BYTES, NOTE_WORDS, WORD
from aiometrics.pages.page import Page
from aiometrics.pages.snapshot import OTHER

_COUNT, _LENGTH = NOTE["count"], NOTE["length"]


class CounterTable:
    """The table of ``capacity`` notes that starts at word ``start``; what it counted before goes on. One thread at a time may add.

    A name is cut at 256 bytes. One that finds no room counts as ``(other)``.
    """

    def __init__(self, page: Page, start: int, capacity: int) -> None:
        self._page = page
        self._places = range(start, start + capacity * NOTE_WORDS, NOTE_WORDS)
        self._notes = {name: note for note, name in self._written()}

    def add(self, name: str, count: int = 1) -> None:
        """Count ``name``, ``count`` times."""
        data = name.encode("utf-8", "backslashreplace")[:NOTE_BYTES]
        note = self._notes.get(data)
        if note is None:
            note = self._new(data)
        self._page.words[note + _COUNT] += count

    def counts(self) -> dict[str, int]:
        """Each name with its count."""
        return {
            data.decode("utf-8", "replace"): self._page.words[note + _COUNT]
            for data, note in self._notes.items()
        }

    def _written(self) -> Iterator[tuple[int, bytes]]:
        for note in self._places:
            text, length = (note + len(NOTE)) * WORD, self._page.words[note + _LENGTH]
            if length:
                yield note, bytes(self._page.memory[text : text + length])

    def _new(self, data: bytes) -> int:
        other = OTHER.encode()
        used = len(self._notes) - (other in self._notes)
        if used >= len(self._places) - 1:
            data = other
        if data == other and other in self._notes:
            return self._notes[other]
        note = self._notes[data] = self._places[-1 if data == other else used]
        text = (note + len(NOTE)) * WORD
        self._page.memory[text : text + len(data)] = data
        # Last, because a note without a length is none.
        self._page.words[note + _LENGTH] = len(data)
        return note
