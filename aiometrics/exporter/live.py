"""The live page, and the numbers of this moment that it shows, as JSON."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from aiometrics.base import fork
from aiometrics.base.http.messages import Request, Response, plain
from aiometrics.base.singleflight import SingleFlight
from aiometrics.base.unpatched import monotonic_ns, thread_time_ns
from aiometrics.exporter.scrape import give_way
from aiometrics.exposition.families import Source
from aiometrics.exposition.idle_waits import of_no_library

if TYPE_CHECKING:
    from aiometrics.exposition.live import LiveView

#: Paths are texts here, because ``pathlib`` would take milliseconds of each start for them.
_FILES = os.path.join(os.path.dirname(os.path.realpath(__file__)), "live_page")  # noqa: PTH118, PTH120
_TYPES = {
    ".css": "text/css; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
}
#: The one style sheet that d3-flame-graph adds as a text.
_FLAME_GRAPH_STYLE = "'sha256-PjPkXjWPssRCMzB6p5SnF25xrwIH7ThbVHWlE+SG1DE='"
#: Everything comes from this port, nothing of it from the program that is observed.
_POLICY = (
    "default-src 'none'; script-src 'self'; connect-src 'self'; img-src data:; "
    f"style-src 'self' {_FLAME_GRAPH_STYLE}; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
#: The policy is that of the page, and of its thread, which has the headers of its script.
_HEADERS = (
    ("Content-Security-Policy", _POLICY),
    ("Referrer-Policy", "no-referrer"),
    ("Cache-Control", "no-cache"),
)
#: Names of files in ``vendor`` have the version in them.
_VENDOR_HEADERS = (("Cache-Control", "max-age=31536000, immutable"),)
#: An answer is given again for this many times as long as it took, so that making them takes at
#: most a tenth of one processor, however many ask.
_REUSE = 10


class LiveHandler:
    """Answers with the snapshot of ``source`` as a ``LiveView`` shows it."""

    def __init__(self, source: Source, of_library: Callable[[str], bool] = of_no_library) -> None:
        self._source = source
        self._of_library = of_library
        self._view: LiveView | None = None
        self._last = b""
        self._reusable_until_ns = 0
        self._reset()
        fork.forget_in_child(self, fork.Stage.LOCKS, LiveHandler._reset)

    def _reset(self) -> None:
        self._bodies = SingleFlight(self._rendered)

    def answer(self) -> Response:
        """Return the response, which no cache keeps."""
        return Response(
            200, self._bodies(None), "application/json", (("Cache-Control", "no-store"),)
        )

    def _rendered(self, _: None) -> bytes:
        if monotonic_ns() < self._reusable_until_ns:
            return self._last
        give_way.renew()
        began_ns = thread_time_ns()
        view = self._made_view()
        snapshot, info = self._source()
        self._last = b"".join(view.slices(snapshot, info, give_way))
        took_ns = thread_time_ns() - began_ns
        self._reusable_until_ns = monotonic_ns() + _REUSE * took_ns
        return self._last

    def _made_view(self) -> LiveView:
        with fork.creation_lock:  # so that no child inherits a module that is half imported
            if self._view is None:
                from aiometrics.exposition.live import LiveView  # noqa: PLC0415 - few ask

                self._view = LiveView(self._of_library)
            return self._view


def page_routes() -> dict[str, Callable[[Request], Response]]:
    """Return what answers each path of the live page; nothing where its files were left out."""
    files = {
        f"/live{folder.removeprefix(_FILES)}/{name}": f"{folder}/{name}"
        for folder, _, names in os.walk(_FILES)
        for name in names
        if _suffix(name) in _TYPES
    }
    index = files.pop("/live/index.html", None)
    return {
        **({"/": partial(_file, index, _HEADERS)} if index else {}),
        **{name: partial(_file, path, _headers(name)) for name, path in files.items()},
    }


def _headers(name: str) -> tuple[tuple[str, str], ...]:
    return _VENDOR_HEADERS if name.startswith("/live/vendor/") else _HEADERS


def _suffix(path: str) -> str:
    return os.path.splitext(path)[1]  # noqa: PTH122 - as above


def _file(path: str, headers: tuple[tuple[str, str], ...], _: Request) -> Response:
    try:
        with open(path, "rb") as file:  # noqa: PTH123 - as above
            content = file.read()
    except OSError:  # the program has changed its root, or its files are being replaced
        return plain(404)
    return Response(200, content, _TYPES[_suffix(path)], headers)
