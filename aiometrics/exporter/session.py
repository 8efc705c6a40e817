"""The state of this process: it traces every loop, for an exporter or a job, or chosen loops.

:data:`process` is the only state of the process: at most one instrumentation and one session.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Iterable
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Self

from aiometrics.base import fork, green_threads
from aiometrics.base.background import Background
from aiometrics.base.clock import SECOND_NS
from aiometrics.base.internal_errors import STAYS_ON, InternalErrors
from aiometrics.base.options import RecordingOptions, resolve
from aiometrics.base.unpatched import unix_ns
from aiometrics.base.version import __version__
from aiometrics.exporter.service import Service
from aiometrics.exposition.collector import SnapshotCollector
from aiometrics.exposition.families import ExporterInfo
from aiometrics.instrumentation.instrumentation import Instrumentation
from aiometrics.instrumentation.sampling import Sampling
from aiometrics.instrumentation.watchdog import Watchdog
from aiometrics.pages.multiprocess.directory import SharedDirectory
from aiometrics.pages.records import Records
from aiometrics.pages.snapshot import Snapshot
from aiometrics.recorder.implementation import FRAMES, IMPLEMENTATION
from aiometrics.recorder.places import main_package

if TYPE_CHECKING:
    from aiometrics.exposition.hotspots import Hotspots


class Session:
    """Traces and watches every loop of the process until :meth:`stop`, and serves nothing.

    The base class of an exporter; a job without an exporter uses it as it is. A context manager
    that stops it.
    """

    def __init__(self, recording: RecordingOptions, instrumentation: Instrumentation) -> None:
        self.info = INFO
        self.recording = recording
        self.instrumentation = instrumentation
        self._watchers = new_watchers(instrumentation, recording)
        self._stopped = False

    @property
    def internal_errors(self) -> InternalErrors:
        """The counter of internal errors."""
        return self.instrumentation.internal_errors

    def snapshot(self) -> Snapshot:
        """Return all numbers of this moment; after :meth:`stop`, the final ones."""
        return self.instrumentation.snapshot()

    def start(self) -> None:
        """Begin to trace."""
        for watcher in self._watchers:
            watcher.start()
        self.instrumentation.instrument_every_loop()

    def stop(self) -> None:
        """Put everything back as it was; traced tasks run on untimed. Idempotent."""
        with process.lock:
            if self._stopped:
                return
            self._stopped = True
            process.clear_session(self)
        self._end()

    def abandon(self) -> None:
        """In a forked child that is not traced: mark it as stopped, since the parent goes on."""
        self._stopped = True

    @property
    def survives_fork(self) -> bool:
        """Whether a forked child is traced as well."""
        return False

    def resume_in_child(self) -> None:
        """In a forked child: trace its loops too.

        Called only if the session :attr:`survives_fork`.
        """

    def _end(self) -> None:
        for watcher in self._watchers:
            watcher.stop()
        self.instrumentation.remove()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.stop()


class ProcessState:
    """At most one instrumentation, and at most one session on top of it.

    Hold ``lock`` while changing it.
    """

    def __init__(self) -> None:
        self._renew_lock()
        self.instrumentation: Instrumentation | None = None
        self.session: Session | None = None
        fork.forget_in_child(self, fork.Stage.LOCKS, ProcessState._renew_lock)
        fork.forget_in_child(self, fork.Stage.SESSION, ProcessState._after_fork)

    def _renew_lock(self) -> None:
        self.lock = threading.RLock()

    def set_session(self, session: Session) -> None:
        """Record that ``session`` runs from now on."""
        self.instrumentation, self.session = session.instrumentation, session

    def clear_session(self, session: Session) -> None:
        """Record that ``session`` has ended."""
        if self.session is session:
            self.instrumentation = self.session = None

    def _after_fork(self) -> None:
        """In a forked child: resume the session if it survives a fork, else forget it.

        Without a session the child may start its own. Recording has stopped by now.
        """
        inherited = self.session
        if inherited is not None and inherited.survives_fork:
            inherited.resume_in_child()
            return
        self.instrumentation = self.session = None
        if inherited is not None:
            inherited.abandon()


process = ProcessState()
#: The version and recorder of this process, for all that it exports.
INFO = ExporterInfo(__version__, IMPLEMENTATION, FRAMES)


def start_session() -> tuple[Session, bool]:
    """Return the session that traces every loop, and whether this call started it.

    A new one has its options from the environment, and the caller stops it.
    """
    with process.lock:
        if process.session is not None:
            return process.session, False
        options = _without_directory(with_application(resolve().recording, calling_packages()))
        instrumentation = instrumentation_for(options, None)
        session = Session(options, instrumentation)
        session.start()
        process.set_session(session)
        return session, True


def instrument(loop: Any) -> None:
    """Trace the tasks that ``loop`` creates from now on, and serve nothing.

    For :class:`Collector` or :func:`snapshot`. Options come from the environment, unless an
    exporter runs, which traces every loop anyway.
    """
    with process.lock:
        if process.instrumentation is None:
            process.instrumentation = Instrumentation(
                _without_directory(with_application(resolve().recording, calling_packages()))
            )
        process.instrumentation.instrument(loop)


def uninstrument(loop: Any) -> None:
    """Stop tracing ``loop``; its tasks run on untimed. No effect on a loop that is not traced."""
    with process.lock:
        instrumentation = process.instrumentation
        if instrumentation is None:
            return
        instrumentation.uninstrument(loop)
        if instrumentation.idle:
            instrumentation.remove()


def snapshot() -> Snapshot:
    """Return all numbers of this moment: of this process, or of all that share its directory.

    Raises ``RuntimeError`` if nothing is instrumented.
    """
    return _instrumentation().snapshot()


def hotspots(top: int = 5, *, since: Snapshot | None = None) -> Hotspots:
    """Return the ``top`` worst places of each kind; ``str()`` of the result is a table.

    The kinds are: what occupies the loop, what waits longest, what is stuck, what fails. With
    ``since``, an earlier :func:`snapshot`, the numbers are those of the interval. Raises
    ``RuntimeError`` if nothing is instrumented.
    """
    from aiometrics.exposition.hotspots import find_hotspots  # noqa: PLC0415 - few programs ask

    instrumentation = _instrumentation()
    threshold_ns = instrumentation.options.blocking_threshold_ns
    return find_hotspots(
        instrumentation.snapshot(),
        top,
        since,
        blocking_threshold_ns=threshold_ns,
        of_library=instrumentation.places.of_library,
    )


class Collector(SnapshotCollector):
    """A ``prometheus_client`` collector: ``registry.register(aiometrics.Collector())``.

    For services that serve a registry themselves. Each scrape shows what :func:`start_exporter` or
    :func:`instrument` trace at that time; before they are called, it shows that nothing is traced.
    """

    def __init__(self) -> None:
        super().__init__(collected)


def collected(records: Records | None = None) -> tuple[Snapshot, ExporterInfo]:
    """Return what a scrape shows now: an empty snapshot if nothing is traced yet.

    What :class:`Records` can keep is there, if they are given and filled.
    """
    instrumentation = process.instrumentation
    info = INFO if process.session is None else process.session.info
    if instrumentation is None:
        return Snapshot(unix_ns()), info
    return instrumentation.snapshot(records=records), info


#: Counts errors while nothing is traced; only their log lines are seen.
_errors_while_idle = InternalErrors()


def report(probe: str, error: BaseException) -> None:
    """Count and log an internal error of code that stays on, outside of recorders. Never raises."""
    instrumentation = process.instrumentation
    internal_errors = (
        _errors_while_idle if instrumentation is None else instrumentation.internal_errors
    )
    internal_errors.report(probe, error, STAYS_ON)


def instrumentation_for(options: RecordingOptions, service: Service | None) -> Instrumentation:
    """Return the instrumentation that ``instrument(loop)`` made, to go on with it, or a new one.

    The pages of the root of a ``service`` are private, since it reads those of the others.
    """
    running = process.instrumentation
    if running is None:
        return Instrumentation(
            options,
            directory=_directory(options) if service is None else service.directory,
            private=service is not None and service.is_root,
        )
    if not running.options.same_pages(options):
        raise RuntimeError(
            f"instrument(loop) already traces with {running.options}: "
            f"uninstrument(loop) first, or give the same options, not {options}"
        )
    return running


def _directory(options: RecordingOptions) -> SharedDirectory | None:
    if not options.directory:
        return None
    # The process may change its directory later.
    directory = SharedDirectory(os.path.abspath(options.directory))  # noqa: PTH100 - keeps links
    directory.prepare()
    return directory


def _without_directory(options: RecordingOptions) -> RecordingOptions:
    """Return ``options`` without the directory: only an exporter keeps shared pages up to date."""
    return replace(options, directory="")


def new_watchers(
    instrumentation: Instrumentation, options: RecordingOptions
) -> tuple[Background, ...]:
    """Return the threads that watch the loops, as the options say, not started yet."""
    watchdog = (_new_watchdog(instrumentation, options),) if options.watchdog else ()
    return (*watchdog, *_new_sampling(instrumentation, options))


def _new_sampling(
    instrumentation: Instrumentation, options: RecordingOptions
) -> tuple[Sampling, ...]:
    if not options.sample_interval or green_threads.patched_by():
        return ()
    interval_ns = max(1, round(options.sample_interval * SECOND_NS))
    return (Sampling(instrumentation.sampler, interval_ns, instrumentation.internal_errors),)


def _new_watchdog(instrumentation: Instrumentation, options: RecordingOptions) -> Watchdog:
    """Return a watchdog over all pages of ``instrumentation``, not started yet."""
    return Watchdog(
        instrumentation.slots,
        instrumentation.places,
        instrumentation.internal_errors,
        threshold_ns=options.blocking_threshold_ns,
        interval=options.watchdog_interval,
        stack_of_thread=instrumentation.stack_of_thread,
        clock=instrumentation.clock,
    )


def _instrumentation() -> Instrumentation:
    if process.instrumentation is None:
        raise RuntimeError(
            "nothing is instrumented: "
            "call aiometrics.start_exporter() or aiometrics.instrument(loop) first"
        )
    return process.instrumentation


def calling_packages() -> list[str]:
    """Return the packages of our caller and of the program.

    They count as application code wherever they are installed.
    """
    frame = sys._getframe(1)  # noqa: SLF001 - inspect would read the source of every caller
    while frame.f_back is not None and _top_package(frame.f_globals) == "aiometrics":
        frame = frame.f_back
    tops = {_top_package(frame.f_globals), main_package()} - {"__main__", "aiometrics"}
    return sorted(top for top in tops if top)


def with_application(options: RecordingOptions, packages: Iterable[str]) -> RecordingOptions:
    """Return ``options`` with further packages that count as application code."""
    return replace(options, application=(*options.application, *packages))


def _top_package(module_globals: dict[str, Any]) -> str:
    name = module_globals.get("__name__")  # None in exec(code, {})
    return name.partition(".")[0] if isinstance(name, str) else ""
