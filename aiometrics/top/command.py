"""The command ``top``: its arguments, and what it prints without a screen."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

from aiometrics.base.options import DEFAULT_PORT
from aiometrics.exposition.hotspots import Hotspots
from aiometrics.pages.snapshot import Snapshot
from aiometrics.top.report import as_json, hotspots_of
from aiometrics.top.sources import Reading, Source, SourceError, source_of

_ABOUT = (
    "show the hotspots of a service in the terminal; from pages also while the GIL is held, "
    "and after the service was killed"
)
_TRIES, _PAUSE_SECONDS = 1000, 0.05
_MISSING = (
    'top needs textual: pip install "aiometrics-exporter[top]". '
    "With --once it prints the numbers and ends, without textual"
)


def add_parser(
    commands: argparse._SubParsersAction[argparse.ArgumentParser],
    seconds: Callable[[str], float],
    fail: Callable[[str], int],
) -> None:
    """Add the arguments of the command; ``seconds`` reads a duration, ``fail`` prints an error."""
    parser = commands.add_parser(
        "top", help=_ABOUT, description=f"{_ABOUT[0].upper()}{_ABOUT[1:]}."
    )
    parser.add_argument(
        "target",
        nargs="?",
        default=f"http://localhost:{DEFAULT_PORT}",
        metavar="URL | DIRECTORY | PID",
        help="an exporter, a shared directory of pages, or a process (default: %(default)s)",
    )
    parser.add_argument(
        "--every",
        type=seconds,
        default=2.0,
        metavar="SECONDS",
        help="pause between two looks (default: %(default)g)",
    )
    parser.add_argument(
        "--rows", type=_rows, default=20, help="rows of each table (default: %(default)s)"
    )
    parser.add_argument(
        "--once", action="store_true", help="print the numbers since the start, and end"
    )
    parser.add_argument(
        "--for",
        dest="seconds",
        type=seconds,
        metavar="SECONDS",
        help="with --once: those of the next SECONDS",
    )
    parser.add_argument("--json", action="store_true", help="with --once: as JSON")
    parser.set_defaults(run=lambda chosen: _run(chosen, fail))


def _run(chosen: argparse.Namespace, fail: Callable[[str], int]) -> int:
    once = chosen.once or chosen.json or chosen.seconds is not None
    try:
        source = source_of(chosen.target)
        if once:
            print(report_once(source, chosen.rows, chosen.seconds, as_object=chosen.json))
            return 0
        source.read()  # an error now is one line, and no screen that flashes
    except SourceError as error:
        return fail(str(error))
    try:
        from aiometrics.top.screen import Top  # noqa: PLC0415 - textual is an extra
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "textual":
            raise
        return fail(_MISSING)
    Top(source, chosen.rows, chosen.every).run()
    return 0


def report_once(
    source: Source, rows: int, seconds: float | None = None, *, as_object: bool = False
) -> str:
    """Return the hotspots since the start, or of the next ``seconds``. Raises ``SourceError``."""
    earlier: Snapshot | None = None
    if seconds is not None:
        earlier = source.read().snapshot
        time.sleep(seconds)
    reading = source.read() if earlier is None else _other_than(earlier, source)
    found: Hotspots = hotspots_of(reading, rows, earlier)
    return as_json(source.name, reading.snapshot.taken_ns, found) if as_object else str(found)


def _other_than(earlier: Snapshot, source: Source) -> Reading:
    """Read until there are other numbers: an exporter gives an answer again that took it long."""
    for _ in range(_TRIES):
        reading = source.read()
        if reading.snapshot.taken_ns != earlier.taken_ns:
            return reading
        time.sleep(_PAUSE_SECONDS)
    raise SourceError(f"{source.name} gives the same answer again and again")


def _rows(text: str) -> int:
    rows = int(text) if text.isascii() and text.isdecimal() and len(text) < 5 else 0
    if not 0 < rows <= 1000:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of rows from 1 to 1000")
    return rows
