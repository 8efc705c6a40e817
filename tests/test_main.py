"""The command line: the arguments that it accepts, and its error messages."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest

from aiometrics.__main__ import main
from aiometrics.base.version import __version__
from aiometrics.demo import command
from aiometrics.demo.command import Settings
from aiometrics.demo.faults import Fault


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[Settings]:
    """The settings that the demo was asked to run with; it does not run."""
    settings: list[Settings] = []

    def run(wanted: Settings) -> int:
        settings.append(wanted)
        return 0

    monkeypatch.setattr(command, "run", run)
    return settings


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """Return the last line on standard error when the arguments are refused."""
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert 2 == ended.value.code
    return capsys.readouterr().err.splitlines()[-1]


def test_demo_by_default_has_every_fault_and_runs_until_interrupted(asked: list[Settings]) -> None:
    """Without options the demo serves its metrics on 127.0.0.1:9400."""
    assert 0 == main(["demo"])
    assert [
        Settings(
            faults=frozenset(Fault), seconds=None, every_seconds=5.0, addr="127.0.0.1", port=9400
        )
    ] == asked


def test_demo_takes_every_option(asked: list[Settings]) -> None:
    """Duration, pause, address, port and faults are passed on."""
    main(
        [
            "demo",
            "--for",
            "20",
            "--every",
            "0.5",
            "--addr",
            "0.0.0.0",  # noqa: S104
            "--port",
            "0",
            "--faults",
            "cpu, slow",
        ]
    )
    assert [
        Settings(
            faults=frozenset({Fault.CPU, Fault.SLOW}),
            seconds=20.0,
            every_seconds=0.5,
            addr="0.0.0.0",  # noqa: S104
            port=0,
        )
    ] == asked


@pytest.mark.parametrize(
    ("text", "faults"),
    [("all", frozenset(Fault)), ("none", frozenset()), ("tiny", frozenset({Fault.TINY}))],
)
def test_faults_by_name(text: str, faults: frozenset[Fault], asked: list[Settings]) -> None:
    """``all``, ``none`` and single names choose faults."""
    main(["demo", "--faults", text])
    assert [faults] == [settings.faults for settings in asked]


@pytest.mark.parametrize("seconds", ["0", "-1", "inf", "nan", "soon"])
@pytest.mark.parametrize("option", ["--for", "--every"])
def test_a_duration_is_a_positive_number(
    option: str, seconds: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Any other value is refused, with the option and the value."""
    expected = (
        f"python -m aiometrics demo: error: argument {option}: "
        f"'{seconds}' is not a positive number of seconds"
    )
    assert expected == refused(capsys, "demo", f"{option}={seconds}")


@pytest.mark.parametrize("port", ["-1", "65536", "http", "", "9" * 5000])
def test_a_port_is_a_number_up_to_65535(port: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Any other value is refused, with the value and the range."""
    assert (
        f"python -m aiometrics demo: error: argument --port: '{port}' is not a port from 0 to 65535"
        == refused(capsys, "demo", f"--port={port}")
    )


@pytest.mark.parametrize("faults", ["gremlins", "cpu,gremlins"])
def test_an_unknown_fault_is_refused_with_those_that_exist(
    faults: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """The message quotes the name and lists the choice."""
    assert (
        "python -m aiometrics demo: error: argument --faults: no fault is called 'gremlins': "
        "choose from cpu, blocking, slow, stuck, failing, tiny, or say all or none"
    ) == refused(capsys, "demo", "--faults", faults)


def test_a_command_is_needed(capsys: pytest.CaptureFixture[str]) -> None:
    """Without a command the error says so."""
    assert "python -m aiometrics: error: the following arguments are required: COMMAND" == refused(
        capsys
    )


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    """``--version`` prints the version and succeeds."""
    with pytest.raises(SystemExit) as ended:
        main(["--version"])
    assert (0, f"aiometrics {__version__}\n") == (ended.value.code, capsys.readouterr().out)


def test_ctrl_c_is_not_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C ends a command with the exit code that shells use for it, without a traceback."""

    def run(_: Settings) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(command, "run", run)
    assert 130 == main(["demo"])


def test_without_aiohttp_one_line_says_what_to_install() -> None:
    """The demo's dependency is an extra: without it the error has the command that installs it."""
    program = (
        "import sys; sys.modules['aiohttp'] = None; "
        "from aiometrics.__main__ import main; sys.exit(main(['demo']))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    assert (
        1,
        "",
        'aiometrics: the demo needs aiohttp: pip install "aiometrics-exporter[demo]"\n',
    ) == (
        done.returncode,
        done.stdout,
        done.stderr,
    )


def test_the_command_line_is_light_to_import() -> None:
    """Parsing arguments imports neither the demo's service nor aiohttp."""
    program = (
        "import sys, aiometrics.__main__; "
        "print(sorted({'aiohttp', 'sqlite3', 'aiometrics.demo.command'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert "[]\n" == done.stdout


@pytest.mark.parametrize(
    "command", ["run", "attach", "detach", "demo", "serve", "export-assets", "top"]
)
def test_help_spells_names_as_they_are(
    command: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Variables and product names keep their capitals."""
    monkeypatch.setenv("COLUMNS", "200")
    with pytest.raises(SystemExit):
        main([command, "--help"])
    text = capsys.readouterr().out.replace("python -m aiometrics", "")
    names = ("aiometrics_*", "prometheus", "grafana", "python", "gil")
    assert [] == [name for name in names if re.search(rf"\b{re.escape(name)}", text)]
    assert ("AIOMETRICS_*" in text) == (command in {"run", "serve"})
