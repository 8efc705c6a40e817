"""Exemplars in a page: the latest slow samples that lead to a request or a trace.

Each is an entry in a table of fixed size.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Iterator

from aiometrics.pages.layout import ENTRY, ENTRY_BYTES, ENTRY_WORDS, MAX_EXEMPLARS, WORD
from aiometrics.pages.page import Page
from aiometrics.pages.snapshot import Exemplar

#: Kinds of exemplars: of a yield point, and of the wall times of a request type, where the code of
#: the status is added to WALL.
SEGMENT, WALL = 0, 1
_LENGTH = ENTRY["length"]
_NAMES = ("trace_id", "span_id", "request_id")
_NONE = "-"
#: A number that fits into a word.
_NUMBER = re.compile("[0-9]{1,19}")

#: Kind (SEGMENT, or WALL plus a status), and the number of the record.
Key = tuple[int, int]


class ExemplarTable:
    """The latest exemplar of each record; when the table is full, the oldest one makes room.

    Only the loop's thread may use it.
    """

    def __init__(self, page: Page) -> None:
        self._page = page
        start = page.layout.exemplars
        self._free = list(range(start, start + MAX_EXEMPLARS * ENTRY_WORDS, ENTRY_WORDS))
        #: The word at which each entry starts, the oldest entry first.
        self._entries: OrderedDict[Key, int] = OrderedDict()
        for key, entry in sorted(
            self._written(), key=lambda found: self._text(found[1]).split(" ")[3]
        ):
            self._entries[key] = entry
            self._free.remove(entry)

    def put(self, kind: int, number: int, exemplar: Exemplar) -> None:
        """Store the exemplar of a record.

        It is ignored if it is too long for an entry, which never happens with ASCII ids, or if all
        its values are ``-``.
        """
        data = _encoded(kind, number, exemplar).encode("utf-8", "backslashreplace")
        if len(data) > ENTRY_BYTES or all(value == _NONE for _, value in exemplar.labels):
            return
        self._page.update(self._write, self._entry_for((kind, number)), data)

    def _write(self, entry: int, data: bytes) -> None:
        """Write an entry, without a call in between after which a signal's handler could raise."""
        text, length = (entry + len(ENTRY)) * WORD, len(data)
        self._page.memory[text : text + length] = data
        self._page.words[entry + _LENGTH] = length

    def _entry_for(self, key: Key) -> int:
        entry = self._entries.pop(key, None)
        if entry is None:
            entry = self._free.pop(0) if self._free else self._entries.popitem(last=False)[1]
        self._entries[key] = entry
        return entry

    def _written(self) -> Iterator[tuple[Key, int]]:
        for entry in self._free:
            if self._page.words[entry + _LENGTH]:
                yield decoded(self._text(entry))[0], entry

    def _text(self, entry: int) -> str:
        text, length = (entry + len(ENTRY)) * WORD, self._page.words[entry + _LENGTH]
        return bytes(self._page.memory[text : text + length]).decode("utf-8", "replace")


def _encoded(kind: int, number: int, exemplar: Exemplar) -> str:
    labels = dict(exemplar.labels)
    return " ".join(
        (
            f"{kind} {number} {exemplar.value_ns} {exemplar.unix_ns:019}",
            *(labels.get(name, _NONE) for name in _NAMES),
        )
    )


def decoded(text: str) -> tuple[Key, Exemplar]:
    """Parse the text of an entry. Raises ``ValueError`` if it is not that of an exemplar."""
    parts = text.split(" ", 3 + len(_NAMES))
    numbers, values = parts[:4], parts[4:]
    if (
        len(values) != len(_NAMES)
        or not all(map(_NUMBER.fullmatch, numbers))
        or all(value == _NONE for value in values)
    ):
        raise ValueError(f"an entry of {len(text)} characters is not an exemplar")
    kind, number, value_ns, unix_ns = map(int, numbers)
    trace_id, span_id, request_id = zip(_NAMES, values, strict=True)
    labels = tuple(label for label in (request_id, trace_id, span_id) if label[1] != _NONE)
    return (kind, number), Exemplar(labels, value_ns, unix_ns)
