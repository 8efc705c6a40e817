"""Samples by coroutine and line in a page: a table of fixed size, whose last entry is (other)."""

from __future__ import annotations

from collections.abc import Iterator

from aiometrics.pages.layout import ENTRY_BYTES, HELD, MAX_HELD, WORD
from aiometrics.pages.page import Page, encoded
from aiometrics.pages.snapshot import OTHER

_COROUTINE, _LENGTH = HELD["coroutine"], HELD["length"]


class HeldTable:
    """The table of lines that held the loop. Samples that it already has are continued.

    A line is cut at 256 bytes. Lines for which there is no room are ``(other)``, of the coroutine
    ``(other)``.
    """

    def __init__(self, page: Page) -> None:
        self._page = page
        self._numbers = {key: number for number, key in self._written()}

    def number(self, coroutine: int, held_at: str) -> int:
        """Return the number of an entry, which is added if there is room."""
        data = encoded(held_at, ENTRY_BYTES)
        number = self._numbers.get((coroutine, data))
        return self._add(coroutine, data) if number is None else number

    def add(self, number: int, samples: int, active_ns: int) -> None:
        """Count samples, and the time that they stand for."""
        entry = self._page.layout.held_entry(number)
        with self._page.writing:
            self._page.words[entry + HELD["samples"]] += samples
            self._page.words[entry + HELD["active_ns"]] += active_ns

    def _written(self) -> Iterator[tuple[int, tuple[int, bytes]]]:
        words = self._page.words
        for number in range(MAX_HELD):
            entry = self._page.layout.held_entry(number)
            text, length = (entry + len(HELD)) * WORD, words[entry + _LENGTH]
            if length:
                key = words[entry + _COROUTINE], bytes(self._page.memory[text : text + length])
                yield number, key

    def _add(self, coroutine: int, data: bytes) -> int:
        other = (0, OTHER.encode())
        number = len(self._numbers) - (other in self._numbers)
        if number >= MAX_HELD - 1:
            number, (coroutine, data) = MAX_HELD - 1, other
        entry = self._page.layout.held_entry(number)
        text = (entry + len(HELD)) * WORD
        self._page.memory[text : text + len(data)] = data
        self._page.words[entry + _COROUTINE] = coroutine
        # Written last, because readers ignore an entry without a length.
        self._page.words[entry + _LENGTH] = len(data)
        self._numbers[coroutine, data] = number
        return number
