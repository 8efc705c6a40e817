"""Labels of the user's own: in the information, and if asked on every series, in each format."""

from __future__ import annotations

import pytest
from prometheus_client import CollectorRegistry, Counter
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text
from support import metrics_proto
from support.samples import shop

import aiometrics
from aiometrics.exporter.session import INFO
from aiometrics.exposition.collector import SnapshotCollector
from aiometrics.exposition.constant_labels import NO_LABELS, constant_labels
from aiometrics.exposition.families import ExporterInfo
from aiometrics.exposition.protobuf import ProtobufRenderer
from aiometrics.exposition.text import OPENMETRICS, TEXT, Renderer

LABELS = {"service": "shop", "note": 'a "quoted"\\ text'}
BARE = ExporterInfo("1", "c", "direct")
Series = set[tuple[str, tuple[tuple[str, str], ...], float]]


def info(*, on_series: bool) -> ExporterInfo:
    """The information of an exporter with labels."""
    return BARE._replace(labels=constant_labels(LABELS, on_series=on_series))


def unexpected(error: Exception) -> None:
    """No collector fails here."""
    raise error


def series(families: object) -> Series:
    """All samples of families of ``prometheus_client``."""
    return {
        (sample.name, tuple(sorted(sample.labels.items())), sample.value)
        for family in families  # type: ignore[attr-defined]
        for sample in family.samples
        if sample.name != "aiometrics_series"
    }


def shown(form: str, facts: ExporterInfo) -> Series:
    """What a format shows of one snapshot."""
    if form == "collector":
        return series(SnapshotCollector(lambda: (shop(), facts)).collect())
    renderer, parse = {"text": (TEXT, parse_text), "openmetrics": (OPENMETRICS, parse_openmetrics)}[
        form
    ]
    text = b"".join(Renderer(on_error=unexpected).slices(shop(), facts, renderer))
    return series(parse(text.decode()))


@pytest.mark.parametrize("form", ["collector", "text", "openmetrics"])
def test_the_information_has_the_labels(form: str) -> None:
    """The other series are what they are without them."""
    added = shown(form, info(on_series=False)) - shown(form, BARE)
    assert {("aiometrics_service_info", tuple(sorted(LABELS.items())), 1.0)} == added
    assert set() == shown(form, BARE) - shown(form, info(on_series=False))


@pytest.mark.parametrize("form", ["collector", "text", "openmetrics"])
def test_every_series_can_have_them(form: str) -> None:
    """Once each, beside the labels that it has."""
    expected = {
        (name, tuple(sorted({**dict(labels), **LABELS}.items())), value)
        for name, labels, value in shown(form, BARE)
    } | {("aiometrics_service_info", tuple(sorted(LABELS.items())), 1.0)}
    assert expected == shown(form, info(on_series=True))


def test_series_counts_the_information_too() -> None:
    """It is one more sample."""

    def counted(facts: ExporterInfo) -> float:
        families = SnapshotCollector(lambda: (shop(), facts)).collect()
        (only,) = (family for family in families if family.name == "aiometrics_series")
        return only.samples[0].value

    assert counted(BARE) + 1 == counted(info(on_series=True))


def test_protobuf_has_them() -> None:
    """Every metric of every family."""
    renderer = ProtobufRenderer(on_error=unexpected)
    found = metrics_proto.families(b"".join(renderer.slices(shop(), info(on_series=True))))
    labels = [
        {pair.name: pair.value for pair in metric.label}
        for family in found
        for metric in family.metric
    ]
    assert labels
    assert all(LABELS.items() <= each.items() for each in labels)


@pytest.mark.parametrize("name", ["loop", "coroutine", "le", "quantile", "frames"])
def test_names_of_ours_are_refused(name: str) -> None:
    """Before anything has started; the message quotes the value and says what to do."""
    with pytest.raises(ValueError, match="labels has") as caught:
        aiometrics.start_exporter(0, "127.0.0.1", labels={name: "x"})
    assert str(caught.value) == (
        f"labels has {name!r}: 'x', but aiometrics has a label {name!r}: "
        f"choose another name, such as 'service_{name}'"
    )
    with aiometrics.start_exporter(0, "127.0.0.1"):
        pass


def test_an_exporter_shows_them_everywhere() -> None:
    """Also to a registry of the application; what that has of its own stays as it is."""
    registry = CollectorRegistry()
    Counter("orders", "Orders.", registry=registry)
    with aiometrics.start_exporter(
        0, "127.0.0.1", registry=registry, labels=LABELS, labels_on_series=True
    ) as exporter:
        assert constant_labels(LABELS, on_series=True) == exporter.info.labels
        families = list(aiometrics.Collector().collect())
    samples = [sample for family in families for sample in family.samples]
    assert samples
    assert all(LABELS.items() <= sample.labels.items() for sample in samples)
    assert NO_LABELS == INFO.labels
