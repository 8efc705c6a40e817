"""The screen of ``aiometrics top``."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import ClassVar

from rich.text import Text
from textual import work
from textual.app import App, ComposeResult
from textual.binding import Binding, BindingType
from textual.widgets import DataTable, Footer, Static, TabbedContent, TabPane
from textual.worker import get_current_worker

from aiometrics.exposition.hotspots import Hotspots, Section
from aiometrics.exposition.text_table import ascii_name
from aiometrics.pages.snapshot import Snapshot
from aiometrics.top.report import gone, hotspots_of
from aiometrics.top.sources import Reading, Source, SourceError

_TABS = ("holds", "burns", "waits", "stuck", "fails")


class Top(App[None]):
    """Shows the hotspots of ``source``, and looks again ``every`` so many seconds.

    The numbers are those between the last two looks, or since the start. They are read in another
    thread, so that the screen answers while a service does not.
    """

    CSS = """
    #status { height: auto; max-height: 40%; padding: 0 1; }
    #problem { height: auto; padding: 0 1; color: $text-error; }
    #tabs, TabPane, DataTable { height: 1fr; }
    TabPane { padding: 0; }
    """
    TITLE = "aiometrics top"
    BINDINGS: ClassVar[list[BindingType]] = [
        *(
            Binding(str(number), f"tab('{name}')", name.capitalize())
            for number, name in enumerate(_TABS, 1)
        ),
        Binding("s", "toggle_span", "Since start / now"),
        Binding("p", "toggle_pause", "Pause"),
        Binding("q", "quit", "Quit"),
    ]

    def __init__(self, source: Source, rows: int, every: float) -> None:
        super().__init__()
        self._source = source
        self._rows = rows
        self._every = every
        self._since_start = False
        self._paused = self._looking = False
        self._last: Reading | None = None
        self._before: Snapshot | None = None

    def compose(self) -> ComposeResult:
        """Yield the widgets from top to bottom."""
        yield Static(id="status")
        yield Static(id="problem")
        with TabbedContent(id="tabs"):
            for name in _TABS:
                with TabPane(name.capitalize(), id=name):
                    yield DataTable(id=f"table-{name}", cursor_type="row", zebra_stripes=True)
        yield Footer()

    def on_mount(self) -> None:
        """Look now, and then again and again."""
        self.look()
        self.set_interval(self._every, self.look)

    def look(self) -> None:
        """Read the source, unless the numbers are to stay, or the last look is not over."""
        if not self._paused and not self._looking:
            self._looking = True
            self._read()

    @work(thread=True)
    def _read(self) -> None:
        show: Callable[[], None]
        try:
            show = partial(self._show_reading, self._source.read())
        except SourceError as error:
            show = partial(self._show_problem, str(error))
        if not get_current_worker().is_cancelled:  # else there is no screen any more
            self.call_from_thread(self._finish_look, show)

    def _finish_look(self, show: Callable[[], None]) -> None:
        self._looking = False
        show()

    def action_tab(self, name: str) -> None:
        """Show one of the tables."""
        self.query_one("#tabs", TabbedContent).active = name
        self.query_one(f"#table-{name}", DataTable).focus()

    def action_toggle_span(self) -> None:
        """Show the numbers since the start, or those between the last two looks."""
        self._since_start = not self._since_start
        self._show()

    def action_toggle_pause(self) -> None:
        """Keep the numbers as they are, or go on."""
        self._paused = not self._paused
        self._show()

    def _show_problem(self, message: str) -> None:
        """Say why there are no new numbers; the last ones stay."""
        age = "" if self._last is None else self._age(self._last.snapshot)
        self.query_one("#problem", Static).update(Text(f"{message}{age}"))

    @staticmethod
    def _age(snapshot: Snapshot) -> str:
        seconds = (time.time_ns() - snapshot.taken_ns) / 1e9
        return f". These numbers are {seconds:.0f} s old"

    def _show_reading(self, reading: Reading) -> None:
        self._before = None if self._last is None else self._last.snapshot
        self._last = reading
        problem = "All its processes are gone; these are their last numbers"
        self.query_one("#problem", Static).update(problem if gone(reading.snapshot) else "")
        self._show()

    def _show(self) -> None:
        if self._last is None:
            return
        everything = self._since_start or gone(self._last.snapshot)
        found = hotspots_of(self._last, self._rows, None if everything else self._before)
        self.query_one("#status", Static).update(Text("\n".join(self._head(found))))
        for name, section in zip(_TABS, found.sections(), strict=True):
            _fill(self.query_one(f"#table-{name}", DataTable), section)

    def _head(self, found: Hotspots) -> list[str]:
        first, *loops = found.head()
        paused = "  PAUSED" if self._paused else ""
        return [f"{first}{paused}  {ascii_name(self._source.name)}", *loops]


def _fill(table: DataTable[Text], section: Section) -> None:
    """Show other rows in a table, without moving what is looked at.

    Columns have their widths at once: the table would measure them when it is idle.
    """
    row, scroll = table.cursor_row, table.scroll_y
    table.clear(columns=True)
    if not section.rows:
        table.add_column(section.empty)
        return
    columns = [
        *([number.heading, *map(number.cell, section.rows)] for number in section.numbers),
        *([name.heading, *map(ascii_name, map(name.cell, section.rows))] for name in section.names),
    ]
    for heading, *cells in columns:
        table.add_column(heading, width=max(map(len, (heading, *cells))))
    for entry in zip(*(column[1:] for column in columns), strict=True):
        numbers = (Text(cell, justify="right") for cell in entry[: len(section.numbers)])
        table.add_row(*numbers, *map(Text, entry[len(section.numbers) :]))
    table.move_cursor(row=min(row, len(section.rows) - 1), scroll=False)
    table.scroll_to(y=scroll, animate=False)
