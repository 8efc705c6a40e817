"""The URLs in docs/profiles.md, and those that its configuration files lead to, give profiles."""

from __future__ import annotations

import re
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from support import pprof_proto, serving

import aiometrics

#: What Alloy and Parca ask for unless they are told otherwise: the profiles of Go.
ON_BY_DEFAULT = {"process_cpu", "memory", "block", "goroutine", "mutex"}


@pytest.fixture(scope="module")
def page(root: Path) -> str:
    """The text of the page."""
    return (root / "docs/profiles.md").read_text(encoding="utf-8")


@pytest.fixture
def exporter() -> Iterator[aiometrics.Exporter]:
    """A running exporter of our metrics alone."""
    with aiometrics.start_exporter(0, "127.0.0.1", registry=None) as running:
        yield running


def fetch(exporter: aiometrics.Exporter, target: str) -> bytes:
    """Return what a client gets; an error if it is no success."""
    with urllib.request.urlopen(f"http://127.0.0.1:{exporter.port}{target}") as answer:
        body: bytes = answer.read()
    return body


def test_the_urls_answer(page: str, exporter: aiometrics.Exporter) -> None:
    """Those of the commands, with a second in place of half a minute."""
    targets = re.findall(r"'(?:http://)?\w+:9400(/[^']*)'", page)
    assert 5 == len(targets)
    for target in targets:
        assert fetch(exporter, target.replace("seconds=30", "seconds=1")) or "collapsed" in target


def test_parca_finds_profiles(page: str, exporter: aiometrics.Exporter) -> None:
    """It adds the parameter where it is told that the profile is a delta."""
    (text,) = re.findall(r"^```yaml\n(.*?)^```", page, flags=re.DOTALL | re.MULTILINE)
    (job,) = yaml.safe_load(text)["scrape_configs"]
    kinds = job["profiling_config"]["pprof_config"]
    assert set(kinds) == ON_BY_DEFAULT
    (enabled,) = (kind for kind in kinds.values() if kind["enabled"])
    assert enabled["delta"]
    pprof_proto.parse(fetch(exporter, f"{enabled['path']}?seconds=1"))


def test_alloy_finds_profiles(page: str, exporter: aiometrics.Exporter) -> None:
    """It adds its parameters to the path, asks for no other profile, and takes what is binary."""
    (text,) = re.findall(r"^```alloy\n(.*?)^```", page, flags=re.DOTALL | re.MULTILINE)
    (path,) = re.findall(r'path += "(.*)"', text)
    name, value = re.findall(r'params += \{"(\w+)" = \["(\w+)"\]\}', text)[0]
    assert set(re.findall(r"profile\.(\w+) \{ enabled = false \}", text)) == ON_BY_DEFAULT
    query = urllib.parse.urlencode({name: value})
    answer, body = serving.fetch(exporter.port, f"{path}?{query}")
    assert "application/octet-stream" == answer.headers["Content-Type"]
    pprof_proto.parse(body)
