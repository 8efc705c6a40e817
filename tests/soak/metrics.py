"""A page of metrics as a client sees it: fetched over HTTP, and its samples by name and labels."""

from __future__ import annotations

import gzip
import http.client
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

OPENMETRICS = "application/openmetrics-text;version=1.0.0"
TEXT = "text/plain;version=0.0.4"
SECOND_NS = 10**9
#: Up to here a number of seconds, as a double, still says which nanosecond it is.
EXACT_NS = 2**50
_SAMPLE = re.compile(r"(\w+)(?:\{(.*)\})? (\S+)(?: #.*)?")
_LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')
_SUFFIXES = ("_total", "_bucket", "_count", "_sum")

Labels = tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Page:
    """The samples of one scrape."""

    samples: Mapping[tuple[str, Labels], float] = field(default_factory=dict)

    def rows(self, name: str, **labels: str) -> Iterator[tuple[dict[str, str], float]]:
        """Labels and value of every sample of one name that has these labels."""
        for (sample, found), value in self.samples.items():
            named = dict(found)
            if sample == name and labels.items() <= named.items():
                yield named, value

    def sum(self, name: str, **labels: str) -> float:
        """The sum of the samples of one name that have these labels."""
        return sum(value for _, value in self.rows(name, **labels))

    def by(self, label: str, name: str, **labels: str) -> dict[str, float]:
        """The same, for each value of a label."""
        sums: dict[str, float] = defaultdict(float)
        for found, value in self.rows(name, **labels):
            sums[found[label]] += value
        return dict(sums)

    def ns_by(self, label: str, name: str) -> dict[str, int]:
        """Sums of seconds, as the nanoseconds that they were made from. Raises ``OverflowError`` if they are too many to be told."""
        sums: dict[str, int] = defaultdict(int)
        for found, value in self.rows(name):
            ns = round(value * SECOND_NS)
            if ns > EXACT_NS:
                raise OverflowError(
                    f"{name}{found} is {value} s: too long to be held to the nanosecond"
                )
            sums[found[label]] += ns
        return dict(sums)

    def counters(self) -> set[str]:
        """The names of all samples that must never fall."""
        return {name for name, _ in self.samples if name.endswith(_SUFFIXES)}

    def fallen(self, earlier: Page) -> list[str]:
        """The counters that are less than they were, or gone."""
        return [
            f"{name}{dict(labels)}: {before} -> {self.samples.get((name, labels))}"
            for (name, labels), before in earlier.samples.items()
            if name.endswith(_SUFFIXES) and self.samples.get((name, labels), -1.0) < before
        ]


def parsed(text: str) -> Page:
    """A page in either format. Raises ``ValueError`` for a line that is no sample."""
    samples = {}
    for line in text.splitlines():
        if line.startswith("#"):
            continue
        found = _SAMPLE.fullmatch(line)
        if found is None:
            raise ValueError(f"no sample: {line!r}")
        name, labels, value = found.groups()
        samples[name, tuple(_LABEL.findall(labels or ""))] = float(value)
    return Page(samples)


def fetch(
    port: int, *, accept: str = OPENMETRICS, compressed: bool = False, timeout: float = 10.0
) -> Page:
    """What a port of this machine shows now. Raises ``OSError`` or ``HTTPException`` if it does not answer as it should."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout)
    try:
        connection.request(
            "GET",
            "/metrics",
            headers={"Accept": accept, "Accept-Encoding": "gzip" if compressed else "identity"},
        )
        answer = connection.getresponse()
        body = answer.read()
    finally:
        connection.close()
    if answer.status != http.client.OK:
        raise http.client.HTTPException(f"/metrics answered {answer.status}")
    return parsed((gzip.decompress(body) if compressed else body).decode())
