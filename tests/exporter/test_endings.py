"""Quick processes end under scrapes as they would end without us: status and standard error."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from http.client import HTTPException
from itertools import product

import pytest

from aiometrics import IMPLEMENTATION

#: The frame that the Python recorder has in the traceback of a task's coroutine.
FRAME = re.compile(
    r'  File "[^"]*/aiometrics/recorder/traced\.py", line \d+, in (?:send|throw)\n(?: {4}.*\n)+'
)
#: How often each ending is tried; 63 make 504 processes.
ROUNDS = int(os.environ.get("AIOMETRICS_TEST_ENDINGS", "2"))

PROGRAM = """
import asyncio, os, select, signal, sys, threading
if sys.argv[1] == "traced":
    import aiometrics
    sys.stdout.write(aiometrics.start_exporter(0, "127.0.0.1").url + chr(10))
    sys.stdout.flush()

async def step():
    await asyncio.sleep(0.001)

async def main():
    tasks = [asyncio.create_task(step()) for _ in range(20)]
    await asyncio.gather(*tasks)
    while sys.argv[1] == "traced" and not select.select([0], [], [], 0)[0]:
        await asyncio.sleep(0.001)
    await asyncio.sleep(0.02)
    END

"""
ENDINGS = {
    "returns": "",
    "exits": "sys.exit(3)",
    "raises": "raise LookupError('of the application')",
    "leaves": "os._exit(4)",
    "is terminated": "os.kill(os.getpid(), signal.SIGTERM); await asyncio.sleep(300)",
    "is interrupted": "os.kill(os.getpid(), signal.SIGINT); await asyncio.sleep(300)",
    "is killed": "os.kill(os.getpid(), signal.SIGKILL); await asyncio.sleep(300)",
    "aborts": "os.abort()",
}
#: A thread and a task that are still there when the program ends.
LATE = """
threading.Thread(target=threading.Event().wait, daemon=True).start()
asyncio.run(main())
"""


def ended(ending: str, how: str) -> tuple[int, str, int]:
    """Run a program to its end; return its status, standard error and how often it was scraped."""
    program = PROGRAM.replace("END", ENDINGS[ending]) + LATE
    scraped, tell = os.pipe()
    process = subprocess.Popen(
        [sys.executable, "-P", "-c", program, how],
        stdin=scraped,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONFAULTHANDLER": ""},
    )
    assert process.stdout is not None
    url, scrapes = process.stdout.readline().strip(), 0

    def scrape() -> None:
        nonlocal scrapes
        # The process is gone, maybe in the middle of an answer.
        with suppress(OSError, ValueError, HTTPException):
            while True:
                with urllib.request.urlopen(url, timeout=300) as response:  # noqa: S310 - our own
                    response.read()
                scrapes += 1
                if scrapes == 1:
                    os.write(tell, b"1")

    scraper = threading.Thread(target=scrape if url else int)
    scraper.start()
    _, err = process.communicate(timeout=300)
    scraper.join(300)
    os.close(scraped)
    os.close(tell)
    if IMPLEMENTATION == "python":
        err = FRAME.sub("", err)
    return process.returncode, err, scrapes


@pytest.mark.skipif(os.name != "posix", reason="there are no such signals")
def test_a_process_ends_as_it_would_without_us() -> None:
    """Nothing is printed that would not be, and the status is the same."""
    bare = {ending: ended(ending, "bare")[:2] for ending in ENDINGS}
    assert 6 <= len({status for status, _ in bare.values()})
    with ThreadPoolExecutor(2) as pool:
        traced = list(
            pool.map(
                lambda each: (each[1], *ended(each[1], "traced")), product(range(ROUNDS), ENDINGS)
            )
        )
    assert [] == [
        (ending, status, err) for ending, status, err, _ in traced if (status, err) != bare[ending]
    ]
    assert all(scrapes > 0 for *_, scrapes in traced)
