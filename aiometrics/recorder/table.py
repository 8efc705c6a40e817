"""A cache from what the recorder meets to small numbers: the twin of ``csrc/table.c``."""

from __future__ import annotations

from typing import Any

#: Keys of dead code would pile up, so a table that has this many entries starts anew.
LIMIT = 16_384


class Table:
    """Numbers by a key, which is a ``word`` and some ``objects``: code, types.

    Objects are compared by identity. Code of two modules is equal if only its file differs, and a
    type can be equal to anything if its metaclass says so. The table keeps the objects alive, so
    that an identity cannot come to mean another object.
    """

    def __init__(self) -> None:
        self._entries: dict[tuple[Any, ...], tuple[int, tuple[Any, ...]]] = {}

    def get(self, *objects: Any, word: Any = 0) -> int | None:
        """Return the number of a key, or ``None``."""
        found = self._entries.get((word, *map(id, objects)))
        return None if found is None else found[0]

    def put(self, number: int, *objects: Any, word: Any = 0) -> None:
        """Remember the number of a key."""
        if len(self._entries) >= LIMIT:
            self._entries.clear()
        self._entries[word, *map(id, objects)] = number, objects
