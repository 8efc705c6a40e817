"""The composition root: what ``start_exporter`` puts together, keeps, and takes apart again."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import replace
from functools import partial
from typing import Any, Self

from prometheus_client import REGISTRY

from aiometrics import collector
from aiometrics.collector import Multiprocess, Registry
from aiometrics.families import Facts
from aiometrics.faults import STAYS_ON, Faults
from aiometrics.hotspots import Hotspots
from aiometrics.hotspots import hotspots as worst
from aiometrics.instrumentation import Instrumentation
from aiometrics.keeper import Keeper
from aiometrics.options import Options, resolve
from aiometrics.pace import give_way
from aiometrics.places import main_package
from aiometrics.recorder import IMPLEMENTATION
from aiometrics.shelf import Shelf
from aiometrics.site import Site
from aiometrics.snapshot import Snapshot
from aiometrics.version import __version__
from aiometrics.watchdog import Watchdog

PROBE = "exporter"


class Tracing:
    """Every loop of the process traced and watched, and nothing served, until :meth:`stop`; a context manager that calls it."""

    def __init__(self, options: Options, instrumentation: Instrumentation) -> None:
        self.options = options
        self._instrumentation = instrumentation
        self._watchdog = _watchdog(instrumentation, options) if options.watchdog else None
        self._stopped = False

    @property
    def in_the_way(self) -> str:
        """What to tell who wants to start an exporter now."""
        return "a job is traced already: call start_exporter() before start_job(), which then uses it"

    @property
    def faults(self) -> Faults:
        """Where internal errors are counted."""
        return self._instrumentation.faults

    def snapshot(self) -> Snapshot:
        """All numbers now; after :meth:`stop`, as they were left."""
        return self._instrumentation.snapshot()

    def start(self) -> None:
        """Begin to trace; whoever hands out a tracing has done it."""
        if self._watchdog is not None:
            self._watchdog.start()
        self._instrumentation.instrument_every_loop()

    def stop(self) -> None:
        """Put everything back as it was; tasks that are traced run on untimed. Idempotent."""
        with _lock:
            if self._stopped:
                return
            self._stopped = True
            _active.release(self)
        self._end()

    def forget(self) -> None:
        """As :meth:`stop`, in a forked child, for what the parent goes on with."""
        self._stopped = True

    def _end(self) -> None:
        if self._watchdog is not None:
            self._watchdog.stop()
        self._instrumentation.remove()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.stop()


class Exporter(Tracing):
    """A running exporter: tracing, and the server that answers scrapes. Made by :func:`start_exporter`; a context manager that stops it.

    With a shared directory, :attr:`port` may be another process's to serve; this one takes over when that one is gone.
    """

    def __init__(self, options: Options, instrumentation: Instrumentation, registry: Registry | None) -> None:
        super().__init__(options, instrumentation)
        source = partial(instrumentation.snapshot, give_way)
        self._site = Site(options, source, registry, instrumentation.faults, implementation=IMPLEMENTATION)
        self._keeper: Keeper | None = None
        if options.directory:
            self._site.try_to_bind()
        else:
            self._site.bind()

    @property
    def in_the_way(self) -> str:
        """What to tell who wants to start an exporter now."""
        return f"an exporter already runs at {self.url}: use that one, or call its stop() before starting another"

    @property
    def port(self) -> int:
        """The port that is served, also if 0 was asked for."""
        return self._site.port

    @property
    def url(self) -> str:
        """The address of the metrics as this machine reaches it."""
        return self._site.url

    def start(self) -> None:
        """Begin to serve, then to trace; :func:`start_exporter` has done both."""
        self._site.start()
        self._start_keeper()
        super().start()

    def forget(self) -> None:
        """As :meth:`stop`, in a forked child, for the port: the parent serves on."""
        super().forget()
        self._site.forget()

    def go_on(self) -> None:
        """In a forked child, after :meth:`forget`: trace its loops too, on pages of its own. Threads begin with its first loop."""
        self._stopped = False
        self._watchdog = _watchdog(self._instrumentation, self.options) if self.options.watchdog else None
        self._keeper = None
        self._instrumentation.on_loop = self._start_threads
        try:
            self._instrumentation.instrument_every_loop()
        except Exception as error:  # noqa: BLE001 - never the application's problem
            self.faults.report(PROBE, error)

    def _start_threads(self) -> None:
        self._instrumentation.on_loop = _nothing
        if self._watchdog is not None:
            self._watchdog.start()
        self._start_keeper()

    def _start_keeper(self) -> None:
        if self.options.directory:
            self._keeper = Keeper(self._beat, self.faults)
            self._keeper.start()

    def _beat(self) -> None:
        """Keep what other processes read up to date, and the port in sight."""
        self._instrumentation.beat()
        self._site.take_over()

    def _end(self) -> None:
        if self._keeper is not None:
            self._keeper.stop()
        self._site.close()
        super()._end()


class _Active:
    """What this process runs: at most one instrumentation, and at most one exporter, or job, that keeps every loop traced by it."""

    def __init__(self) -> None:
        self.instrumentation: Instrumentation | None = None
        self.tracing: Tracing | None = None

    def release(self, tracing: Tracing) -> None:
        if self.tracing is tracing:
            self.instrumentation = self.tracing = None


_active = _Active()
_lock = threading.RLock()


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
    given = {name: value for name, value in locals().items() if name != "registry"}
    with _lock:
        if _active.tracing is not None:
            raise RuntimeError(_active.tracing.in_the_way)
        options = _with_callers(resolve(given))
        instrumentation = _adopted(options)
        exporter = Exporter(options, instrumentation, _of_all_processes(registry) if options.directory else registry)
        exporter.start()
        _active.instrumentation, _active.tracing = instrumentation, exporter
        return exporter


def start_tracing() -> tuple[Tracing, bool]:
    """What keeps every loop traced, and whether this call started it, with options from the environment: the caller then stops it."""
    with _lock:
        if _active.tracing is not None:
            return _active.tracing, False
        options = _own(_with_callers(resolve({})))
        instrumentation = _adopted(options)
        tracing = Tracing(options, instrumentation)
        tracing.start()
        _active.instrumentation, _active.tracing = instrumentation, tracing
        return tracing, True


def instrument(loop: Any) -> None:
    """Trace the tasks that ``loop`` creates from now on, without serving anything: for :class:`Collector` or :func:`snapshot`.

    Options come from the environment, unless an exporter runs, which traces every loop anyway.
    """
    with _lock:
        if _active.instrumentation is None:
            _active.instrumentation = Instrumentation(_own(_with_callers(resolve({}))))
        _active.instrumentation.instrument(loop)


def uninstrument(loop: Any) -> None:
    """Stop tracing ``loop``; its tasks run on untimed. Without effect on a loop that is not traced."""
    with _lock:
        instrumentation = _active.instrumentation
        if instrumentation is None:
            return
        instrumentation.uninstrument(loop)
        if instrumentation.idle:
            instrumentation.remove()


def snapshot() -> Snapshot:
    """All numbers of this process now. Raises ``RuntimeError`` if nothing was instrumented."""
    return _instrumented().snapshot()


def hotspots(top: int = 5, *, since: Snapshot | None = None) -> Hotspots:
    """The ``top`` worst places now: who burns the loop, who waits longest, who is stuck, who fails; ``str()`` is a table.

    With ``since``, an earlier :func:`snapshot`, the numbers are those of the interval. Raises ``RuntimeError`` if nothing was instrumented.
    """
    instrumentation = _instrumented()
    threshold_ns = instrumentation.options.blocking_threshold_ns
    return worst(instrumentation.snapshot(), top, since, blocking_threshold_ns=threshold_ns)


class Collector(collector.Collector):
    """The metrics as a ``prometheus_client`` collector, for who serves a registry: ``registry.register(aiometrics.Collector())``.

    It shows what :func:`start_exporter` or :func:`instrument` trace at the time of each scrape; before, it shows nothing traced.
    """

    def __init__(self) -> None:
        super().__init__(collected)


def collected() -> tuple[Snapshot, Facts]:
    """What a scrape shows now of what is traced; before anything is, that nothing is."""
    instrumentation = _active.instrumentation
    current = Snapshot(time.time_ns()) if instrumentation is None else instrumentation.snapshot()
    return current, Facts(__version__, IMPLEMENTATION)


def report(probe: str, error: BaseException) -> None:
    """Count and log an error of ours in what runs beside the recorders, and goes on. Never raises."""
    instrumentation = _active.instrumentation
    faults = Faults() if instrumentation is None else instrumentation.faults
    faults.report(probe, error, STAYS_ON)


def _adopted(options: Options) -> Instrumentation:
    """The instrumentation that ``instrument(loop)`` already made, whose numbers go on, or a new one."""
    running = _active.instrumentation
    if running is None:
        return Instrumentation(options, shelf=_shelf(options))
    if not running.options.measures_as(options):
        raise RuntimeError(
            f"instrument(loop) already traces with {running.options}: uninstrument(loop) first, or give the same options, not {options}"
        )
    return running


def _shelf(options: Options) -> Shelf | None:
    if not options.directory:
        return None
    shelf = Shelf(os.path.abspath(options.directory))  # noqa: PTH100 - whatever the process changes its directory to
    shelf.prepare()
    return shelf


def _own(options: Options) -> Options:
    """Without the directory: only an exporter keeps what is shared up to date."""
    return replace(options, directory="")


def _of_all_processes(registry: Registry | None) -> Registry | None:
    """The application's metrics of all its processes, if ``prometheus_client`` collects them."""
    return Multiprocess() if registry is REGISTRY and "PROMETHEUS_MULTIPROC_DIR" in os.environ else registry


def _nothing() -> None:
    """Nothing waits for a loop."""


def _watchdog(instrumentation: Instrumentation, options: Options) -> Watchdog:
    return Watchdog(
        instrumentation.slots,
        instrumentation.places,
        instrumentation.faults,
        threshold_ns=options.blocking_threshold_ns,
        interval=options.watchdog_interval,
        clock=instrumentation.clock,
    )


def _instrumented() -> Instrumentation:
    if _active.instrumentation is None:
        raise RuntimeError("nothing is instrumented: call aiometrics.start_exporter() or aiometrics.instrument(loop) first")
    return _active.instrumentation


def _with_callers(options: Options) -> Options:
    """The packages of who called us and of the program itself count as application wherever they are installed."""
    frame = sys._getframe(1)  # noqa: SLF001 - inspect would read the source of every caller
    while frame.f_back is not None and _top_package(frame.f_globals) == "aiometrics":
        frame = frame.f_back
    tops = {_top_package(frame.f_globals), main_package()} - {None, "__main__", "aiometrics"}
    return replace(options, application=(*options.application, *sorted(top for top in tops if top is not None)))


def _top_package(module_globals: dict[str, Any]) -> str:
    return str(module_globals.get("__name__", "")).partition(".")[0]


def _after_fork() -> None:
    """A forked child has none of the threads. With a directory its exporter goes on; else it has none, and may start its own."""
    global _active, _lock
    inherited, _active, _lock = _active, _Active(), threading.RLock()
    if inherited.tracing is not None:
        inherited.tracing.forget()
    if inherited.instrumentation is not None:
        inherited.instrumentation.forget()
    if isinstance(inherited.tracing, Exporter) and inherited.tracing.options.directory:
        _active.instrumentation, _active.tracing = inherited.instrumentation, inherited.tracing
        inherited.tracing.go_on()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
