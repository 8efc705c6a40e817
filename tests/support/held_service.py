"""A service in a process of its own that can be told to hold the GIL, and killed."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO

#: Takes a port, and a directory or nothing. Then each line of standard input holds the GIL until
#: the next one, in the coroutine ``holds_everybody_up``.
_PROGRAM = """
import asyncio, ctypes, sys, threading
import aiometrics

async def computes():
    while True:
        sum(range(20_000))
        await asyncio.sleep(0.001)

async def waits_for_ever():
    await asyncio.Event().wait()

async def holds_everybody_up():
    print("holding", flush=True)
    ctypes.PyDLL(None).read(0, ctypes.create_string_buffer(1), 1)
    print("free", flush=True)

async def main():
    loop = asyncio.get_running_loop()
    asked = asyncio.Event()
    loop.add_reader(0, asked.set)
    tasks = [asyncio.create_task(computes()), asyncio.create_task(waits_for_ever())]
    await asyncio.sleep(1.1)
    print(exporter.port, flush=True)
    while True:
        while not asked.is_set():
            await asyncio.sleep(0.01)  # else it would soon be one that has waited for long, too
        asked.clear()
        if not sys.stdin.buffer.raw.read(1):
            return
        await asyncio.create_task(holds_everybody_up())

exporter = aiometrics.start_exporter(
    0, "127.0.0.1", registry=None, directory=sys.argv[1] or None, sample_interval=0.001
)
with exporter:
    asyncio.run(main())
"""


@dataclass
class HeldService:
    """The process, and the port of its exporter. It computes, and a task has waited for 1.1 s."""

    process: subprocess.Popen[str]
    port: int

    def hold(self) -> None:
        """Hold the GIL until :meth:`release`."""
        self._write("x")
        assert "holding\n" == self._read()

    def release(self) -> None:
        """Let go of the GIL."""
        self._write("x")
        assert "free\n" == self._read()

    def kill(self) -> None:
        """Kill it with no chance to clean up."""
        self.process.kill()
        self.process.wait()

    def _write(self, text: str) -> None:
        pipe = self._pipe(self.process.stdin)
        pipe.write(text)
        pipe.flush()

    def _read(self) -> str:
        return self._pipe(self.process.stdout).readline()

    @staticmethod
    def _pipe(pipe: IO[str] | None) -> IO[str]:
        assert pipe is not None
        return pipe


@contextmanager
def held_service(directory: str = "") -> Generator[HeldService]:
    """Run the service until the block is left."""
    with subprocess.Popen(
        [sys.executable, "-P", "-c", _PROGRAM, directory],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            yield HeldService(process, int(HeldService._pipe(process.stdout).readline()))
        finally:
            process.kill()
