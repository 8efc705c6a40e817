"""Our threads do not notice that tests of an application replace parts of the standard library."""

from __future__ import annotations

import ast
import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

from aiometrics.pages.multiprocess.private_file import SUPPORTED

#: For each text, replaces something and blocks the loop, until the watchdog and the sampler have
#: both seen that and another process was answered, which keeps some other connections. It prints
#: the answer, the internal errors, and how often what was replaced was called.
PROGRAM = """
import asyncio, os, subprocess, sys
from contextlib import nullcontext
from unittest.mock import mock_open, patch
import aiometrics, prometheus_client

ASK = '''
import socket, sys, urllib.parse, urllib.request as web
for url, others in map(str.split, sys.stdin):
    place = urllib.parse.urlsplit(url)
    kept = [socket.create_connection((place.hostname, place.port)) for _ in range(int(others))]
    with web.urlopen(url, timeout=60) as response:
        found = b"asked_total 1.0" in response.read()
        print(f"{response.status} {found}{chr(10)}", end="", flush=True)
'''
BOOM = Exception("BOOM")
asker = subprocess.Popen([sys.executable, "-S", "-c", ASK], bufsize=0,
                         stdin=subprocess.PIPE, stdout=subprocess.PIPE)
ask, answers = asker.stdin.fileno(), asker.stdout.fileno()

def seen(exporter):
    found = exporter.snapshot()
    samples = sum(sum(loop.block_samples.values()) for loop in found.loops)
    return samples > 2 and sum(held.samples for held in found.held) > 2

def asked(exporter, others):
    os.write(ask, f"{exporter.url} {others}\\n".encode())
    return os.read(answers, 100).decode().strip()

async def block(exporter, others):
    answer = asked(exporter, others)
    while not seen(exporter):
        sum(range(10_000))
    return answer

async def main():
    for line in sys.stdin:
        text, _, others = line.strip().partition(" # ")
        registry = prometheus_client.CollectorRegistry()
        prometheus_client.Counter("asked", "", registry=registry).inc()
        with aiometrics.start_exporter(
            0, "127.0.0.1", registry=registry, blocking_threshold=0.01, watchdog_interval=0.001,
            directory=sys.argv[1] if len(sys.argv) > 1 else None,
        ) as exporter:
            asked(exporter, 0)  # the first scrape starts the thread that asks collectors
            with eval(text) as replaced:
                answer = await asyncio.create_task(block(exporter, others or 0))
            calls = getattr(replaced, "call_count", 0)
            print([line.strip(), answer, exporter.snapshot().errors, calls])

asyncio.run(main())
"""
REPLACED = (
    "nullcontext()",
    'patch("threading.Event.wait", side_effect=BOOM)',
    #: So many connections that a thread is added.
    'patch("threading.Thread", side_effect=BOOM) # 3',
    'patch("socket.socket", side_effect=BOOM) # 3',
    'patch("time.sleep", side_effect=BOOM) # 3',
    'patch("threading.Event", side_effect=BOOM)',
    'patch("threading.Lock", side_effect=BOOM)',
    'patch("threading.Thread", side_effect=BOOM)',
    'patch("time.sleep", side_effect=BOOM)',
    'patch("time.time", side_effect=BOOM)',
    'patch("time.monotonic", lambda: 0.0)',  # asyncio asks it, too
    'patch("time.monotonic_ns", return_value=0)',
    'patch("time.perf_counter_ns", return_value=0)',
    'patch("os.getpid", return_value=1)',
    'patch("socket.socket", side_effect=BOOM)',
    'patch("select.poll", side_effect=BOOM)',
    'patch("random.expovariate", side_effect=BOOM)',
    'patch("json.dumps", side_effect=BOOM)',
    'patch("builtins.open", mock_open(read_data="x"))',
)
CLOCKS = {
    "freezegun": '__import__("freezegun").freeze_time("2012-01-14")',
    "time_machine": '__import__("time_machine").travel(0, tick=False)',
}


def found_with(*replaced: str, directory: Path | None = None) -> list[object]:
    """Return what the program prints for each text."""
    done = subprocess.run(
        [sys.executable, "-P", "-c", PROGRAM, *([str(directory)] if directory else [])],
        input="\n".join(replaced),
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert (0, 0) == (done.returncode, done.stderr.count("error")), done.stderr
    return [ast.literal_eval(line) for line in done.stdout.splitlines()]


def unnoticed(*replaced: str) -> list[object]:
    """Return what it prints if nobody asked for what was replaced."""
    return [[text, "200 True", {}, 0] for text in replaced]


@pytest.mark.parametrize(
    "shared",
    [False, pytest.param(True, marks=pytest.mark.skipif(not SUPPORTED, reason="no flock()"))],
)
def test_mocks_do_not_reach_our_threads(tmp_path: Path, *, shared: bool) -> None:
    """The port answers, and the watchdog and the sampler look, and no mock counts a call of ours.

    A test of the application that says how often ``time.sleep`` was called would fail otherwise.
    """
    found = found_with(*REPLACED, directory=tmp_path if shared else None)
    assert unnoticed(*REPLACED) == found


@pytest.mark.parametrize("package", CLOCKS)
def test_clocks_that_stand_still_do_not_reach_our_threads(package: str) -> None:
    """Measurements go by the time that passes."""
    if importlib.util.find_spec(package) is None:
        pytest.skip(f"{package} is not installed")
    assert unnoticed(CLOCKS[package]) == found_with(CLOCKS[package])
