"""Continues broken pages, as a process does that takes over the slot of another.

It must trace as usual, whatever is in the page, and so must the next process.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import cast

from aiometrics import request
from aiometrics.base.internal_errors import InternalErrors
from aiometrics.base.options import RecordingOptions
from aiometrics.instrumentation.instrumentation import Instrumentation
from aiometrics.pages.header import PageError, PageFormat, parse_header
from aiometrics.pages.multiprocess.directory import ClaimedSlot, DirectoryView, SharedDirectory
from aiometrics.pages.multiprocess.slot_file import SlotFile
from aiometrics.pages.page import Page
from aiometrics.pages.reader import check_range
from aiometrics.recorder.implementation import IMPLEMENTATIONS
from aiometrics.testing import ManualClock, VirtualLoop

OPTIONS = RecordingOptions(
    segment_buckets=(1e-6, 1e-3),
    wait_buckets=(2e-6, 3e-6, 4e-6),
    blocking_threshold=1e-7,
    max_coroutines=3,
    max_yield_points=3,
    max_requests=2,
    objectives={"GET /2": 50.0},
)


class _DirectoryOfOneSlot:
    """A stand-in for a shared directory with one slot, whose page no process has claimed."""

    def __init__(self, data: bytes) -> None:
        self.memory = bytearray(data)

    def claim(self, page_format: PageFormat) -> ClaimedSlot:
        return ClaimedSlot(0, Page(*page_format, memory=self.memory), cast("SlotFile", self))

    def read(self, *_: object, **__: object) -> DirectoryView:
        return DirectoryView({}, {}, None)

    def release(self) -> None:
        """Do nothing: the page stays in memory."""


def continue_page(data: bytes, page_format: PageFormat, implementation: str) -> bytes:
    """Return the page after another process has continued it, or unchanged if none would do so.

    Raises ``AssertionError`` if there was an internal error.
    """
    if parse_header(data, len(data)) != page_format:
        return data
    with suppress(PageError):
        check_range(data)
        return _continued(data, implementation)
    return data


def _continued(data: bytes, implementation: str) -> bytes:
    directory, clock, internal_errors = _DirectoryOfOneSlot(data), ManualClock(), InternalErrors()
    instrumentation = Instrumentation(
        OPTIONS,
        clock=clock,
        unix_clock=clock,
        internal_errors=internal_errors,
        implementation=IMPLEMENTATIONS[implementation],
        directory=cast("SharedDirectory", directory),
    )
    loop = VirtualLoop(clock)
    instrumentation.instrument(loop)
    try:
        with asyncio.Runner(loop_factory=lambda: loop) as runner:
            runner.run(_service(clock))
            instrumentation.snapshot()
    finally:
        instrumentation.remove()
    if internal_errors.counts():
        raise AssertionError(f"internal errors: {internal_errors.counts()}")
    return bytes(directory.memory)


async def _service(clock: ManualClock) -> None:
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _loop, _context: None)
    loop.call_exception_handler({})
    loop.call_soon(clock.advance, 0.5)
    tasks = [asyncio.create_task(_handle(clock, number)) for number in range(4)]
    await asyncio.gather(*tasks, return_exceptions=True)


async def _handle(clock: ManualClock, number: int) -> None:
    with request(f"GET /{number}", objective=100.0):
        await asyncio.sleep(1)
        clock.advance(0.2)
        await asyncio.get_running_loop().create_task(asyncio.sleep(0))
    if number:
        raise ValueError(number)
