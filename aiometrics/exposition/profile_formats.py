"""Writes profiles: as pprof's protobuf, for speedscope, and as collapsed stacks."""

from __future__ import annotations

import json
import re
import zlib
from collections.abc import Callable, Iterable
from typing import NamedTuple

from aiometrics.base.yielding import Pause
from aiometrics.exposition.profile import Profile, Sample
from aiometrics.exposition.wire_format import field, integer, string, varint
from aiometrics.pages.snapshot import encodable

#: The types of values and their units, in the order of ``Values`` of a sample.
TYPES = {"active": "nanoseconds", "wait": "nanoseconds", "count": "count"}
#: Samples that are written between two pauses: about 0.1 ms of work.
_SLICE = 16
_PLACE = re.compile(r"(?P<file>[^:]+):(?P<line>\d+) (?P<name>.+)", re.DOTALL)
#: 31 is the window size of zlib with a gzip header.
_GZIP_WBITS, _GZIP_LEVEL = 31, 1
_SCHEMA = "https://www.speedscope.app/file-format-schema.json"

Write = Callable[[Profile, Pause], bytes]


class Frame(NamedTuple):
    """A function, and its line if it is known, else 0; the file is empty then."""

    name: str
    file: str = ""
    line: int = 0


def frame_of(text: str) -> Frame:
    """Return the frame that a place such as ``shop/db.py:42 fetch`` stands for.

    Functions of the same name in different files must not be one, so the name begins with the file:
    ``shop/db.fetch``.
    """
    text = encodable(text)
    match = _PLACE.fullmatch(text)
    if match is None:
        return Frame(text)
    file = match["file"]
    return Frame(f"{file.removesuffix('.py')}.{match['name']}", file, int(match["line"]))


def pprof(profile: Profile, pause: Pause) -> bytes:
    """Return a gzip-compressed ``perftools.profiles.Profile``, as ``go tool pprof`` reads it.

    Its sample types are ``active`` and ``wait`` in nanoseconds, and ``count``, the number of waits.
    Samples have the label ``coroutine`` or ``route``.
    """
    writer = _PprofWriter()
    content = writer.profile(profile, pause)
    return zlib.compress(content, _GZIP_LEVEL, wbits=_GZIP_WBITS)


class _PprofWriter:
    """Numbers strings, functions and locations as it meets them, from 1 on."""

    def __init__(self) -> None:
        self._strings = {"": 0}
        self._functions: dict[tuple[str, str], int] = {}
        self._locations: dict[Frame, int] = {}

    def profile(self, profile: Profile, pause: Pause) -> bytes:
        types = [field(1, self._value_type(name)) for name in TYPES]
        samples = []
        for number, sample in enumerate(profile.samples, 1):
            samples.append(field(2, self._sample(sample)))
            if number % _SLICE == 0:
                pause()
        tail = (
            integer(9, profile.taken_ns),
            integer(10, profile.duration_ns),
            field(11, self._value_type("active")),
            integer(12, 1),
            integer(14, self._string("active")),
        )
        locations = (
            field(4, self._location(frame, number)) for frame, number in self._locations.items()
        )
        functions = (
            field(
                5,
                integer(1, number)
                + integer(2, self._string(name))
                + integer(4, self._string(file)),
            )
            for (name, file), number in self._functions.items()
        )
        parts = [*types, *samples, *locations, *functions, *tail]
        return b"".join([*parts, *(string(6, text) for text in self._strings)])

    def _value_type(self, name: str) -> bytes:
        return integer(1, self._string(name)) + integer(2, self._string(TYPES[name]))

    def _sample(self, sample: Sample) -> bytes:
        """Return a sample, whose locations begin with the innermost one."""
        ids = b"".join(varint(self._number(frame_of(text))) for text in reversed(sample.stack))
        labels = {"coroutine": sample.coroutine, "route": sample.route}
        return b"".join(
            (
                field(1, ids),
                field(2, b"".join(map(varint, sample.values))),
                *(
                    field(
                        3, integer(1, self._string(key)) + integer(2, self._string(encodable(text)))
                    )
                    for key, text in labels.items()
                    if text
                ),
            )
        )

    def _number(self, frame: Frame) -> int:
        self._function(frame)
        return self._locations.setdefault(frame, len(self._locations) + 1)

    def _function(self, frame: Frame) -> int:
        return self._functions.setdefault((frame.name, frame.file), len(self._functions) + 1)

    def _location(self, frame: Frame, number: int) -> bytes:
        line = integer(1, self._function(frame)) + (integer(2, frame.line) if frame.line else b"")
        return integer(1, number) + field(4, line)

    def _string(self, text: str) -> int:
        return self._strings.setdefault(text, len(self._strings))


def speedscope(profile: Profile, pause: Pause) -> bytes:
    """Return the JSON of speedscope's file format, with a profile for each type of values."""
    frames: dict[Frame, int] = {}
    stacks = []
    for number, sample in enumerate(profile.samples, 1):
        stacks.append([frames.setdefault(frame_of(text), len(frames)) for text in sample.stack])
        if number % _SLICE == 0:
            pause()
    profiles = [
        _speedscope_profile(name, stacks, [sample.values[place] for sample in profile.samples])
        for place, name in enumerate(TYPES)
    ]
    shown = {
        "$schema": _SCHEMA,
        "exporter": "aiometrics",
        "shared": {"frames": [_speedscope_frame(frame) for frame in frames]},
        "profiles": profiles,
        "activeProfileIndex": 0,
    }
    return json.dumps(shown).encode()


def _speedscope_frame(frame: Frame) -> dict[str, str | int]:
    where: dict[str, str | int] = {"file": frame.file, "line": frame.line} if frame.line else {}
    return {"name": frame.name, **where}


def _speedscope_profile(
    name: str, stacks: list[list[int]], weights: list[int]
) -> dict[str, object]:
    weighty = [(stack, weight) for stack, weight in zip(stacks, weights, strict=True) if weight]
    return {
        "type": "sampled",
        "name": name,
        "unit": "nanoseconds" if TYPES[name] == "nanoseconds" else "none",
        "startValue": 0,
        "endValue": sum(weight for _, weight in weighty),
        "samples": [stack for stack, _ in weighty],
        "weights": [weight for _, weight in weighty],
    }


def collapsed(profile: Profile, pause: Pause, kind: str = "active") -> bytes:
    """Return a line for each stack, as ``flamegraph.pl`` reads it, with values of one type."""
    place = list(TYPES).index(kind)
    sums: dict[str, int] = {}
    for number, sample in enumerate(profile.samples, 1):
        value = sample.values[place]
        if value:
            stack = ";".join(map(_in_line, sample.stack))
            sums[stack] = sums.get(stack, 0) + value
        if number % _SLICE == 0:
            pause()
    return "".join(_lines(sums.items())).encode()


def _in_line(text: str) -> str:
    """Return a frame without what separates frames and lines."""
    return " ".join(encodable(text).replace(";", ",").split())


def _lines(sums: Iterable[tuple[str, int]]) -> Iterable[str]:
    return (f"{stack} {value}\n" for stack, value in sums)
