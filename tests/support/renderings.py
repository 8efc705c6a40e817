"""What both renderers make of the same pages."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import NamedTuple

from aiometrics.exposition.constant_labels import ConstantLabels
from aiometrics.exposition.detail import Detail
from aiometrics.exposition.families import ExporterInfo
from aiometrics.exposition.protobuf import ProtobufRenderer
from aiometrics.exposition.text import OPENMETRICS, TEXT, Renderer
from aiometrics.pages.header import Buffer, parse_header
from aiometrics.pages.merge import merged
from aiometrics.pages.reader import read
from aiometrics.pages.records import Records
from aiometrics.recorder.implementation import IMPLEMENTATIONS

LABELS = ConstantLabels(("service", "zone"), ("shop", 'a"b'), on_series=True)
INFO = ExporterInfo("1.2.3", "python", "descriptors", labels=LABELS)


class Copied(NamedTuple):
    """A copy of a page, and whether a process writes it."""

    data: Buffer
    alive: bool = True


class Rendered(NamedTuple):
    """All formats, and whether the records were written by the C core."""

    formats: tuple[bytes, ...]
    compiled: bool


def _raise(error: Exception) -> None:
    raise error


def rendered(
    pages: Iterable[Copied],
    now_ns: int,
    unix_ns: int,
    records: Records | None = None,
    detail: Detail | None = None,
) -> Rendered:
    """Render pages in all formats. Raises ``PageError`` if one of them is damaged."""
    copies = list(pages)
    views = [read(page.data, now_ns, unix_ns, alive=page.alive, records=records) for page in copies]
    if records is not None and (records.declined or (detail and not detail.fold(records))):
        return rendered(copies, now_ns, unix_ns, detail=detail)
    snapshot = merged(views, taken_ns=unix_ns, sample_ratio=1.0)
    if detail is not None and records is None:
        layout = parse_header(copies[0].data, len(copies[0].data)).layout
        snapshot = replace(snapshot, yield_points=detail.of(snapshot.yield_points, layout))
    text, protobuf = Renderer(on_error=_raise), ProtobufRenderer(on_error=_raise)
    formats = (
        *(text.slices(snapshot, INFO, form, records) for form in (TEXT, OPENMETRICS)),
        protobuf.slices(snapshot, INFO, records),
    )
    filled = records is not None and records.filled is not None
    return Rendered(tuple(map(b"".join, formats)), filled)


def rendered_in_c(
    pages: Iterable[Copied], now_ns: int, unix_ns: int, detail: Detail | None = None
) -> Rendered:
    """As :func:`rendered`, but the records are written by the C core if it takes them."""
    return rendered(pages, now_ns, unix_ns, IMPLEMENTATIONS["c"].new_records(), detail)
