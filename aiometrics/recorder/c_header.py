"""Writes ``csrc/constants.h``: run ``python -m aiometrics.recorder.c_header`` in a checkout after changing a shared constant."""

from __future__ import annotations

from pathlib import Path

from aiometrics.recorder.c_constants import DIGEST, ENUMS, NUMBERS, TEXTS, Enum

PATH = Path(__file__).parent / "csrc" / "constants.h"
_BEGIN = """\
/* The constants that C shares with Python. Generated: do not edit, but run `python -m aiometrics.recorder.c_header`. What they mean is said
   where aiometrics/recorder/c_constants.py takes them from. */
#ifndef AIOMETRICS_CONSTANTS_H
#define AIOMETRICS_CONSTANTS_H

#include <stdint.h>
"""
_END = "#endif\n"
_MOST_INT = (1 << 31) - 1


def header() -> str:
    """The text of the header."""
    numbers = [f"#define {name} {_number(value)}\n" for name, value in NUMBERS.items()]
    texts = [
        f'#define {name} "{text}"\n' for name, text in {"CONSTANTS_DIGEST": DIGEST, **TEXTS}.items()
    ]
    return "\n".join((_BEGIN, *map(_enum, ENUMS), "".join(numbers), "".join(texts), _END))


def _enum(enum: Enum) -> str:
    lines = (f"    {name} = {value},\n" for name, value in enum.members.items())
    begin, end = ("typedef enum {\n", f"}} {enum.name};\n") if enum.name else ("enum {\n", "};\n")
    return "".join((begin, *lines, end))


def _number(value: int) -> str:
    return str(value) if value <= _MOST_INT else f"UINT64_C({value:#x})"


if __name__ == "__main__":
    PATH.write_text(header(), encoding="ascii")
