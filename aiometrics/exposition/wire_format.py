"""The wire format of protobuf: fields, each a tag and a value."""

from __future__ import annotations

from functools import lru_cache
from struct import pack

_VARINT, _FIXED64, _BYTES = 0, 1, 2


def varint(number: int) -> bytes:
    """Return an integer as a varint; a negative one in 64 bits."""
    if 0 <= number < 0x80:
        return _SMALL[number]
    number &= (1 << 64) - 1
    found = bytearray()
    while number > 0x7F:
        found.append(number & 0x7F | 0x80)
        number >>= 7
    found.append(number)
    return bytes(found)


_SMALL = tuple(bytes((number,)) for number in range(0x80))


def zigzag(number: int) -> bytes:
    """Return an integer of which small negative values are short, too."""
    return varint(number << 1 if number >= 0 else (-number << 1) - 1)


@lru_cache(maxsize=64)
def _tag(number: int, wire_type: int) -> bytes:
    return varint(number << 3 | wire_type)


def integer(number: int, value: int) -> bytes:
    """Return the field of an ``int64``, ``uint64`` or enumeration."""
    return _tag(number, _VARINT) + varint(value)


def signed(number: int, value: int) -> bytes:
    """Return the field of a ``sint32``."""
    return _tag(number, _VARINT) + zigzag(value)


def double(number: int, value: float) -> bytes:
    """Return the field of a ``double``."""
    return _tag(number, _FIXED64) + pack("<d", value)


def field(number: int, content: bytes) -> bytes:
    """Return the field of a message, of packed numbers or of bytes."""
    return _tag(number, _BYTES) + varint(len(content)) + content


def string(number: int, text: str) -> bytes:
    """Return the field of a ``string``."""
    return field(number, text.encode())
