"""Metrics of a program that ends before it is scraped: delivered once, at its end.

>>> with aiometrics.start_job("nightly", gateway="http://pushgateway:9091"):  # doctest: +SKIP
...     asyncio.run(main())
"""

from __future__ import annotations

import atexit
import logging
import os
import threading
from collections.abc import Iterator, Mapping, Sequence
from typing import Self

from prometheus_client import REGISTRY, CollectorRegistry
from prometheus_client import Metric as PrometheusMetric
from prometheus_client.exposition import default_handler
from prometheus_client.registry import Collector as PrometheusCollector

from aiometrics.base.internal_errors import STAYS_ON
from aiometrics.base.unpatched import Flag, getpid, start_thread
from aiometrics.exporter.session import INFO, Session, start_session
from aiometrics.exposition import metrics
from aiometrics.exposition.collector import ApplicationMetrics, SnapshotCollector
from aiometrics.exposition.push import Destination, Handler, Pushgateway, Textfile, checked_labels

PROBE = "delivery"
logger = logging.getLogger("aiometrics")

#: Gauges that stay true after the job is over. The last values of all others would be shown for
#: ever, and look like a hung loop.
_LASTING = frozenset(
    metric.family
    for metric in (
        metrics.BUILD_INFO,
        metrics.SAMPLE_RATIO,
        metrics.REQUEST_OBJECTIVE_SECONDS,
        metrics.SEGMENT_MAX_SECONDS,
        metrics.WAIT_MAX_SECONDS,
    )
)
_MOMENTARY = (
    frozenset(metric.family for metric in metrics.METRICS if metric.kind == "gauge") - _LASTING
)


class Job:
    """A traced job whose metrics are delivered at its end.

    Made by :func:`start_job`; a context manager that finishes it.
    """

    def __init__(
        self,
        name: str,
        session: Session,
        *,
        owns_session: bool,
        destinations: Sequence[Destination],
        registry: CollectorRegistry | None,
        timeout: float,
    ) -> None:
        self.name = name
        self._session = session
        self._owns_session = owns_session
        self._destinations = destinations
        self._registry = registry
        self._timeout = timeout
        self._pid = getpid()
        #: The error of each destination that was tried; ``None`` if it succeeded.
        self._errors: dict[Destination, Exception | None] = {}
        self._finished = Flag()
        self._lock = threading.Lock()
        # Only a thread bounds the time of a name lookup. It starts now, because an interpreter that
        # shuts down starts no threads.
        self._delivery_thread = start_thread(self._deliver, "aiometrics-delivery")

    def __repr__(self) -> str:
        return f"<Job {self.name!r} for {', '.join(map(str, self._destinations))}>"

    def finish(self) -> None:
        """Deliver the metrics and stop tracing, unless an exporter goes on. Idempotent.

        Called when the interpreter exits, if not before. It takes no longer than the timeout and
        never raises: failed deliveries are logged. In a forked child it does nothing, because the
        child's numbers are not the job's.
        """
        if self._pid != getpid():
            return
        with self._lock:
            if self._finished.is_set():
                return
            self._finished.set()
        atexit.unregister(self.finish)
        self._delivery_thread.join(self._timeout)
        errors = dict(self._errors)
        for destination in self._destinations:
            error = errors.get(destination, f"it took more than {self._timeout:g} s")
            if error is not None:
                logger.warning(
                    "aiometrics: the metrics of job %r did not reach %s, "
                    "the job is not affected: %s",
                    self.name,
                    destination,
                    error,
                )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.finish()

    def _deliver(self) -> None:
        self._finished.wait()
        try:
            if self._owns_session:
                self._session.stop()
            families = _FinalCollector(self._session, self._registry)
        except Exception as error:  # noqa: BLE001 - no error here may harm the job
            self._session.internal_errors.report(PROBE, error, STAYS_ON)
            self._errors = dict.fromkeys(self._destinations)
            return
        for destination in self._destinations:
            self._errors[destination] = _attempt(destination, families)


def start_job(
    name: str,
    *,
    gateway: str | None = None,
    textfile: str | os.PathLike[str] | None = None,
    grouping: Mapping[str, str] | None = None,
    registry: CollectorRegistry | None = REGISTRY,
    timeout: float = 10.0,
    handler: Handler = default_handler,
) -> Job:
    """Trace every task from now on, and deliver the metrics when the job is over.

    It is over when its ``with`` block is left, or when the interpreter exits. For programs that end
    before they are scraped. Call it before the loop exists or inside it:

    ``name``
        The job's name: the label ``job`` of every series.
    ``gateway``
        The Pushgateway, such as ``"http://pushgateway:9091"``; the default is
        ``AIOMETRICS_GATEWAY``. Everything that an earlier run pushed is replaced.
    ``textfile``
        A path ending in ``.prom`` in the directory from which node_exporter reads; the default is
        ``AIOMETRICS_TEXTFILE``. The file is replaced as a whole, and is readable for everybody.
    ``grouping``
        Further labels that distinguish this job's series from others, such as
        ``{"instance": socket.gethostname()}`` if several hosts run it at a time.
    ``registry``
        The application's ``prometheus_client`` registry, which is delivered too; ``None`` for our
        metrics alone.
    ``timeout``
        The number of seconds that the end of the job may wait for the delivery: 10.
    ``handler``
        As in ``prometheus_client.push_to_gateway``: how to connect to a gateway that asks for a
        password or a certificate.

    Gauges of the moment (live and suspended tasks, heartbeats) are not delivered. If an exporter
    runs already, the job uses it and leaves it running; otherwise options come from the
    environment. Raises ``TypeError`` or ``ValueError`` if an argument is wrong or there is no place
    to deliver to. Delivery itself never raises; its failures are logged.
    """
    labels = checked_labels(name, grouping or {})
    timeout = _checked_timeout(timeout)
    destinations = _destinations(labels, gateway, textfile, timeout=timeout, handler=handler)
    session, started = start_session()
    job = Job(
        name,
        session,
        owns_session=started,
        destinations=destinations,
        registry=registry,
        timeout=timeout,
    )
    atexit.register(job.finish)
    return job


def _attempt(destination: Destination, families: PrometheusCollector) -> Exception | None:
    try:
        destination.deliver(families)
    except Exception as error:  # noqa: BLE001 - networks, disks and collectors can raise anything
        return error
    return None


class _FinalCollector(PrometheusCollector):
    """The final numbers of a job, followed by its application's."""

    def __init__(self, session: Session, registry: CollectorRegistry | None) -> None:
        last = session.snapshot(), INFO
        self._ours = SnapshotCollector(lambda: last)
        self._application = (
            None
            if registry is None
            else ApplicationMetrics(
                registry,
                on_error=lambda error: session.internal_errors.report("registry", error, STAYS_ON),
            )
        )

    def collect(self) -> Iterator[PrometheusMetric]:
        yield from (family for family in self._ours.collect() if family.name not in _MOMENTARY)
        if self._application is not None:
            yield from self._application.collect()


def _destinations(
    labels: dict[str, str],
    gateway: str | None,
    textfile: str | os.PathLike[str] | None,
    *,
    timeout: float,
    handler: Handler,
) -> list[Destination]:
    """Return where to deliver to, the file first, because it takes no time."""
    gateway = gateway or os.environ.get("AIOMETRICS_GATEWAY")
    textfile = textfile or os.environ.get("AIOMETRICS_TEXTFILE")
    found: list[Destination] = []
    if textfile:
        found.append(Textfile(textfile, labels))
    if gateway:
        found.append(Pushgateway(gateway, labels, timeout=timeout, handler=handler))
    if not found:
        raise ValueError(
            f"job {labels['job']!r} has no place to deliver its metrics to: "
            "give gateway='http://pushgateway:9091' or "
            f"textfile='/var/lib/node_exporter/{labels['job']}.prom', "
            "or set AIOMETRICS_GATEWAY or AIOMETRICS_TEXTFILE"
        )
    return found


def _checked_timeout(timeout: float) -> float:
    if isinstance(timeout, bool) or not isinstance(timeout, int | float):
        raise TypeError(f"timeout must be a number of seconds, not {timeout!r}")
    if not 0 < timeout <= threading.TIMEOUT_MAX:
        raise ValueError(f"timeout must be a positive number of seconds, not {timeout!r}")
    return timeout
