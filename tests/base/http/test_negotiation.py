"""Content negotiation: which format and encoding answer which headers."""

from __future__ import annotations

import pytest

from aiometrics.base.http.negotiation import (
    OPENMETRICS,
    OPENMETRICS_UTF_8,
    PROTOBUF,
    TEXT,
    Format,
    accepts_gzip,
    choose_format,
)

DELIMITED = (
    "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited"
)
#: As Prometheus 2.42 sends it, by default and with --enable-feature=native-histograms.
PROMETHEUS_2 = (
    "application/openmetrics-text;version=1.0.0,"
    "application/openmetrics-text;version=0.0.1;q=0.75,text/plain;version=0.0.4;q=0.5,*/*;q=0.1"
)
PROMETHEUS_2_PROTOBUF = (
    f"{DELIMITED},application/openmetrics-text;version=1.0.0;q=0.8,"
    "application/openmetrics-text;version=0.0.1;q=0.75,text/plain;version=0.0.4;q=0.5,*/*;q=0.1"
)
#: As Prometheus 3 sends it: in its own order, and with text formats first in scrape_protocols.
PROMETHEUS_3 = (
    "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,"
    "application/openmetrics-text;version=0.0.1;q=0.5,"
    "text/plain;version=1.0.0;escaping=allow-utf-8;q=0.4,text/plain;version=0.0.4;q=0.3,*/*;q=0.2"
)
PROMETHEUS_3_PROTOBUF = f"{DELIMITED};q=0.7,{PROMETHEUS_3}"
PROMETHEUS_3_TEXT_FIRST = (
    "text/plain;version=1.0.0;escaping=allow-utf-8;q=0.6,text/plain;version=0.0.4;q=0.5,"
    "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.4,*/*;q=0.3"
)
#: From before OpenMetrics 1.0.0.
PROMETHEUS_2_30 = (
    "application/openmetrics-text; version=0.0.1,text/plain;version=0.0.4;q=0.5,*/*;q=0.1"
)
BROWSER = "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8"


@pytest.mark.parametrize(
    ("accept", "expected"),
    [
        pytest.param(PROMETHEUS_2, OPENMETRICS, id="Prometheus 2.42"),
        pytest.param(PROMETHEUS_2_PROTOBUF, PROTOBUF, id="Prometheus 2.42, protobuf first"),
        pytest.param(PROMETHEUS_3, OPENMETRICS_UTF_8, id="Prometheus 3"),
        pytest.param(PROMETHEUS_3_PROTOBUF, PROTOBUF, id="Prometheus 3, protobuf first"),
        pytest.param(PROMETHEUS_3_TEXT_FIRST, TEXT, id="Prometheus 3, text first"),
        pytest.param(PROMETHEUS_2_30, TEXT, id="Prometheus 2.30"),
        pytest.param(BROWSER, TEXT, id="browser"),
        pytest.param("*/*", TEXT, id="curl"),
    ],
)
def test_headers_of_real_clients(accept: str, expected: Format) -> None:
    """The headers of real clients are answered with the format they prefer among ours."""
    assert expected == choose_format(accept)


@pytest.mark.parametrize(
    ("accept", "expected"),
    [
        ("text/plain", TEXT),
        ("text/plain;version=0.0.4", TEXT),
        ("application/openmetrics-text", OPENMETRICS),
        ("application/openmetrics-text;version=1.0.0", OPENMETRICS),
        ('Application/OpenMetrics-Text ; Version="1.0.0" ; Q=0.5', OPENMETRICS),
        ("application/*", OPENMETRICS),
        ("text/*", TEXT),
        ("text/plain;q=0.5,application/openmetrics-text;q=0.4", TEXT),
        ("text/plain;q=0.4,application/openmetrics-text;q=0.5", OPENMETRICS),
        ("text/plain;q=0.4,*/*", OPENMETRICS),
        ("application/openmetrics-text;q=0.4,*/*;q=0.5", TEXT),
    ],
)
def test_quality_decides(accept: str, expected: Format) -> None:
    """The format with the higher quality wins, wherever and however it is written."""
    assert expected == choose_format(accept)


@pytest.mark.parametrize(
    ("accept", "expected"),
    [
        ("text/plain,application/openmetrics-text", OPENMETRICS),
        ("application/openmetrics-text,*/*", OPENMETRICS),
        ("application/*,text/*", TEXT),
        ("application/*;q=0.3,*/*;q=0.3", TEXT),
    ],
)
def test_on_a_tie_openmetrics_must_be_named(accept: str, expected: Format) -> None:
    """With equal quality, only a client that names OpenMetrics gets it."""
    assert expected == choose_format(accept)


@pytest.mark.parametrize(
    ("accept", "expected"),
    [
        (f"text/plain,application/openmetrics-text,{DELIMITED}", PROTOBUF),
        (f"{DELIMITED};q=0.5,*/*;q=0.5", PROTOBUF),
        (DELIMITED.replace(";", " ; "), PROTOBUF),
        ("application/vnd.google.protobuf", PROTOBUF),
        (f"{DELIMITED};q=0.5,application/openmetrics-text;q=0.6", OPENMETRICS),
        (f"{DELIMITED};q=0.5,text/plain", TEXT),
        ("application/*,text/plain;q=0.5", OPENMETRICS),
    ],
)
def test_protobuf_must_be_named(accept: str, expected: Format) -> None:
    """Only what can read it gets it, and that gets it on a tie."""
    assert expected == choose_format(accept)


@pytest.mark.parametrize(
    ("accept", "expected"),
    [
        (
            "application/openmetrics-text;version=1.0.0;q=0.2,application/openmetrics-text,text/plain;q=0.5",
            TEXT,
        ),
        ("application/openmetrics-text;q=0,*/*", TEXT),
        ("text/plain;q=0,*/*;q=0.1", OPENMETRICS),
        ("text/*;q=0.1,*/*", OPENMETRICS),
    ],
)
def test_the_most_specific_range_decides(accept: str, expected: Format) -> None:
    """A format's quality is that of its most specific range, not the best one."""
    assert expected == choose_format(accept)


@pytest.mark.parametrize(
    "accept",
    [
        None,
        "",
        ",",
        ";",
        "/;q=0.1",
        "application/openmetrics-text;q=2",
        "application/openmetrics-text;q=nan",
        "application/openmetrics-text;q=-1",
        "application/openmetrics-text;q=",
        "application/openmetrics-text;q=0",
        "application/openmetrics-text;version=2.0.0",
        "application/openmetrics-text;version",
        "text/plain;version=1.0.0",
        "application/json",
        DELIMITED.replace("delimited", "text"),
        DELIMITED.replace("MetricFamily", "Metric"),
        f"{DELIMITED};q=0",
        "\xff\x00=;;,,=",
    ],
)
def test_an_unsatisfiable_header_gets_text(accept: str | None) -> None:
    """An absent, malformed or unsatisfiable header is answered with text 0.0.4, not an error."""
    assert choose_format(accept) == TEXT


def test_a_malformed_element_does_not_spoil_the_rest() -> None:
    """A malformed element is ignored, and the others count."""
    assert (
        choose_format("text/plain;q=high,/;q=0.9,application/openmetrics-text;q=0.1") == OPENMETRICS
    )


@pytest.mark.parametrize(("before", "expected"), [(31, OPENMETRICS), (32, TEXT)])
def test_the_number_of_parsed_elements_is_limited(before: int, expected: Format) -> None:
    """The limit is far above what scrapers send: a full head must not cost as much as a scrape."""
    assert expected == choose_format("a/b," * before + "application/openmetrics-text")
    assert (expected is OPENMETRICS) == accepts_gzip("br," * before + "gzip")


def test_content_types() -> None:
    """Each format announces media type and what defines it, and how it escapes names."""
    assert TEXT.content_type == "text/plain; version=0.0.4; charset=utf-8"
    assert (
        OPENMETRICS.content_type
        == "application/openmetrics-text; version=1.0.0; charset=utf-8; escaping=underscores"
    )
    assert PROTOBUF.content_type == (
        "application/vnd.google.protobuf; proto=io.prometheus.client.MetricFamily; "
        "encoding=delimited; escaping=underscores"
    )


@pytest.mark.parametrize(
    ("accept_encoding", "expected"),
    [
        ("gzip", True),
        ("GZIP", True),
        ("x-gzip", True),
        ("gzip, deflate, br, zstd", True),
        ("br;q=1.0, gzip;q=0.5", True),
        ("*", True),
        ("gzip;q=0.001", True),
        ("identity;q=0.5, gzip", True),
        ("identity, gzip", True),
        (None, False),
        ("", False),
        ("identity", False),
        ("deflate", False),
        ("gzip;q=0", False),
        ("gzip;q=0, *", False),
        ("*;q=0", False),
        ("gzip;q=yes", False),
        ("identity, gzip;q=0.5", False),
    ],
)
def test_gzip(accept_encoding: str | None, expected: bool) -> None:  # noqa: FBT001 - a table's column
    """A body is compressed if the client accepts gzip and does not prefer the plain body."""
    assert expected == accepts_gzip(accept_encoding)
