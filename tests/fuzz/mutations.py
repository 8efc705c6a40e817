"""Breaks pages in many ways, from noise to a wrong number in a single field."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from random import Random

from aiometrics.pages.layout import (
    CHAIN_NODE,
    COROUTINE,
    ENTRY,
    ENTRY_BYTES,
    ENTRY_WORDS,
    HEADER,
    HELD,
    LOOP,
    LOOP_STATS,
    OWN_CHAIN_NODES,
    OWN_COROUTINES,
    REQUEST,
    REQUEST_WAIT,
    SEGMENT_PATH,
    WORD,
    YIELD_POINT,
    Layout,
)

_LOWEST, _HIGHEST = -(1 << 63), (1 << 63) - 1
_NUMBERS = (
    0,
    1,
    2,
    63,
    64,
    65,
    255,
    256,
    257,
    1023,
    1024,
    1025,
    (1 << 31) - 1,
    1 << 31,
    (1 << 32) - 1,
    1 << 32,
    1_000_000,
    1_000_001,
)
#: Numbers and values for the texts of entries.
_DIGITS = (b"0", b"1", b"2", b"250000000", b"9" * 19, b"9" * 20)
_TEXTS = (b"-", b"-", b"-", b"REQ-001", b"(other)", b"", b'"\n# {\\', b"\xff\xe2\x80\xa8")
#: Capacities for records, in the order of the arguments of Layout.
_CAPACITIES = ("max_coroutines", "max_yield_points", "max_requests")
_REFERENCES = {"name", "yield_point", "awaits", "place"}


class Mutator:
    """Makes new pages from old ones. The same ``random`` leads to the same pages."""

    def __init__(self, random: Random) -> None:
        self._random = random
        self._ways = (
            self._noise,
            self._flip,
            self._cut,
            self._stuff,
            self._splice,
            self._resize,
            *[self._field] * 16,
            *[self._reference] * 4,
            *[self._entry] * 4,
        )

    def __call__(self, page: bytes, other: bytes) -> bytes:
        """Return ``page`` after one or a few changes, some of them with parts of ``other``."""
        data = bytearray(page)
        for _ in range(self._random.choice((1, 1, 1, 2, 3, 8))):
            data = self._random.choice(self._ways)(data, other)
        return bytes(data)

    def _noise(self, _: bytearray, __: bytes) -> bytearray:
        return bytearray(self._random.randbytes(self._random.choice((0, 7, 8, 160, 1000, 4096))))

    def _flip(self, data: bytearray, _other: bytes) -> bytearray:
        for _ in range(self._random.randint(1, 8)):
            if data:
                data[self._random.randrange(len(data))] ^= 1 << self._random.randrange(8)
        return data

    def _cut(self, data: bytearray, _: bytes) -> bytearray:
        """Remove bytes or add some; what is left may end within a word."""
        size = self._random.choice(
            (0, len(data) // 2, len(data) - 1, len(data) - WORD, self._random.randint(0, len(data)))
        )
        return data + bytes(WORD) if self._random.random() < 0.2 else data[: max(0, size)]

    def _stuff(self, data: bytearray, _: bytes) -> bytearray:
        """Overwrite a part with noise."""
        start = self._random.randint(0, len(data))
        noise = self._random.randbytes(min(self._random.randint(1, 64), len(data) - start))
        data[start : start + len(noise)] = noise
        return data

    def _splice(self, data: bytearray, other: bytes) -> bytearray:
        start, size = (
            self._random.randint(0, min(len(data), len(other))),
            self._random.randint(1, 4096),
        )
        data[start : start + size] = other[start : start + size]
        return data

    def _resize(self, data: bytearray, _: bytes) -> bytearray:
        """Set other buckets and capacities, with the size that belongs to them."""
        bounds = [
            sorted(self._random.sample(range(1, 10_000), self._random.choice((1, 1, 2, 3, 64))))
            for _ in range(2)
        ]
        capacities = {name: self._random.randint(1, 6) for name in _CAPACITIES}
        native = self._random.random() < 0.5
        layout = Layout(tuple(bounds[0]), tuple(bounds[1]), *capacities.values(), native=native)
        data = data[: layout.size] + bytes(max(0, layout.size - len(data)))
        sizes = {
            "size": layout.size,
            "string_bytes": layout.string_bytes,
            "segment_bounds": len(bounds[0]),
            "wait_bounds": len(bounds[1]),
            "native": native,
        }
        for name, number in (sizes | capacities).items():
            _store(data, HEADER[name], number)
        for place, bound in enumerate((*bounds[0], *bounds[1]), layout.bounds):
            _store(data, place, bound)
        return data

    def _field(self, data: bytearray, _: bytes) -> bytearray:
        """Change the number in one field."""
        place = self._random.choice(list(_fields(_layout_of(data))))
        before = _load(data, place)
        _store(
            data,
            place,
            self._random.choice((before + 1, before - 1, -before, self._number(), self._number())),
        )
        return data

    def _reference(self, data: bytearray, _: bytes) -> bytearray:
        """Let a reference point elsewhere, even before the strings, or to one of another length."""
        layout = _layout_of(data)
        used = _load(data, HEADER["strings_used"])
        start, length = (
            self._random.choice((0, 1, 128, used, used - 1, used + 1, self._number()))
            for _ in range(2)
        )
        reference = ((start << 32 | length & 0xFFFF_FFFF) - _LOWEST) % (1 << 64) + _LOWEST
        places = [
            start + fields[name]
            for start, fields in _records(layout)
            for name in _REFERENCES & fields.keys()
        ]
        _store(data, self._random.choice((HEADER["loop_name"], *sorted(places))), reference)
        return data

    def _entry(self, data: bytearray, _: bytes) -> bytearray:
        """Write another text to one of the first entries of a table.

        It is the text of an exemplar, or similar to one.
        """
        layout = _layout_of(data)
        entry = (
            self._random.choice((layout.samples, layout.errors, layout.exemplars))
            + self._random.randrange(4) * ENTRY_WORDS
        )
        numbers = self._random.choices(_DIGITS, k=4)
        texts = self._random.choices(_TEXTS, k=self._random.choice((1, 3, 3, 3, 4, 100)))
        text = b" ".join(numbers + texts)[self._random.choice((0, 0, 0, 1)) : ENTRY_BYTES]
        _store(data, entry + ENTRY["count"], 1)
        _store(data, entry + ENTRY["length"], len(text))
        place = (entry + len(ENTRY)) * WORD
        data[place : place + len(text)] = text
        return data

    def _number(self) -> int:
        number = self._random.choice(
            (*_NUMBERS, _LOWEST, _HIGHEST, self._random.randint(_LOWEST, _HIGHEST))
        )
        return number if self._random.random() < 0.7 else -number


def _layout_of(data: bytearray) -> Layout:
    """Return the probable layout of a page that may be broken."""
    counts = {
        name: _load(data, HEADER[name]) for name in ("segment_bounds", "wait_bounds", *_CAPACITIES)
    }
    segment, wait, *capacities = (count if 1 <= count <= 64 else 1 for count in counts.values())
    native = _load(data, HEADER["native"]) == 1
    return Layout(
        tuple(range(1, segment + 1)), tuple(range(1, wait + 1)), *capacities, native=native
    )


def _records(layout: Layout) -> Iterator[tuple[int, dict[str, int]]]:
    """Yield start and fields of the first few records of each kind."""
    yield from ((layout.coroutine(number), COROUTINE) for number in range(OWN_COROUTINES + 2))
    for number in range(3):
        yield layout.yield_point(number), YIELD_POINT
        yield layout.request(number), REQUEST
        yield layout.request_wait(number), REQUEST_WAIT
        yield layout.chain_node(number + OWN_CHAIN_NODES), CHAIN_NODE
        yield layout.segment_path(number), SEGMENT_PATH
        yield layout.held_entry(number), HELD


def _fields(layout: Layout) -> Iterator[int]:
    """Yield the words that have a meaning of their own, and some of histograms."""
    yield from HEADER.values()
    yield from range(layout.bounds, layout.loop)
    yield from (layout.loop + field for field in LOOP.values())
    yield from (layout.loop_stats + field for field in LOOP_STATS.values())
    for table in (layout.samples, layout.errors, layout.exemplars):
        yield from (
            table + entry * ENTRY_WORDS + field for entry in range(3) for field in ENTRY.values()
        )
    for start, fields in _records(layout):
        yield from range(start, start + len(fields) + 3)


def _load(data: bytearray, place: int) -> int:
    return (
        int(struct.unpack_from("q", data, place * WORD)[0])
        if (place + 1) * WORD <= len(data)
        else 0
    )


def _store(data: bytearray, place: int, number: int) -> None:
    """Store a number, if the page still has that word: it may have been cut."""
    if (place + 1) * WORD <= len(data):
        struct.pack_into("q", data, place * WORD, max(_LOWEST, min(_HIGHEST, number)))
