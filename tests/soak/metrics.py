"""Metrics as a client sees them: fetched over HTTP, with samples by name and labels."""

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
#: Up to this many nanoseconds, a number of seconds in a double is exact to the nanosecond.
EXACT_NS = 2**50
_SAMPLE = re.compile(r"(\w+)(?:\{(.*)\})? (\S+)(?: #.*)?")
_LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')
_SUFFIXES = ("_total", "_bucket", "_count", "_sum")

Labels = tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Exposition:
    """The samples of one scrape."""

    samples: Mapping[tuple[str, Labels], float] = field(default_factory=dict)

    def rows(self, name: str, **labels: str) -> Iterator[tuple[dict[str, str], float]]:
        """Yield labels and value of every sample with this name and these labels."""
        for (sample, found), value in self.samples.items():
            named = dict(found)
            if sample == name and labels.items() <= named.items():
                yield named, value

    def sum(self, name: str, **labels: str) -> float:
        """Return the sum of the samples with this name and these labels."""
        return sum(value for _, value in self.rows(name, **labels))

    def by(self, label: str, name: str, **labels: str) -> dict[str, float]:
        """Return the same sum for each value of ``label``."""
        sums: dict[str, float] = defaultdict(float)
        for found, value in self.rows(name, **labels):
            sums[found[label]] += value
        return dict(sums)

    def ns_by(self, label: str, name: str) -> dict[str, int]:
        """Return sums of seconds as the nanoseconds that they were made from.

        Raises ``OverflowError`` if a value is too large to be exact.
        """
        sums: dict[str, int] = defaultdict(int)
        for found, value in self.rows(name):
            ns = round(value * SECOND_NS)
            if ns > EXACT_NS:
                raise OverflowError(
                    f"{name}{found} is {value} s: too large to be exact to the nanosecond"
                )
            sums[found[label]] += ns
        return dict(sums)

    def counters(self) -> set[str]:
        """Return the names of all samples that must never fall."""
        return {name for name, _ in self.samples if name.endswith(_SUFFIXES)}

    def fallen(self, earlier: Exposition) -> list[str]:
        """Return a line for each counter that is smaller than in ``earlier`` or missing."""
        return [
            f"{name}{dict(labels)}: {before} -> {self.samples.get((name, labels))}"
            for (name, labels), before in earlier.samples.items()
            if name.endswith(_SUFFIXES) and self.samples.get((name, labels), -1.0) < before
        ]


def parsed(text: str) -> Exposition:
    """Parse either text format. Raises ``ValueError`` for a line that is not a sample."""
    samples = {}
    for line in text.splitlines():
        if line.startswith("#"):
            continue
        found = _SAMPLE.fullmatch(line)
        if found is None:
            raise ValueError(f"not a sample: {line!r}")
        name, labels, value = found.groups()
        samples[name, tuple(_LABEL.findall(labels or ""))] = float(value)
    return Exposition(samples)


def fetch(
    port: int, *, accept: str = OPENMETRICS, compressed: bool = False, timeout: float = 60.0
) -> Exposition:
    """Scrape a port of this machine.

    Raises ``OSError`` or ``HTTPException`` if the answer is not as it should be.
    """
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
