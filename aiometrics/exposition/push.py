"""Delivers the metrics of a job to a Pushgateway, or to a file that node_exporter reads."""

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

#: Sends a request of ``prometheus_client`` to a gateway, with credentials if it needs any; see its
#: ``basic_auth_handler``.
Handler = Callable[..., Callable[[], None]]

#: How much of a gateway's refusal is quoted: enough for the sentence that says why.
_REASON_BYTES = 500
_LABEL = re.compile(r"(?!__)[A-Za-z_][A-Za-z0-9_]*")


class Destination(Protocol):
    """Receives the metric families of a job that has ended."""

    def deliver(self, families: Collector) -> None:
        """Deliver the families. Raises ``OSError`` if they do not arrive."""


class Pushgateway:
    """A group of metrics at a Pushgateway, which each delivery replaces as a whole.

    ``labels`` identify the group and include ``job``. ``timeout`` limits each wait for the network,
    in seconds. Raises ``TypeError`` or ``ValueError`` if the address cannot be right.
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
        """Push the families.

        Raises ``OSError`` if the gateway cannot be reached, refuses, or exceeds the timeout.
        """
        try:
            push_to_gateway(
                self._url,
                self._job,
                _WithoutTimestamps(families),
                self._grouping,
                self._timeout,
                self._handler,
            )
        except HTTPError as refusal:
            with refusal:
                reason = refusal.read(_REASON_BYTES).decode(errors="replace").strip()
            raise OSError(f"it answered {refusal.code} {refusal.reason}: {reason}") from None


class Textfile:
    """A file ``*.prom`` in the directory that node_exporter reads, readable for everybody.

    The directory is that of its ``--collector.textfile.directory``. ``labels`` are added to every
    sample, because node_exporter rejects two samples with the same name and labels, and it already
    has ``process_cpu_seconds_total`` and the like. Raises ``TypeError`` or ``ValueError`` if the
    path cannot be right.
    """

    def __init__(self, path: str | os.PathLike[str], labels: Mapping[str, str]) -> None:
        if not isinstance(path, str | os.PathLike):
            raise TypeError(
                "textfile must be a path such as '/var/lib/node_exporter/nightly.prom', "
                f"not {path!r}"
            )
        self._path = Path(path)
        if self._path.suffix != ".prom":
            raise ValueError(
                "textfile must end in .prom, or node_exporter does not read it: "
                f"{os.fspath(path)!r}"
            )
        self._labels = dict(labels)

    def __str__(self) -> str:
        return f"the textfile {self._path}"

    def deliver(self, families: Collector) -> None:
        """Replace the file at once, so that no reader sees it half written.

        Raises ``OSError`` if it cannot be written.
        """
        text = generate_latest(_WithoutTimestamps(families, self._labels))
        descriptor, name = tempfile.mkstemp(prefix=f".{self._path.name}.", dir=self._path.parent)
        temporary = Path(name)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(text)
            temporary.chmod(0o644)
            temporary.replace(self._path)
        except BaseException:
            temporary.unlink()
            raise


def checked_labels(job: str, grouping: Mapping[str, str]) -> dict[str, str]:
    """Return all labels of a group: ``job`` and those of ``grouping``.

    Raises ``TypeError`` or ``ValueError`` for an invalid label name or value.
    """
    labels: dict[Any, Any] = {**grouping, "job": job}
    if "job" in grouping:
        raise ValueError(
            "grouping must not have 'job', which is the name of the job: "
            f"leave it out of {dict(grouping)!r}"
        )
    for name, value in labels.items():
        if not isinstance(name, str) or not isinstance(value, str):
            raise TypeError(
                "job and grouping must be strings, such as job='nightly', "
                f"grouping={{'shard': '3'}}, not {name!r}: {value!r}"
            )
        if not _LABEL.fullmatch(name):
            raise ValueError(
                f"grouping has {name!r}, which is not a valid label name: use letters, digits and _"
            )
        if not value:
            raise ValueError(f"{name} must not be empty: name what the metrics belong to")
    return labels


class _WithoutTimestamps(Collector):
    """Families without timestamps, which neither destination accepts, and with extra labels."""

    def __init__(self, families: Collector, labels: Mapping[str, str] | None = None) -> None:
        self._families = families
        self._labels = labels or {}

    def collect(self) -> Iterator[PrometheusMetric]:
        for family in self._families.collect():
            copy = PrometheusMetric(family.name, family.documentation, family.type, family.unit)
            for sample in family.samples:
                copy.add_sample(sample.name, {**sample.labels, **self._labels}, sample.value)
            yield copy
