"""Where metrics go that nobody scrapes: to a Pushgateway, or into a file that node_exporter reads."""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol
from urllib.error import HTTPError

from prometheus_client import Metric as PrometheusMetric
from prometheus_client import generate_latest
from prometheus_client.exposition import default_handler, push_to_gateway
from prometheus_client.registry import Collector

#: How ``prometheus_client`` speaks to a gateway, which is also where its credentials are: ``basic_auth_handler`` and its like.
Handler = Callable[..., Callable[[], None]]

#: Of the answer of a gateway that refuses: enough for the sentence that says why.
_REASON_BYTES = 500
_LABEL = re.compile(r"(?!__)[A-Za-z_][A-Za-z0-9_]*")


class Destination(Protocol):
    """Takes the families of a job that is over."""

    def deliver(self, families: Collector) -> None:
        """Hand them over; raises ``OSError`` if they do not arrive."""


class Pushgateway:
    """The group of ``labels``, ``job`` among them, at a Pushgateway, replaced as a whole at each delivery.

    ``timeout`` bounds each wait for the network, in seconds. Raises ``TypeError`` or ``ValueError`` if the address cannot be right.
    """

    def __init__(
        self,
        url: str,
        labels: Mapping[str, str],
        *,
        timeout: float,
        handler: Handler = default_handler,
    ) -> None:
        if not isinstance(url, str):
            raise TypeError(
                f"gateway must be an address such as 'http://pushgateway:9091', not {url!r}"
            )
        if not re.fullmatch(r"(https?://)?[^/\s:]+(:[0-9]+)?(/\S*)?", url):
            raise ValueError(
                f"gateway must be an address such as 'http://pushgateway:9091', not {url!r}"
            )
        self._url = url
        self._job = labels["job"]
        self._grouping = {name: value for name, value in labels.items() if name != "job"}
        self._timeout = timeout
        self._handler = handler

    def __str__(self) -> str:
        return f"the Pushgateway at {self._url}"

    def deliver(self, families: Collector) -> None:
        """Push; raises ``OSError`` if the gateway cannot be reached, refuses, or is slower than the timeout."""
        try:
            push_to_gateway(
                self._url, self._job, _Plain(families), self._grouping, self._timeout, self._handler
            )
        except HTTPError as refusal:
            with refusal:
                reason = refusal.read(_REASON_BYTES).decode(errors="replace").strip()
            raise OSError(f"it answered {refusal.code} {refusal.reason}: {reason}") from None


class Textfile:
    """A file ``*.prom`` in the directory that node_exporter reads (``--collector.textfile.directory``), readable for everybody.

    ``labels`` are added to every sample: node_exporter refuses to show two samples with one name and the same labels, and it has
    ``process_cpu_seconds_total`` and its like already. Raises ``TypeError`` or ``ValueError`` if the path cannot be right.
    """

    def __init__(self, path: str | os.PathLike[str], labels: Mapping[str, str]) -> None:
        if not isinstance(path, str | os.PathLike):
            raise TypeError(
                f"textfile must be a path such as '/var/lib/node_exporter/nightly.prom', not {path!r}"
            )
        self._path = Path(path)
        if self._path.suffix != ".prom":
            raise ValueError(
                f"textfile must end in .prom, or node_exporter does not read it: {os.fspath(path)!r}"
            )
        self._labels = dict(labels)

    def __str__(self) -> str:
        return f"the textfile {self._path}"

    def deliver(self, families: Collector) -> None:
        """Replace the file, which is never seen half written; raises ``OSError`` if it cannot be written."""
        page = generate_latest(_Plain(families, self._labels))
        descriptor, name = tempfile.mkstemp(prefix=f".{self._path.name}.", dir=self._path.parent)
        temporary = Path(name)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(page)
            temporary.chmod(0o644)
            temporary.replace(self._path)
        except BaseException:
            temporary.unlink()
            raise


def checked_labels(job: str, grouping: Mapping[str, str]) -> dict[str, str]:
    """All labels of a group: ``job`` and those of ``grouping``.

    Raises ``TypeError`` or ``ValueError`` for what is no name of a label, or no text.
    """
    labels: dict[Any, Any] = {**grouping, "job": job}
    if "job" in grouping:
        raise ValueError(
            f"grouping must not have 'job', which the job's own name is: {dict(grouping)!r}"
        )
    for name, value in labels.items():
        if not isinstance(name, str) or not isinstance(value, str):
            raise TypeError(
                f"job and grouping must be texts such as job='nightly', grouping={{'shard': '3'}}, not {name!r}: {value!r}"
            )
        if not _LABEL.fullmatch(name):
            raise ValueError(
                f"grouping has {name!r}, which is no name of a label: use letters, digits and _"
            )
        if not value:
            raise ValueError(f"{name} must not be empty: name what the metrics belong to")
    return labels


class _Plain(Collector):
    """Families without times of their samples, which neither place accepts, and with labels of their own."""

    def __init__(self, families: Collector, labels: Mapping[str, str] | None = None) -> None:
        self._families = families
        self._labels = labels or {}

    def collect(self) -> Iterator[PrometheusMetric]:
        for family in self._families.collect():
            plain = PrometheusMetric(family.name, family.documentation, family.type, family.unit)
            for sample in family.samples:
                plain.add_sample(sample.name, {**sample.labels, **self._labels}, sample.value)
            yield plain
