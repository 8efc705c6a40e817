"""What this process traces: every loop, for an exporter or a job, or the loops that were chosen; at most one of these at a time."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Iterable
from dataclasses import replace
from typing import Any, Self

from aiometrics.base.internal_errors import STAYS_ON, InternalErrors
from aiometrics.base.version import __version__
from aiometrics.exposition import collector
from aiometrics.exposition.families import Facts
from aiometrics.exposition.hotspots import Hotspots
from aiometrics.exposition.hotspots import hotspots as hotspots_of
from aiometrics.instrumentation.instrumentation import Instrumentation
from aiometrics.instrumentation.watchdog import Watchdog
from aiometrics.options import RecordingOptions, resolve
from aiometrics.pages.multiprocess.directory import SharedDirectory
from aiometrics.pages.snapshot import Snapshot
from aiometrics.recorder.implementation import IMPLEMENTATION
from aiometrics.recorder.places import main_package


class Session:
    """Every loop of the process traced and watched, and nothing served, until :meth:`stop`; a context manager that calls it."""

    def __init__(self, recording: RecordingOptions, instrumentation: Instrumentation) -> None:
        self.recording = recording
        self.instrumentation = instrumentation
        self._watchdog = new_watchdog(instrumentation, recording) if recording.watchdog else None
        self._stopped = False

    @property
    def already_running(self) -> str:
        """What to tell who wants to start an exporter now."""
        return (
            "a job is traced already: call start_exporter() before start_job(), which then uses it"
        )

    @property
    def internal_errors(self) -> InternalErrors:
        """Where internal errors are counted."""
        return self.instrumentation.internal_errors

    def snapshot(self) -> Snapshot:
        """All numbers now; after :meth:`stop`, as they were left."""
        return self.instrumentation.snapshot()

    def start(self) -> None:
        """Begin to trace; whoever hands out a tracing has done it."""
        if self._watchdog is not None:
            self._watchdog.start()
        self.instrumentation.instrument_every_loop()

    def stop(self) -> None:
        """Put everything back as it was; tasks that are traced run on untimed. Idempotent."""
        with process.lock:
            if self._stopped:
                return
            self._stopped = True
            process.clear_session(self)
        self._end()

    def forget(self) -> None:
        """As :meth:`stop`, in a forked child, for what the parent goes on with."""
        self._stopped = True

    @property
    def survives_fork(self) -> bool:
        """Whether a forked child is to be traced as well."""
        return False

    def resume_in_child(self) -> None:
        """In a forked child, after :meth:`forget`, if it :attr:`survives_fork`: trace its loops too."""

    def _end(self) -> None:
        if self._watchdog is not None:
            self._watchdog.stop()
        self.instrumentation.remove()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.stop()


class ProcessState:
    """What this process runs: at most one instrumentation, and at most one exporter, or job, that keeps every loop traced by it."""

    def __init__(self) -> None:
        self._reset()

    def _reset(self) -> None:
        #: Held by who changes it.
        self.lock = threading.RLock()
        self.instrumentation: Instrumentation | None = None
        self.session: Session | None = None

    def set_session(self, session: Session) -> None:
        """It runs from now on."""
        self.instrumentation, self.session = session.instrumentation, session

    def clear_session(self, session: Session) -> None:
        """It does not run any more."""
        if self.session is session:
            self.instrumentation = self.session = None

    def after_fork_in_child(self) -> None:
        """In a forked child, which has none of the threads: what can go on does so, and without it the child may start its own."""
        inherited, instrumentation = self.session, self.instrumentation
        self._reset()  # the lock may be held by a thread that is not here
        if inherited is not None:
            inherited.forget()
        if instrumentation is not None:
            instrumentation.forget()
        if inherited is not None and inherited.survives_fork:
            self.set_session(inherited)
            inherited.resume_in_child()


process = ProcessState()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=process.after_fork_in_child)


def start_session() -> tuple[Session, bool]:
    """What keeps every loop traced, and whether this call started it, with options from the environment: the caller then stops it."""
    with process.lock:
        if process.session is not None:
            return process.session, False
        options = _without_directory(with_application(resolve().recording, calling_packages()))
        instrumentation = instrumentation_for(options)
        session = Session(options, instrumentation)
        session.start()
        process.set_session(session)
        return session, True


def instrument(loop: Any) -> None:
    """Trace the tasks that ``loop`` creates from now on, without serving anything: for :class:`Collector` or :func:`snapshot`.

    Options come from the environment, unless an exporter runs, which traces every loop anyway.
    """
    with process.lock:
        if process.instrumentation is None:
            process.instrumentation = Instrumentation(
                _without_directory(with_application(resolve().recording, calling_packages()))
            )
        process.instrumentation.instrument(loop)


def uninstrument(loop: Any) -> None:
    """Stop tracing ``loop``; its tasks run on untimed. Without effect on a loop that is not traced."""
    with process.lock:
        instrumentation = process.instrumentation
        if instrumentation is None:
            return
        instrumentation.uninstrument(loop)
        if instrumentation.idle:
            instrumentation.remove()


def snapshot() -> Snapshot:
    """All numbers now: of this process, or of all that share its directory. Raises ``RuntimeError`` if nothing was instrumented."""
    return _instrumentation().snapshot()


def hotspots(top: int = 5, *, since: Snapshot | None = None) -> Hotspots:
    """The ``top`` worst places now: who burns the loop, who waits longest, who is stuck, who fails; ``str()`` is a table.

    With ``since``, an earlier :func:`snapshot`, the numbers are those of the interval. Raises ``RuntimeError`` if nothing was instrumented.
    """
    instrumentation = _instrumentation()
    threshold_ns = instrumentation.options.blocking_threshold_ns
    return hotspots_of(instrumentation.snapshot(), top, since, blocking_threshold_ns=threshold_ns)


class Collector(SnapshotCollector):
    """The metrics as a ``prometheus_client`` collector, for who serves a registry: ``registry.register(aiometrics.Collector())``.

    It shows what :func:`start_exporter` or :func:`instrument` trace at the time of each scrape; before, it shows nothing traced.
    """

    def __init__(self) -> None:
        super().__init__(collected)


def collected() -> tuple[Snapshot, ExporterInfo]:
    """What a scrape shows now of what is traced; before anything is, that nothing is."""
    instrumentation = process.instrumentation
    current = Snapshot(time.time_ns()) if instrumentation is None else instrumentation.snapshot()
    return current, ExporterInfo(__version__, IMPLEMENTATION)


#: Where errors are counted while nothing is traced: only their log is seen.
_errors_while_idle = InternalErrors()


def report(probe: str, error: BaseException) -> None:
    """Count and log an error of ours in what runs beside the recorders, and goes on. Never raises."""
    instrumentation = process.instrumentation
    internal_errors = (
        _errors_while_idle if instrumentation is None else instrumentation.internal_errors
    )
    internal_errors.report(probe, error, STAYS_ON)


def instrumentation_for(options: RecordingOptions) -> Instrumentation:
    """The instrumentation that ``instrument(loop)`` already made, whose numbers go on, or a new one."""
    running = process.instrumentation
    if running is None:
        return Instrumentation(options, directory=_directory(options))
    if not running.options.same_pages(options):
        raise RuntimeError(
            f"instrument(loop) already traces with {running.options}: uninstrument(loop) first, or give the same options, not {options}"
        )
    return running


def _directory(options: RecordingOptions) -> SharedDirectory | None:
    if not options.directory:
        return None
    directory = SharedDirectory(os.path.abspath(options.directory))  # noqa: PTH100 - whatever the process changes its directory to
    directory.prepare()
    return directory


def _without_directory(options: RecordingOptions) -> RecordingOptions:
    """Without the directory: only an exporter keeps what is shared up to date."""
    return replace(options, directory="")


def new_watchdog(instrumentation: Instrumentation, options: RecordingOptions) -> Watchdog:
    """A watchdog over all pages of ``instrumentation``, not started yet."""
    return Watchdog(
        instrumentation.slots,
        instrumentation.places,
        instrumentation.internal_errors,
        threshold_ns=options.blocking_threshold_ns,
        interval=options.watchdog_interval,
        clock=instrumentation.clock,
    )


def _instrumentation() -> Instrumentation:
    if process.instrumentation is None:
        raise RuntimeError(
            "nothing is instrumented: call aiometrics.start_exporter() or aiometrics.instrument(loop) first"
        )
    return process.instrumentation


def calling_packages() -> list[str]:
    """The packages of who called us and of the program itself: they count as application wherever they are installed."""
    frame = sys._getframe(1)  # noqa: SLF001 - inspect would read the source of every caller
    while frame.f_back is not None and _top_package(frame.f_globals) == "aiometrics":
        frame = frame.f_back
    tops = {_top_package(frame.f_globals), main_package()} - {None, "__main__", "aiometrics"}
    return sorted(top for top in tops if top is not None)


def with_application(options: RecordingOptions, packages: Iterable[str]) -> RecordingOptions:
    """``options``, with packages that count as application too."""
    return replace(options, application=(*options.application, *packages))


def _top_package(module_globals: dict[str, Any]) -> str:
    return str(module_globals.get("__name__", "")).partition(".")[0]
