"""Answers scrapes, each in the format that it asks for."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import partial

from aiometrics.base import fork
from aiometrics.base.http import negotiation
from aiometrics.base.http.messages import Response
from aiometrics.base.singleflight import SingleFlight
from aiometrics.base.unpatched import monotonic_ns
from aiometrics.base.yielding import CooperativeYield
from aiometrics.exposition.collection import Registry
from aiometrics.exposition.detail import Detail
from aiometrics.exposition.families import ExporterInfo
from aiometrics.exposition.protobuf import ProtobufRenderer
from aiometrics.exposition.text import OPENMETRICS, OPENMETRICS_UTF_8, TEXT, Renderer
from aiometrics.pages.records import Records
from aiometrics.pages.snapshot import Snapshot
from aiometrics.recorder.implementation import DEFAULT_IMPLEMENTATION, RECORDER_HAND_OVER

#: Shared by all threads of the process that answer scrapes.
give_way = CooperativeYield(sleep=RECORDER_HAND_OVER.rest)

#: Returns what one scrape shows, without what is in the records.
RecordsSource = Callable[[Records | None], tuple[Snapshot, ExporterInfo]]
_Render = Callable[..., Iterator[bytes]]


class ScrapeHandler:
    """Answers scrapes with the snapshot of ``source``, followed by the application's ``registry``.

    It remembers which yield points it has shown, if the source says that not all are wanted.

    Several threads may ask at a time. One response is rendered at a time, for all scrapes that
    arrived before it was begun. Errors of the application's collectors go to ``on_error``, which
    must not raise.
    """

    def __init__(
        self,
        source: RecordsSource,
        registry: Registry | None,
        on_error: Callable[[Exception], None],
    ) -> None:
        self._source = source
        text = Renderer(registry, on_error=on_error, pause=give_way)
        protobuf = ProtobufRenderer(registry, on_error=on_error, pause=give_way)
        self._renderers = text, protobuf
        self._slices: Mapping[negotiation.Format, _Render] = {
            negotiation.TEXT: partial(text.slices, form=TEXT),
            negotiation.OPENMETRICS: partial(text.slices, form=OPENMETRICS),
            negotiation.OPENMETRICS_UTF_8: partial(text.slices, form=OPENMETRICS_UTF_8),
            negotiation.PROTOBUF: protobuf.slices,
        }
        self._previous_ns = 0
        self._reset()
        fork.forget_in_child(self, fork.Stage.LOCKS, ScrapeHandler._reset)

    def _reset(self) -> None:
        """Forget the rendering in progress, also in a forked child, which lacks its thread."""
        self._bodies = SingleFlight(self._rendered)
        self._detail = Detail(0)

    def close(self) -> None:
        """Let go of the application's registry, and let the threads end that ask its collectors."""
        for renderer in self._renderers:
            renderer.close()

    def answer(self, accept: str | None) -> Response:
        """Return the response, in the format that the request's ``Accept`` header prefers."""
        give_way.renew()
        give_way()
        chosen = negotiation.choose_format(accept)
        return Response(200, self._bodies(chosen), chosen.content_type)

    def _rendered(self, chosen: negotiation.Format) -> bytes:
        start_ns = monotonic_ns()
        records = DEFAULT_IMPLEMENTATION.new_records()
        snapshot, facts = self._source(records)
        if facts.detail:
            snapshot = self._condensed(snapshot, records, facts.detail)
        give_way()
        facts = facts._replace(scrape_ns=self._previous_ns)
        body = DEFAULT_IMPLEMENTATION.join(self._slices[chosen](snapshot, facts, records=records))
        if records is not None:
            records.release()
        give_way()
        self._previous_ns = monotonic_ns() - start_ns
        return body

    def _condensed(self, snapshot: Snapshot, records: Records | None, count: int) -> Snapshot:
        """Return the snapshot with ``count`` yield points and the sums of the others.

        They may be in the records.
        """
        if self._detail.count != count:
            self._detail = Detail(count)
        if records is not None and not records.declined:
            if self._detail.fold(records):
                return snapshot
            snapshot, _ = self._source(None)
        layout = None if records is None else records.layout
        return replace(
            snapshot, yield_points=self._detail.of(snapshot.yield_points, layout, give_way)
        )
