"""``start_exporter`` and the exporter that it returns: everything is put together here."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from contextvars import ContextVar
from dataclasses import replace
from functools import partial
from typing import Any

from prometheus_client import REGISTRY

from aiometrics.base.background import Periodic, daemon_threads_allowed
from aiometrics.base.options import Options, RecordingOptions, ServingOptions, resolve
from aiometrics.exporter.debug import tasks_route
from aiometrics.exporter.endpoints import Endpoints
from aiometrics.exporter.scrape import give_way
from aiometrics.exporter.service import Service, service_of
from aiometrics.exporter.session import (
    INFO,
    Session,
    calling_packages,
    instrumentation_for,
    new_watchers,
    process,
    with_application,
)
from aiometrics.exposition.collection import Registry
from aiometrics.exposition.collector import MultiprocessMetrics
from aiometrics.exposition.constant_labels import constant_labels
from aiometrics.instrumentation.instrumentation import Instrumentation
from aiometrics.recorder.places import main_package

PROBE = "exporter"
logger = logging.getLogger("aiometrics")


class Exporter(Session):
    """A running exporter: a traced process and the server that answers its scrapes.

    Made by :func:`start_exporter`; a context manager that stops it. Another process may have
    :attr:`port`; this one takes over when that one is gone.
    """

    def __init__(
        self,
        options: Options,
        recording: RecordingOptions,
        instrumentation: Instrumentation,
        registry: Registry | None,
        service: Service | None,
    ) -> None:
        super().__init__(recording, instrumentation)
        serving = options.serving
        self.info = INFO._replace(
            labels=constant_labels(serving.labels, on_series=serving.labels_on_series),
            detail=serving.detail or 0,
        )
        self._options = options
        self._registry = registry
        self._service = service
        self._inherited = False
        source = partial(instrumentation.snapshot, give_way)
        self._endpoints = Endpoints(
            options.serving,
            source,
            _registry_of_all_processes(registry) if self.survives_fork else registry,
            instrumentation.internal_errors,
            self.info,
            shared=bool(options.recording.directory),
            service=service,
            of_library=instrumentation.places.of_library,
            debug={"/debug/tasks": tasks_route(lambda: instrumentation.live_tasks.take, give_way)},
            lineages=lambda: instrumentation.live_tasks.lineages,
        )
        self._periodic: Periodic | None = None

    def __repr__(self) -> str:
        return f"<{type(self).__name__} at {self.url}>"

    @property
    def serving(self) -> ServingOptions:
        """The options that decide how numbers are served."""
        return self._options.serving

    @property
    def port(self) -> int:
        """The port that is served, also if 0 was asked for."""
        return self._endpoints.port

    @property
    def url(self) -> str:
        """The address of the metrics, as seen from this machine."""
        return self._endpoints.url

    def start(self) -> None:
        """Bind the port, begin to serve, then to trace; :func:`start_exporter` has called it.

        If it raises, everything is as before.
        """
        if self._service is not None:
            self._service.directory.remove_abandoned()
        refuses = self.serving.on_error == "raise"
        bound = self._endpoints.try_to_bind(or_raise=refuses)
        try:
            if not bound:
                self.instrumentation.share_pages()
            self._endpoints.start()
            self._start_periodic()
            super().start()
        except BaseException:
            self._end()
            raise

    def serves(self, options: Options, registry: Registry | None) -> bool:
        """Return whether this exporter is the one to go on when it is asked for ``options``.

        If it was started with others, it goes on with those, and a warning names them. A forked
        child may have an exporter of its own instead of what it inherited.
        """
        asked, held = options.values(), self._options.values()
        unused = [name for name, value in asked.items() if value != held[name]]
        asked, held = asked | {"registry": registry}, held | {"registry": self._registry}
        if registry is not self._registry:
            unused.append("registry")
        if unused and self._inherited:
            return False
        if unused:
            logger.warning(
                "aiometrics: the exporter at %s goes on with %s, not with %s: "
                "start it once with all options, or call its stop() before starting another",
                self.url,
                _assignments(held, unused),
                _assignments(asked, unused),
            )
        return True

    @property
    def survives_fork(self) -> bool:
        """Whether a forked child is traced as well: a shared directory gives it pages of its own.

        Without one its numbers would have nowhere to go.
        """
        return bool(self.recording.directory) or self._service is not None

    def resume_in_child(self) -> None:
        """In a forked child: trace its loops too, on pages of its own.

        Threads start with the child's first loop.
        """
        self._watchers = new_watchers(self.instrumentation, self.recording)
        self._periodic = None
        self._inherited = True
        self.instrumentation.on_loop = self._start_threads
        try:
            self.instrumentation.instrument_every_loop()
        except Exception as error:  # noqa: BLE001 - never the application's problem
            self.internal_errors.report(PROBE, error)

    def _start_threads(self) -> None:
        self.instrumentation.on_loop = _do_nothing
        for watcher in self._watchers:
            watcher.start()
        self._start_periodic()

    def _start_periodic(self) -> None:
        if not self._endpoints.bound or self.instrumentation.shares_pages:
            # The port may become free at any time, and other processes read our pages.
            self._periodic = Periodic(
                self.internal_errors, self.instrumentation.maintain, self._endpoints.take_over
            )
            self._periodic.start()

    def _end(self) -> None:
        if self._periodic is not None:
            self._periodic.stop()
        self._endpoints.close()
        super()._end()


def start_exporter(
    port: int | None = None,
    addr: str | None = None,
    *,
    registry: Registry | None = REGISTRY,
    web_config: str | os.PathLike[str] | None = None,
    segment_buckets: Iterable[float] | None = None,
    wait_buckets: Iterable[float] | None = None,
    native_histograms: bool | None = None,
    blocking_threshold: float | None = None,
    sample: float | None = None,
    max_yield_points: int | None = None,
    max_coroutines: int | None = None,
    max_loops: int | None = None,
    max_requests: int | None = None,
    objectives: Mapping[str, float] | None = None,
    request_id: ContextVar[Any] | None = None,
    slow_request: float | None = None,
    application: Sequence[str] | None = None,
    library: Sequence[str] | None = None,
    include: Sequence[str] | None = None,
    exclude: Sequence[str] | None = None,
    patient: Sequence[str] | None = None,
    request_timeout: float | None = None,
    max_connections: int | None = None,
    on_error: str | None = None,
    labels: Mapping[str, str] | None = None,
    labels_on_series: bool | None = None,
    detail: int | None = None,
    watchdog: bool | None = None,
    watchdog_interval: float | None = None,
    sample_interval: float | None = None,
    directory: str | os.PathLike[str] | None = None,
) -> Exporter:
    """Trace all tasks that event loops of this process create from now on, and serve ``/metrics``.

    Call it before the loop exists or inside it. An option that is not given is taken from the
    environment (``AIOMETRICS_PORT`` and so on), then from its default:

    ``port``, ``addr``
        Where to serve: 9400 on ``"0.0.0.0"``. Port 0 takes any free one.
    ``registry``
        The application's ``prometheus_client`` registry, whose metrics follow ours in each
        response; ``None`` for ours alone.
    ``web_config``
        A file that asks for TLS, client certificates or passwords, in the format of Prometheus's
        exporter-toolkit; it needs the extra ``web``.
    ``segment_buckets``, ``wait_buckets``
        Bucket bounds in seconds: of segments and delays, and of waits and tasks.
    ``native_histograms``
        False leaves out native histograms, which Prometheus gets if it asks for them beside those
        with buckets; without them a loop needs 0.8 instead of 4.5 MB.
    ``blocking_threshold``
        Seconds from which on a segment counts as blocking: 0.1, as asyncio's
        ``slow_callback_duration``.
    ``sample``
        1 traces every task, 1/N one task in N, each of which then counts N times.
    ``max_yield_points``, ``max_coroutines``
        Room for names, 1000 and 256 per loop; names beyond that are counted as ``(other)``.
    ``max_loops``
        The number of loops that are traced at a time: 16.
    ``max_requests``
        Room for types of requests, 100 per loop; see :class:`aiometrics.request`.
    ``objectives``
        Wall seconds that requests of a type may take, by type.
    ``request_id``
        A context variable of the application that holds the id of the request, for scopes that are
        given none.
    ``slow_request``
        Wall seconds from which on a request whose type has no objective is logged to
        ``aiometrics.slow_requests``. Requests that exceed their objective are always logged.
    ``application``, ``library``
        Module prefixes that count as the application, or as a library, wherever their files are.
    ``include``, ``exclude``
        Names of coroutines that have rows of their own (all), and of those that have none (none),
        such as ``["shop.jobs.*"]``; ``*`` stands for anything. The others are in ``(other)``.
    ``patient``
        Names of coroutines, of functions that await, or of what is awaited, on purpose (none), such
        as ``["shop.chat.*", "starlette.WebSocket.receive*"]``: however long they wait, they are not
        stuck.
    ``request_timeout``, ``max_connections``
        Seconds for one request and its response (10), and the number of connections that are
        served at a time (16).
    ``on_error``
        What to do if another program has the port: ``"retry"`` logs a warning, traces meanwhile,
        and tries again every second, so that the service comes up as it would without an exporter;
        ``"raise"`` raises ``OSError``.
    ``labels``, ``labels_on_series``
        Labels of your own, such as ``{"service": "shop", "version": "1.4"}``, for the metric
        ``aiometrics_service_info``, and if the second is true for all series of aiometrics.
    ``detail``
        How many yield points have rows of their own in ``/metrics`` (all): those with the most loop
        time. The others are summed up for each coroutine, as ``(other)``.
    ``watchdog``, ``watchdog_interval``
        Whether a thread looks for the lines that block a loop (yes), and the number of seconds
        between two looks (0.05).
    ``sample_interval``
        Seconds between two samples of which line holds a loop, on average (0.01); 0 for none.
    ``directory``
        Where all processes of the service keep their pages, such as ``"/run/aiometrics"``
        (``AIOMETRICS_DIR``). One of them has the port and answers for all; when it is gone,
        another takes over. Forked children are traced too. The directory must belong to the
        service alone. On Linux, processes that descend from one supervisor and were given one port
        do all this without it, in a directory of their own, unless the port is 0.

    If an exporter runs already, that one is returned, and options that it was not started with are
    named in a warning. In a sub-interpreter that allows no daemon threads nothing is traced, which
    is logged too.

    Raises ``TypeError`` or ``ValueError`` if an option or the file ``web_config`` is wrong,
    ``ModuleNotFoundError`` if a package is missing for the latter, ``OSError`` if the address is
    not of this machine or the directory cannot be used, and ``RuntimeError`` if a job is traced
    already or ``instrument(loop)`` traces with other options. If it raises, nothing has changed.
    """
    options = resolve(
        port=port,
        addr=addr,
        web_config=web_config,
        segment_buckets=segment_buckets,
        wait_buckets=wait_buckets,
        native_histograms=native_histograms,
        blocking_threshold=blocking_threshold,
        sample=sample,
        max_yield_points=max_yield_points,
        max_coroutines=max_coroutines,
        max_loops=max_loops,
        max_requests=max_requests,
        objectives=objectives,
        request_id=request_id,
        slow_request=slow_request,
        application=application,
        library=library,
        include=include,
        exclude=exclude,
        patient=patient,
        request_timeout=request_timeout,
        max_connections=max_connections,
        on_error=on_error,
        labels=labels,
        labels_on_series=labels_on_series,
        detail=detail,
        watchdog=watchdog,
        watchdog_interval=watchdog_interval,
        sample_interval=sample_interval,
        directory=directory,
    )
    return _start(options, registry, calling_packages())


def start_unasked(environ: Mapping[str, str] = os.environ) -> Exporter:
    """Start an exporter with options from ``environ``, for a program that does not know it."""
    package = main_package()
    return _start(resolve(environ=environ), REGISTRY, [] if package is None else [package])


def starter(
    *, registry: Registry | None = REGISTRY, **options: Any
) -> Callable[[], AbstractContextManager[Exporter]]:
    """Return a function that starts an exporter. The caller's package counts as application code.

    For frameworks that start the exporter later; the arguments are those of :func:`start_exporter`.
    The function returns a context manager that stops the exporter, unless it ran before.
    """
    application = calling_packages()

    def start() -> AbstractContextManager[Exporter]:
        before = process.session
        exporter = _start(resolve(**options), registry, application)
        return nullcontext(exporter) if exporter is before else exporter

    return start


def _start(options: Options, registry: Registry | None, application: Iterable[str]) -> Exporter:
    with process.lock:
        running = process.session
        if isinstance(running, Exporter):
            if running.serves(options, registry):
                return running
            running.stop()
        elif running is not None:
            raise RuntimeError(
                "a job is traced already: call start_exporter() before start_job(), "
                "which then uses it"
            )
        if not daemon_threads_allowed():
            return _inert(options, registry)
        recording = with_application(options.recording, application)
        service = None if recording.directory else service_of(options.serving.port)
        exporter = Exporter(
            options, recording, instrumentation_for(recording, service), registry, service
        )
        exporter.start()
        process.set_session(exporter)
        return exporter


def _registry_of_all_processes(registry: Registry | None) -> Registry | None:
    """Return a registry of all processes if ``prometheus_client`` collects from them."""
    return (
        MultiprocessMetrics()
        if registry is REGISTRY and "PROMETHEUS_MULTIPROC_DIR" in os.environ
        else registry
    )


def _inert(options: Options, registry: Registry | None) -> Exporter:
    """Return an exporter that does nothing, for an interpreter in which ours could not work."""
    message = (
        "this sub-interpreter allows no daemon threads, which aiometrics needs: nothing is traced "
        "here; start the exporter in the main interpreter"
    )
    if options.serving.on_error == "raise":
        raise RuntimeError(message)
    logger.warning("aiometrics: %s", message)
    recording = replace(options.recording, watchdog=False, sample_interval=0)
    exporter = Exporter(options, recording, Instrumentation(recording), registry, None)
    exporter.abandon()
    return exporter


def _assignments(values: Mapping[str, Any], names: Iterable[str]) -> str:
    return ", ".join(f"{name}={values[name]!r}" for name in names)


def _do_nothing() -> None:
    """Do nothing at further loops: the threads have started."""
