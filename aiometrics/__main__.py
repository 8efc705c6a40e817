"""The command line: ``python -m aiometrics COMMAND``.

Each command is a function that adds a parser and names the function that runs it.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from aiometrics.base.options import DEFAULT_PORT, resolve
from aiometrics.base.version import __version__
from aiometrics.demo.faults import Fault, parse_faults
from aiometrics.exporter.assets import export
from aiometrics.exporter.sidecar import serve
from aiometrics.launch.attach import AttachError, attach, detach
from aiometrics.launch.command import PATH, become, environment
from aiometrics.top import command as top

_INTERRUPTED = 130  # 128 + SIGINT, as shells have it


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command that ``arguments`` (default: those of the process) name.

    Returns the exit code: 0 for success, 1 for a failure that one line on standard error explains,
    130 for an end by Ctrl-C. Raises ``SystemExit`` with 2 for invalid arguments, and with 0 after
    ``--help`` and ``--version``.
    """
    chosen = _parser().parse_args(arguments)
    try:
        return int(chosen.run(chosen))
    except KeyboardInterrupt:
        return _INTERRUPTED


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m aiometrics", description="Prometheus metrics for every asyncio task."
    )
    parser.add_argument("--version", action="version", version=f"aiometrics {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for add in _COMMANDS:
        add(commands)
    return parser


def _add_demo(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    about = (
        "a small shop under load that has the classic faults of asyncio services; "
        "prints its hotspots and serves its metrics"
    )
    parser = commands.add_parser("demo", help=about, description=_sentence(about))
    parser.add_argument(
        "--for",
        dest="seconds",
        type=_seconds,
        metavar="SECONDS",
        help="end after this long (default: at Ctrl-C)",
    )
    parser.add_argument(
        "--every",
        type=_seconds,
        default=5.0,
        metavar="SECONDS",
        help="pause between two tables (default: %(default)g)",
    )
    parser.add_argument(
        "--port",
        type=_port,
        default=DEFAULT_PORT,
        help="port of /metrics, 0 for a free one (default: %(default)s)",
    )
    parser.add_argument(
        "--addr",
        default="127.0.0.1",
        help="address of /metrics (default: %(default)s; 0.0.0.0 is every interface)",
    )
    parser.add_argument(
        "--faults",
        type=_faults,
        default=frozenset(Fault),
        metavar="NAMES",
        help=f"all, none, or some of {','.join(Fault)} (default: all)",
    )
    parser.set_defaults(run=_demo)


def _demo(chosen: argparse.Namespace) -> int:
    try:
        from aiometrics.demo.command import Settings, run  # noqa: PLC0415 - aiohttp is an extra
    except ModuleNotFoundError as error:
        if error.name != "aiohttp":
            raise
        return _fail('the demo needs aiohttp: pip install "aiometrics-exporter[demo]"')
    return run(
        Settings(
            faults=chosen.faults,
            seconds=chosen.seconds,
            every_seconds=chosen.every,
            addr=chosen.addr,
            port=chosen.port,
        )
    )


def _add_export_assets(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    about = (
        "write the Grafana dashboards, the Prometheus rules and configuration, "
        "and the Kubernetes manifests to a directory"
    )
    parser = commands.add_parser(
        "export-assets", help=about, description=about[0].upper() + about[1:] + "."
    )
    parser.add_argument(
        "directory", type=Path, metavar="DIR", help="target directory; created if missing"
    )
    parser.add_argument("--force", action="store_true", help="replace existing files that differ")
    parser.set_defaults(run=_export_assets)


def _export_assets(chosen: argparse.Namespace) -> int:
    try:
        written = export(chosen.directory, overwrite=chosen.force)
    except OSError as error:
        return _fail(str(error))
    for path in written:
        print(chosen.directory / path)
    return 0


def _sentence(about: str) -> str:
    return f"{about[0].upper()}{about[1:]}."


def _add_serve(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    about = (
        "serve the stats pages of a shared directory, even if the processes of the service hang or "
        "are gone; options also come from AIOMETRICS_*"
    )
    parser = commands.add_parser("serve", help=about, description=_sentence(about))
    parser.add_argument(
        "--directory",
        metavar="DIR",
        help="the directory given to start_exporter(); it need not exist yet",
    )
    parser.add_argument(
        "--port", type=_port, help=f"port of /metrics, 0 for a free one (default: {DEFAULT_PORT})"
    )
    parser.add_argument("--addr", help="address of /metrics (default: 0.0.0.0, every interface)")
    parser.add_argument(
        "--web-config",
        metavar="FILE",
        help="TLS, client certificates and passwords, in the format of exporter-toolkit",
    )
    parser.set_defaults(run=_serve)


def _serve(chosen: argparse.Namespace) -> int:
    try:
        options = resolve(
            directory=chosen.directory,
            port=chosen.port,
            addr=chosen.addr,
            web_config=chosen.web_config,
        )
        serve(options.recording.directory, options.serving)
    except OSError as error:
        return _fail(error.strerror or str(error))
    except (TypeError, ValueError, ModuleNotFoundError) as error:
        return _fail(str(error))
    return 0


def _add_run(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    about = (
        "run a Python program as it is, with an exporter in it and in its child processes; "
        "options also come from AIOMETRICS_*"
    )
    parser = commands.add_parser(
        "run",
        help=about,
        description=_sentence(about),
        usage="%(prog)s [options] -- COMMAND [ARGUMENT ...]",
    )
    parser.add_argument("--port", help=f"port of /metrics (default: {DEFAULT_PORT})")
    parser.add_argument("--addr", help="address of /metrics (default: 0.0.0.0, every interface)")
    parser.add_argument("--directory", metavar="DIR", help="as for start_exporter()")
    parser.add_argument(
        "--application", metavar="NAMES", help="packages that count as application code"
    )
    parser.add_argument(
        "--no-children",
        action="store_true",
        help="trace only the program itself, and no process that it starts",
    )
    parser.add_argument(
        "--no-middleware",
        action="store_true",
        help="give applications of FastAPI, Starlette and aiohttp no request middleware",
    )
    parser.add_argument(
        "--print-path", action="store_true", help="print the directory for PYTHONPATH, and end"
    )
    parser.add_argument("command", nargs=argparse.REMAINDER, metavar="COMMAND")
    parser.set_defaults(run=_run)


def _run(chosen: argparse.Namespace) -> int:
    if chosen.print_path:
        print(PATH)
        return 0
    command = chosen.command[1:] if chosen.command[:1] == ["--"] else chosen.command
    if not command:
        return _fail("name the program to run: aiometrics run -- uvicorn web:app")
    options = {name: getattr(chosen, name) for name in ("port", "addr", "directory", "application")}
    switches = {"CHILDREN": chosen.no_children, "MIDDLEWARE": chosen.no_middleware}
    off = {f"AIOMETRICS_{name}": "0" for name, given in switches.items() if given}
    try:
        become(command, environment(options, {**os.environ, **off}))
    except OSError as error:
        return _fail(f"cannot run {command[0]!r}: {error.strerror}")
    except (TypeError, ValueError) as error:
        return _fail(str(error))
    return 0


def _add_attach(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    about = "start an exporter in a process that runs already; it must be Python 3.14 or newer"
    parser = commands.add_parser("attach", help=about, description=_sentence(about))
    _add_pid(parser)
    parser.add_argument("--port", help=f"port of /metrics (default: {DEFAULT_PORT})")
    parser.add_argument("--addr", help="address of /metrics (default: 0.0.0.0, every interface)")
    parser.set_defaults(run=_attach)


def _attach(chosen: argparse.Namespace) -> int:
    given = {"AIOMETRICS_PORT": chosen.port, "AIOMETRICS_ADDR": chosen.addr}
    options = {name: value for name, value in given.items() if value is not None}
    try:
        resolve(environ=options)
        print(attach(chosen.pid, options, timeout=chosen.timeout))
    except (AttachError, TypeError, ValueError) as error:
        return _fail(str(error))
    return 0


def _add_detach(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    about = "stop the exporter that was attached to a process, which then is as before"
    parser = commands.add_parser("detach", help=about, description=_sentence(about))
    _add_pid(parser)
    parser.set_defaults(run=_detach)


def _detach(chosen: argparse.Namespace) -> int:
    try:
        print(detach(chosen.pid, timeout=chosen.timeout))
    except AttachError as error:
        return _fail(str(error))
    return 0


def _add_pid(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("pid", type=int, metavar="PID", help="the process")
    parser.add_argument(
        "--timeout",
        type=_seconds,
        default=30.0,
        metavar="SECONDS",
        help="how long to wait until the process runs Python code (default: %(default)g)",
    )


def _fail(message: str) -> int:
    sys.stderr.write(f"aiometrics: {message}\n")
    return 1


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is not a positive number of seconds")
    return seconds


def _port(text: str) -> int:
    if not re.fullmatch(r"[0-9]{1,5}", text) or int(text) > 65535:
        raise argparse.ArgumentTypeError(f"{text!r} is not a port from 0 to 65535")
    return int(text)


def _faults(text: str) -> frozenset[Fault]:
    try:
        return parse_faults(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _add_top(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    top.add_parser(commands, _seconds, _fail)


_COMMANDS = (
    _add_run,
    _add_attach,
    _add_detach,
    _add_demo,
    _add_export_assets,
    _add_serve,
    _add_top,
)

if __name__ == "__main__":
    sys.exit(main())
