"""Answers requests for the numbers of this moment as JSON."""

from __future__ import annotations

from aiometrics.base import fork
from aiometrics.base.http.messages import Response
from aiometrics.base.singleflight import SingleFlight
from aiometrics.exporter.scrape import give_way
from aiometrics.exposition.families import Source
from aiometrics.exposition.live import LiveView


class LiveHandler:
    """Answers with the snapshot of ``source`` as ``view`` shows it.

    However many ask, one answer is made at a time.
    """

    def __init__(self, source: Source, view: LiveView) -> None:
        self._source = source
        self._view = view
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
        snapshot, info = self._source()
        return b"".join(self._view.slices(snapshot, info, give_way))
