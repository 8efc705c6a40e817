"""Content negotiation: the exposition format for an ``Accept`` header, and whether to compress."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import NamedTuple

_QUALITY = re.compile(r"0(\.[0-9]*)?|1(\.0*)?")
#: The number of a header's elements that are parsed. Scrapers send five; a head full of them would
#: be as much work as a response.
_MAX_ELEMENTS = 32

#: Headers that are remembered: a client sends the same ones again and again.
_CLIENTS = 16


class Format(NamedTuple):
    """An exposition format: its media type, the parameters that define it, its ``Content-Type``.

    The parameters are in lower case.
    """

    media_type: str
    parameters: Mapping[str, str]
    content_type: str

    def __hash__(self) -> int:
        return hash(self.content_type)


TEXT = Format("text/plain", {"version": "0.0.4"}, "text/plain; version=0.0.4; charset=utf-8")
#: Names are escaped to legacy names with underscores, unless the scraper reads others.
OPENMETRICS = Format(
    "application/openmetrics-text",
    {"version": "1.0.0"},
    "application/openmetrics-text; version=1.0.0; charset=utf-8; escaping=underscores",
)
OPENMETRICS_UTF_8 = Format(
    "application/openmetrics-text",
    {"version": "1.0.0"},
    "application/openmetrics-text; version=1.0.0; charset=utf-8; escaping=allow-utf-8",
)
#: The only format with native histograms.
PROTOBUF = Format(
    "application/vnd.google.protobuf",
    {"proto": "io.prometheus.client.metricfamily", "encoding": "delimited"},
    "application/vnd.google.protobuf; proto=io.prometheus.client.MetricFamily; "
    "encoding=delimited; escaping=underscores",
)


class _Choice(NamedTuple):
    """One element of a header: its name, parameters without ``q``, and quality from 0 to 1."""

    name: str
    parameters: Mapping[str, str]
    quality: float


@lru_cache(maxsize=_CLIENTS)
def choose_format(accept: str | None) -> Format:
    """Return the format for an ``Accept`` header, by quality; never raises.

    The most specific media range decides the quality of a format. Protobuf is chosen if the client
    names it and prefers nothing to it. OpenMetrics is chosen if the client prefers it to text, or
    likes it as much and names it: a browser or curl (``*/*``) gets text. An absent, malformed or
    unsatisfiable header gets text 0.0.4 too, as scrapers expect.
    """
    choices = list(_choices(accept or ""))
    text, _ = _preference(TEXT, choices)
    openmetrics, by_name = _preference(OPENMETRICS, choices)
    protobuf, named = _preference(PROTOBUF, choices)
    if named and protobuf >= max(text, openmetrics, _LEAST):
        return PROTOBUF
    wanted_more = openmetrics > text
    wanted_as_much = by_name and openmetrics == text > 0
    if not wanted_more and not wanted_as_much:
        return TEXT
    best = max(choices, key=lambda choice: (_specificity(OPENMETRICS, choice), choice.quality))
    utf_8 = best.parameters.get("escaping") == "allow-utf-8"
    return OPENMETRICS_UTF_8 if utf_8 else OPENMETRICS


@lru_cache(maxsize=_CLIENTS)
def accepts_gzip(accept_encoding: str | None) -> bool:
    """Whether a body may be sent with gzip; never raises.

    The client must accept gzip, and not prefer the plain body.
    """
    qualities = {choice.name: choice.quality for choice in _choices(accept_encoding or "")}
    gzip = qualities.get("gzip", qualities.get("x-gzip", qualities.get("*", 0.0)))
    return gzip > 0 and gzip >= qualities.get("identity", 0.0)


def _choices(header: str) -> Iterator[_Choice]:
    """Yield the well-formed elements of a header, without the malformed ones."""
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
    """Return the quality that the most specific choice gives to ``offer``.

    The second value says whether that choice names its media type.
    """
    rated = [
        (specificity, choice.quality)
        for choice in choices
        if (specificity := _specificity(offer, choice))
    ]
    specificity, quality = max(rated, default=(0, 0.0))
    return quality, specificity >= _NAMED


_NAMED = 3
#: The least quality with which a client accepts something.
_LEAST = 0.001


def _specificity(offer: Format, choice: _Choice) -> int:
    """Return how closely ``choice`` describes ``offer``.

    0 is not at all, 1 ``*/*``, 2 ``type/*``, 3 the media type, 4 its parameters too, such as the
    version. Any other parameter (``charset``, ``escaping``) will do.
    """
    if choice.name == "*/*":
        return 1
    if choice.name == offer.media_type.partition("/")[0] + "/*":
        return 2
    if choice.name != offer.media_type:
        return 0
    given = {name: choice.parameters.get(name) for name in offer.parameters}
    if all(value is None for value in given.values()):
        return _NAMED
    return 4 if given == offer.parameters else 0
