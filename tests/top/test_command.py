"""The command ``aiometrics top``: what it prints once, and its errors."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.held_service import held_service

import aiometrics
from aiometrics.__main__ import main
from aiometrics.pages.snapshot import Snapshot
from aiometrics.top import command
from aiometrics.top.command import report_once
from aiometrics.top.sources import Reading, SourceError

S = 1_000_000_000
GUARD_SECONDS = 300


def top(*arguments: str) -> str:
    """Return what the command prints in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-P", "-m", "aiometrics", "top", *arguments],
        capture_output=True,
        text=True,
        check=True,
        timeout=GUARD_SECONDS,
    )
    assert "" == done.stderr
    return done.stdout


def test_once_prints_a_table_while_the_gil_is_held_and_after_a_kill(tmp_path: Path) -> None:
    """As JSON, too."""
    directory = str(tmp_path / "pages")
    with held_service(directory) as service:
        service.hold()
        while "BLOCKED NOW" not in (text := top(directory, "--once")):
            pass
        assert "by __main__.holds_everybody_up" in text
        assert "__main__.waits_for_ever" in text.partition("WHO IS STUCK")[2]
        service.kill()
    found = json.loads(top(directory, "--json", "--rows", "1"))
    assert directory == found["source"]
    assert None is found["interval_seconds"]
    assert ["__main__.computes"] == [row["coroutine"] for row in found["active"]]
    assert found["active"][0]["active_seconds"] > 0
    assert [] == found["stuck"]


def test_once_prints_the_numbers_of_the_next_seconds(capsys: pytest.CaptureFixture[str]) -> None:
    """From an exporter, whose port is the default but for these tests."""
    with aiometrics.start_exporter(0, "127.0.0.1", registry=None) as exporter:
        assert 0 == main(["top", exporter.url, "--for", "0.01", "--json"])
        found = json.loads(capsys.readouterr().out)
        assert found["interval_seconds"] > 0
        assert 0 == main(["top", exporter.url, "--once"])
    assert capsys.readouterr().out.startswith("HOTSPOTS since the start\n")


class Repeating:
    """A source that gives its first answer again, as an exporter does whose answers take long."""

    name = "repeating"

    def __init__(self, *taken_ns: int) -> None:
        self._taken_ns = list(taken_ns)

    def read(self) -> Reading:
        return Reading(Snapshot(self._taken_ns.pop(0)))


def test_an_answer_that_is_given_again_is_no_interval(monkeypatch: pytest.MonkeyPatch) -> None:
    """The next one is waited for, but not for ever."""
    monkeypatch.setattr(command, "_PAUSE_SECONDS", 0.0)
    found = json.loads(report_once(Repeating(S, S, S, 3 * S), 1, 0.0, as_object=True))
    assert (2.0, 3.0) == (found["interval_seconds"], found["taken_timestamp_seconds"])
    with pytest.raises(SourceError, match="repeating gives the same answer again and again"):
        report_once(Repeating(*[S] * 10_000), 1, 0.0)


def test_an_error_is_one_line(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """Before anything is drawn."""
    assert 1 == main(["top", str(tmp_path)])
    assert f"aiometrics: there are no pages in {tmp_path}\n" == capsys.readouterr().err


@pytest.mark.parametrize("rows", ["0", "1001", "x", "-1"])
def test_rows_have_a_limit(capsys: pytest.CaptureFixture[str], rows: str) -> None:
    """The message names it."""
    with pytest.raises(SystemExit):
        main(["top", f"--rows={rows}"])
    assert f"{rows!r} is not a number of rows from 1 to 1000" in capsys.readouterr().err


def test_without_textual_the_error_says_what_to_install(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """And what works without it, which does."""
    monkeypatch.delitem(sys.modules, "aiometrics.top.screen", raising=False)
    hidden = [name for name in sys.modules if name.partition(".")[0] == "textual"]
    for name in {"textual", "textual.app", *hidden}:
        monkeypatch.setitem(sys.modules, name, None)
    with aiometrics.start_exporter(0, "127.0.0.1", registry=None) as exporter:
        assert 1 == main(["top", exporter.url])
        assert 'pip install "aiometrics-exporter[top]"' in capsys.readouterr().err
        assert 0 == main(["top", exporter.url, "--once"])


@pytest.fixture
def tmux(binary: Callable[..., str], tmp_path: Path) -> Any:
    """A function that runs tmux with a server of its own, which ends with the test."""
    # Their own size of the terminal must not be what programs in tmux are told.
    environment = {key: os.environ[key] for key in os.environ.keys() - {"COLUMNS", "LINES"}}
    command = [binary("tmux"), "-S", str(tmp_path / "tmux"), "-f", "/dev/null"]

    def run(*arguments: str) -> str:
        return subprocess.run(
            [*command, *arguments], capture_output=True, text=True, check=True, env=environment
        ).stdout

    yield run
    subprocess.run([*command, "kill-server"], check=False, capture_output=True)


@pytest.mark.once
def test_the_screen_in_a_terminal(tmux: Any, tmp_path: Path) -> None:
    """A live process, one that holds the GIL, and a dead one, in a real terminal."""
    directory = str(tmp_path / "pages")

    def shown(*texts: str, without: str = "no such text") -> None:
        """Wait until the screen shows the texts."""
        screen = without
        while without in screen or not all(text in screen for text in texts):
            screen = str(tmux("capture-pane", "-p"))

    with held_service(directory) as service:
        command = f"{sys.executable} -P -m aiometrics top {service.process.pid} --every 0.2"
        tmux("new-session", "-d", "-x", "200", "-y", "30", command)
        # On a busy machine it may be stopped within a step, which then blocks.
        shown("in the last 0.", "__main__.computes", without="BLOCKED NOW")
        service.hold()
        shown("BLOCKED NOW", "by __main__.holds_everybody_up")
        tmux("send-keys", "4")
        shown("__main__.waits_for_ever", "age s")
        service.kill()
        shown("All its processes are gone", "since the start")
        tmux("send-keys", "2")
        shown("__main__.computes", "mean ms")
    tmux("send-keys", "q")
