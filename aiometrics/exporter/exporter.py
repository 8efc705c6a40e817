"""The composition root: what ``start_exporter`` puts together, keeps, and takes apart again."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextvars import ContextVar
from functools import partial
from typing import Any

from prometheus_client import REGISTRY

from aiometrics.base.keeper import Periodic
from aiometrics.base.yielding import give_way
from aiometrics.exporter.endpoints import Endpoints
from aiometrics.exporter.session import (
    Session,
    calling_packages,
    instrumentation_for,
    new_watchdog,
    process,
    with_application,
)
from aiometrics.exposition.collector import MultiprocessMetrics, Registry
from aiometrics.instrumentation.instrumentation import Instrumentation
from aiometrics.options import Options, RecordingOptions, ServingOptions, resolve
from aiometrics.recorder.implementation import IMPLEMENTATION

PROBE = "exporter"


class Exporter(Session):
    """A running exporter: tracing, and the server that answers scrapes. Made by :func:`start_exporter`; a context manager that stops it.

    With a shared directory, :attr:`port` may be another process's to serve; this one takes over when that one is gone.
    """

    def __init__(
        self,
        recording: RecordingOptions,
        serving: ServingOptions,
        instrumentation: Instrumentation,
        registry: Registry | None,
    ) -> None:
        super().__init__(recording, instrumentation)
        self.serving = serving
        source = partial(instrumentation.snapshot, give_way)
        self._endpoints = Endpoints(
            serving,
            source,
            registry,
            instrumentation.internal_errors,
            implementation=IMPLEMENTATION,
        )
        self._periodic: Periodic | None = None
        if recording.directory:
            self._endpoints.try_to_bind()
        else:
            self._endpoints.bind()

    @property
    def already_running(self) -> str:
        """What to tell who wants to start an exporter now."""
        return f"an exporter already runs at {self.url}: use that one, or call its stop() before starting another"

    @property
    def port(self) -> int:
        """The port that is served, also if 0 was asked for."""
        return self._endpoints.port

    @property
    def url(self) -> str:
        """The address of the metrics as this machine reaches it."""
        return self._endpoints.url

    def start(self) -> None:
        """Begin to serve, then to trace; :func:`start_exporter` has done both. What it raises leaves nothing behind."""
        try:
            self._endpoints.start()
            self._start_periodic()
            super().start()
        except BaseException:
            self._end()
            raise

    def forget(self) -> None:
        """As :meth:`stop`, in a forked child, for the port: the parent serves on."""
        super().forget()
        self._endpoints.forget()

    @property
    def survives_fork(self) -> bool:
        """Whether a forked child is to be traced as well: with a directory it has somewhere to write."""
        return bool(self.recording.directory)

    def resume_in_child(self) -> None:
        """In a forked child, after :meth:`forget`: trace its loops too, on pages of its own. Threads begin with its first loop."""
        self._stopped = False
        self._watchdog = (
            new_watchdog(self.instrumentation, self.recording) if self.recording.watchdog else None
        )
        self._periodic = None
        self.instrumentation.on_loop = self._start_threads
        try:
            self.instrumentation.instrument_every_loop()
        except Exception as error:  # noqa: BLE001 - never the application's problem
            self.internal_errors.report(PROBE, error)

    def _start_threads(self) -> None:
        self.instrumentation.on_loop = _do_nothing
        if self._watchdog is not None:
            self._watchdog.start()
        self._start_periodic()

    def _start_periodic(self) -> None:
        if self.recording.directory:
            # What other processes read is kept up to date, and the port in sight.
            self._periodic = Periodic(
                self.internal_errors, self.instrumentation.beat, self._endpoints.take_over
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
    request_timeout: float | None = None,
    max_connections: int | None = None,
    watchdog: bool | None = None,
    watchdog_interval: float | None = None,
    directory: str | os.PathLike[str] | None = None,
) -> Exporter:
    """Trace every task that any event loop of this process creates from now on, and serve the numbers on ``/metrics``.

    Call it before the loop exists or inside it. An option that is not given is taken from the environment (``AIOMETRICS_PORT`` and so
    on), then from its default:

    ``port``, ``addr``
        Where to serve: 9400 on ``"0.0.0.0"``. Port 0 takes any free one.
    ``registry``
        The application's ``prometheus_client`` registry, whose metrics follow ours on the page; ``None`` for ours alone.
    ``web_config``
        A file that asks for TLS, clients' certificates or passwords, in the format of Prometheus's exporter-toolkit; it takes the extra
        ``web``.
    ``segment_buckets``, ``wait_buckets``
        Bucket bounds in seconds: of segments and delays, and of waits and tasks.
    ``blocking_threshold``
        Seconds from which on a segment counts as blocking: 0.1, as asyncio's ``slow_callback_duration``.
    ``sample``
        1 traces every task, 1/N one task in N, each of which then counts N times.
    ``max_yield_points``, ``max_coroutines``
        Room for names, 1000 and 256 per loop; what does not fit is counted as ``(other)``.
    ``max_loops``
        Loops that are traced at a time: 16.
    ``max_requests``
        Room for types of requests, 100 per loop; see :class:`aiometrics.request`.
    ``objectives``
        Wall seconds that requests of a type may take, by type.
    ``request_id``
        A context variable of the application that has the id of the request, where scopes are given none.
    ``slow_request``
        Wall seconds from which on a request, if its type has no objective, is logged to ``aiometrics.slow_requests``; those over their
        objective are in any case.
    ``application``, ``library``
        Module prefixes that count as the application, or as a library, whatever their files' places say.
    ``request_timeout``, ``max_connections``
        Seconds for one request and its answer (10), and how many connections are served at a time (16).
    ``watchdog``, ``watchdog_interval``
        Whether a thread looks for the lines that block a loop (yes), and every how many seconds it does (0.05).

    ``directory``
        Where all processes of the service keep their pages, such as ``"/run/aiometrics"`` (``AIOMETRICS_DIR``). One of them has the port
        and answers for all; when it is gone, another takes over. Forked children go on by themselves. It must belong to the service alone.

    Raises ``TypeError`` or ``ValueError`` if an option or the file ``web_config`` is wrong, ``ModuleNotFoundError`` if a package is
    missing for the latter, ``OSError`` if the port cannot be bound or the directory cannot be used, and ``RuntimeError`` if an exporter
    runs already; in each case nothing was changed.
    """
    options = resolve(
        port=port,
        addr=addr,
        web_config=web_config,
        segment_buckets=segment_buckets,
        wait_buckets=wait_buckets,
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
        request_timeout=request_timeout,
        max_connections=max_connections,
        watchdog=watchdog,
        watchdog_interval=watchdog_interval,
        directory=directory,
    )
    return _start(options, registry, calling_packages())


def starter(*, registry: Registry | None = REGISTRY, **options: Any) -> Callable[[], Exporter]:
    """What starts an exporter when it is called, on behalf of who calls this: it is their package that counts as the application.

    For frameworks that start it later; the arguments are those of :func:`start_exporter`.
    """
    application = calling_packages()
    return lambda: _start(resolve(**options), registry, application)


def _start(options: Options, registry: Registry | None, application: Iterable[str]) -> Exporter:
    with process.lock:
        if process.session is not None:
            raise RuntimeError(process.session.already_running)
        recording = with_application(options.recording, application)
        exporter = Exporter(
            recording,
            options.serving,
            instrumentation_for(recording),
            _registry_of_all_processes(registry) if recording.directory else registry,
        )
        exporter.start()
        process.set_session(exporter)
        return exporter


def _registry_of_all_processes(registry: Registry | None) -> Registry | None:
    """The application's metrics of all its processes, if ``prometheus_client`` collects them."""
    return (
        MultiprocessMetrics()
        if registry is REGISTRY and "PROMETHEUS_MULTIPROC_DIR" in os.environ
        else registry
    )


def _do_nothing() -> None:
    """Nothing waits for a loop."""
