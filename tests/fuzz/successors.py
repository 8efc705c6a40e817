"""A process that goes on with a broken page that another left: it traces as ever, whatever was in there, and so does the next one."""

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


class _Left:
    """A shelf of one slot, in which there is a page that nobody holds."""

    def __init__(self, data: bytes) -> None:
        self.memory = bytearray(data)

    def claim(self, page_format: PageFormat) -> ClaimedSlot:
        return ClaimedSlot(0, Page(*page_format, memory=self.memory), cast("SlotFile", self))

    def read(self, *_: object) -> DirectoryView:
        return DirectoryView({}, {}, None)

    def release(self) -> None:
        """It is left again."""


def inherit(data: bytes, page_format: PageFormat, implementation: str) -> bytes:
    """What the page is like after another process has gone on with it; as it was if no other would.

    Raises ``AssertionError`` if that process had an internal error.
    """
    if parse_header(data, len(data)) != page_format:
        return data
    with suppress(PageError):
        check_range(data)
        return _inherited(data, implementation)
    return data


def _inherited(data: bytes, implementation: str) -> bytes:
    left, clock, internal_errors = _Left(data), ManualClock(), InternalErrors()
    instrumentation = Instrumentation(
        OPTIONS,
        clock=clock,
        unix_clock=clock,
        internal_errors=internal_errors,
        implementation=IMPLEMENTATIONS[implementation],
        directory=cast("SharedDirectory", left),
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
    return bytes(left.memory)


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
