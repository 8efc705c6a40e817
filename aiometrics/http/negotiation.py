"""Content negotiation of a scrape: which of our formats answers an ``Accept`` header, and whether the body may be compressed."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

_QUALITY = re.compile(r"0(\.[0-9]*)?|1(\.0*)?")
#: Elements of a header that are looked at. Scrapers send five; a head that is full of them is as much work as a page.
_MAX_ELEMENTS = 32


@dataclass(frozen=True, slots=True)
class Format:
    """An exposition format: its media type, its version, and the ``Content-Type`` that announces it."""

    media_type: str
    version: str
    content_type: str


TEXT = Format("text/plain", "0.0.4", "text/plain; version=0.0.4; charset=utf-8")
#: Every name in our answers is a legacy name, or escaped to one with underscores. Scrapers that can read more are told so.
OPENMETRICS = Format(
    "application/openmetrics-text",
    "1.0.0",
    "application/openmetrics-text; version=1.0.0; charset=utf-8; escaping=underscores",
)


@dataclass(frozen=True, slots=True)
class _Choice:
    """One element of a header: what it names, its parameters without ``q``, and its quality from 0 to 1."""

    name: str
    parameters: Mapping[str, str]
    quality: float


def choose_format(accept: str | None) -> Format:
    """The format that answers ``accept``, by quality values; the most specific range decides for each format.

    OpenMetrics is chosen where the client wants it more than text, or as much and by name: a browser or curl (``*/*``) gets text.
    An absent, malformed or unsatisfiable header gets text 0.0.4 too, as scrapers expect. Never raises.
    """
    choices = list(_choices(accept or ""))
    text, _ = _preference(TEXT, choices)
    openmetrics, by_name = _preference(OPENMETRICS, choices)
    wanted_more = openmetrics > text
    wanted_as_much = by_name and openmetrics == text > 0
    return OPENMETRICS if wanted_more or wanted_as_much else TEXT


def accepts_gzip(accept_encoding: str | None) -> bool:
    """Whether a body may be sent with gzip: it is accepted, and not less welcome than the plain body. Never raises."""
    qualities = {choice.name: choice.quality for choice in _choices(accept_encoding or "")}
    gzip = qualities.get("gzip", qualities.get("x-gzip", qualities.get("*", 0.0)))
    return gzip > 0 and gzip >= qualities.get("identity", 0.0)


def _choices(header: str) -> Iterator[_Choice]:
    """The well-formed elements of a header; one that is malformed is left out, for it says nothing we could rely on."""
    for element in header.lower().split(",", _MAX_ELEMENTS)[:_MAX_ELEMENTS]:
        name, *fields = (part.strip() for part in element.split(";"))
        parameters = {
            key.strip(): value.strip().strip('"')
            for key, _, value in (field.partition("=") for field in fields)
        }
        quality = parameters.pop("q", "1")
        if name and _QUALITY.fullmatch(quality):
            yield _Choice(name, parameters, float(quality))


def _preference(offer: Format, choices: list[_Choice]) -> tuple[float, bool]:
    """The quality that the most specific of ``choices`` gives to ``offer``, and whether that one names its media type."""
    rated = [
        (specificity, choice.quality)
        for choice in choices
        if (specificity := _specificity(offer, choice))
    ]
    specificity, quality = max(rated, default=(0, 0.0))
    return quality, specificity >= _NAMED


_NAMED = 3


def _specificity(offer: Format, choice: _Choice) -> int:
    """How closely ``choice`` describes ``offer``: 0 not at all, 1 ``*/*``, 2 ``type/*``, 3 the media type, 4 its version too.

    Only the version tells formats of one media type apart. Other parameters (``charset``, ``escaping``) do not change which bytes we
    send.
    """
    if choice.name == "*/*":
        return 1
    if choice.name == offer.media_type.partition("/")[0] + "/*":
        return 2
    if choice.name != offer.media_type:
        return 0
    if "version" not in choice.parameters:
        return _NAMED
    return 4 if choice.parameters["version"] == offer.version else 0
