"""The messages of pprof's ``profile.proto``, for the ``protobuf`` package."""

from __future__ import annotations

import gzip
from dataclasses import dataclass
from typing import Any

from support.protobuf_messages import message_class

_MESSAGES = {
    "ValueType": {"type": (1, "int64"), "unit": (2, "int64")},
    "Label": {"key": (1, "int64"), "str": (2, "int64"), "num": (3, "int64")},
    "Sample": {"location_id": (1, "*uint64"), "value": (2, "*int64"), "label": (3, "*Label")},
    "Line": {"function_id": (1, "uint64"), "line": (2, "int64")},
    "Location": {"id": (1, "uint64"), "line": (4, "*Line")},
    "Function": {"id": (1, "uint64"), "name": (2, "int64"), "filename": (4, "int64")},
    "Profile": {
        "sample_type": (1, "*ValueType"),
        "sample": (2, "*Sample"),
        "location": (4, "*Location"),
        "function": (5, "*Function"),
        "string_table": (6, "*string"),
        "time_nanos": (9, "int64"),
        "duration_nanos": (10, "int64"),
        "period_type": (11, "ValueType"),
        "period": (12, "int64"),
        "default_sample_type": (14, "int64"),
    },
}
_Profile = message_class("perftools.profiles", _MESSAGES, "Profile")


@dataclass(frozen=True)
class Stack:
    """A sample: functions with their files and lines, outermost first, its labels and values."""

    frames: tuple[tuple[str, str, int], ...]
    labels: dict[str, str]
    values: tuple[int, ...]


@dataclass(frozen=True)
class Parsed:
    """A profile whose numbers were looked up; ``message`` is the rest."""

    types: tuple[tuple[str, str], ...]
    stacks: tuple[Stack, ...]
    message: Any

    def total(self, kind: str) -> int:
        """Return the sum of the values of one type."""
        place = [name for name, _ in self.types].index(kind)
        return sum(stack.values[place] for stack in self.stacks)


def parse(data: bytes) -> Parsed:
    """Return a profile. Unknown fields and unused or missing numbers are errors."""
    message = _Profile.FromString(gzip.decompress(data))
    known = _Profile.FromString(gzip.decompress(data))
    known.DiscardUnknownFields()
    assert message == known
    text = message.string_table
    assert "" == text[0]
    assert len(text) == len(set(text))
    functions = {function.id: function for function in message.function}
    locations = {location.id: location for location in message.location}
    assert len(functions) == len(message.function)
    assert len(locations) == len(message.location)
    assert set(locations) == {number for one in message.sample for number in one.location_id}

    def frame(number: int) -> tuple[str, str, int]:
        (line,) = locations[number].line
        function = functions[line.function_id]
        return text[function.name], text[function.filename], line.line

    stacks = tuple(
        Stack(
            tuple(frame(number) for number in reversed(one.location_id)),
            {text[label.key]: text[label.str] for label in one.label},
            tuple(one.value),
        )
        for one in message.sample
    )
    types = tuple((text[kind.type], text[kind.unit]) for kind in message.sample_type)
    return Parsed(types, stacks, message)
