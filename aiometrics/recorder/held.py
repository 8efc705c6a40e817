"""Names the lines that hold a loop, and finds their entries in its page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import CodeType
from typing import Any

from aiometrics.base.internal_errors import STAYS_ON, InternalErrors
from aiometrics.pages.held_table import HeldTable
from aiometrics.pages.layout import NO_COROUTINE
from aiometrics.pages.page import Page
from aiometrics.pages.snapshot import ITSELF, OTHER, RAISE, RETURN
from aiometrics.recorder.labels import Labels
from aiometrics.recorder.places import Places, module_name
from aiometrics.recorder.stack import (
    UNKNOWN,
    Call,
    Frame,
    FrameKind,
    blocked_at,
    calls,
    frame_kind,
    held_at,
)

PROBE = "sampler"
#: In place of the number of an entry: the sample is left for later.
LATER = -1


class HeldPlaces:
    """The entries of a page for the lines that hold its loop.

    Asked once for each new line. An error counts as an internal error of the probe ``sampler``, and
    the sample is ``(other)``. Where the application has used up its stack or its memory, the sample
    waits: that is the only error which may be raised here.
    """

    def __init__(
        self, page: Page, labels: Labels, places: Places, internal_errors: InternalErrors
    ) -> None:
        self.table = HeldTable(page)
        self._labels = labels
        self._places = places
        self._internal_errors = internal_errors

    def kind(self, code: CodeType, module_globals: Mapping[str, Any]) -> int:
        """Return the :class:`~aiometrics.recorder.stack.FrameKind` of a frame.

        After an error, it is a library's.
        """
        try:
            return frame_kind(code, module_globals, self._places)
        except (RecursionError, MemoryError):
            raise
        except Exception as error:  # noqa: BLE001 - never the application's problem
            self._internal_errors.report(PROBE, error, STAYS_ON)
            return FrameKind.LIBRARY

    def frame(
        self,
        record: int,
        frame: Frame,
        below: tuple[CodeType, Mapping[str, Any]] | None,
        collecting: int,
    ) -> int:
        """Return the entry of a frame in a segment of the coroutine ``record``.

        ``below`` is what the frame called.
        """
        return self._number(record, lambda: held_at(_call(*frame), _called(below), collecting))

    def stack(self, record: int, stack: Sequence[Frame], collecting: int) -> int:
        """Return the entry for the frames of the loop's thread."""
        return self._number(record, lambda: blocked_at(calls(stack), self._places, collecting))

    def point(self, record: int, point: int) -> int:
        """Return the entry for a segment that ended, at a yield point, before it was looked at."""
        return self._number(record, lambda: self._ended_at(point))

    def unknown(self, record: int) -> int:
        """Return the entry for a segment of which nothing else is known."""
        return self._number(record, lambda: UNKNOWN)

    def _ended_at(self, point: int) -> str:
        _, yield_point, awaits = self._labels.of_point(point)
        return yield_point if yield_point in (RETURN, RAISE) else f"{yield_point} > {awaits}"

    def _number(self, record: int, name: Any) -> int:
        try:
            found = name()
            outside = record == NO_COROUTINE and found == UNKNOWN
            return self.table.number(record, ITSELF if outside else found)
        except (RecursionError, MemoryError):
            return LATER
        except Exception as error:  # noqa: BLE001 - never the application's problem
            self._internal_errors.report(PROBE, error, STAYS_ON)
            return self.table.number(0, OTHER)


def _call(code: CodeType, line: int | None, module_globals: Mapping[str, Any]) -> Call:
    return Call(code, line, module_name(code, module_globals))


def _called(below: tuple[CodeType, Mapping[str, Any]] | None) -> Call | None:
    return None if below is None else _call(below[0], None, below[1])
