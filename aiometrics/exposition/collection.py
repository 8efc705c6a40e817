"""Collects the metrics of the application: each collector on its own, all within a deadline."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import partial
from queue import SimpleQueue
from typing import Any, NamedTuple, Protocol

from prometheus_client import CollectorRegistry
from prometheus_client import Metric as PrometheusMetric

from aiometrics.base import fork, unpatched

#: How long all collectors together may take. Prometheus gives a scrape 10 s by default.
DEADLINE_SECONDS = 5.0
#: Of one collector. One that never ends would take all memory.
MOST_FAMILIES = 10_000
_reading_application: ContextVar[bool] = ContextVar("aiometrics_reading_application", default=False)


class Registry(Protocol):
    """A ``CollectorRegistry``, or anything else that gives metric families."""

    def collect(self) -> Iterable[PrometheusMetric]:
        """Return every family with its samples."""


def reading_application() -> bool:
    """Whether the application's collectors are being asked, for an exposition that has ours too."""
    return _reading_application.get()


@contextmanager
def _without_ours() -> Iterator[None]:
    token = _reading_application.set(True)
    try:
        yield
    finally:
        _reading_application.reset(token)


@dataclass(slots=True, eq=False)
class _Run:
    """One round of all collectors."""

    collectors: list[Registry]
    on_error: Callable[[Exception], None]
    found: list[PrometheusMetric] = field(default_factory=list)
    #: The collector that is being asked.
    current: Registry | None = None
    done: unpatched.Flag = field(default_factory=unpatched.Flag)
    #: Set when the deadline has passed: nobody waits any more.
    abandoned: bool = False

    def __call__(self) -> None:
        with _without_ours():
            for collector in self.collectors:
                self.current = collector
                self._ask(collector)
                if self.abandoned:
                    return
        self.done.set()

    def _ask(self, collector: Registry) -> None:
        try:
            self._take(collector.collect())
        except Exception as error:  # noqa: BLE001 - collectors of the application can raise anything
            error.add_note(f"collector: {_name(collector)}")
            self.on_error(error)
        except BaseException as error:  # noqa: BLE001 - and must not end the thread, by SystemExit for instance
            self.on_error(RuntimeError(f"collector {_name(collector)} raised {error!r}"))

    def _take(self, families: Iterable[PrometheusMetric]) -> None:
        before = len(self.found)
        for family in families:
            self.found.append(family)
            if len(self.found) - before > MOST_FAMILIES:
                del self.found[before:]
                raise OverflowError(f"it has more than {MOST_FAMILIES} families, maybe without end")


class Collection:
    """Asks the collectors of a registry in a thread that stays.

    A collector that does not return in time costs its own families, and those of the collectors
    after it once. It is not asked again until it has returned. Errors go to ``on_error``, which
    must not raise.
    """

    def __init__(
        self,
        registry: Registry,
        on_error: Callable[[Exception], None],
        deadline: float = DEADLINE_SECONDS,
    ) -> None:
        self._registry: Registry | None = registry
        self._on_error = on_error
        self._deadline = deadline
        self._forget()
        fork.forget_in_child(self, fork.Stage.LOCKS, Collection._forget)

    def _forget(self) -> None:
        """Begin without a thread, also in a forked child."""
        self._lock = threading.Lock()
        self._runs: SimpleQueue[_Run | None] | None = None
        #: Rounds whose current collector has not returned.
        self._stuck: list[_Run] = []

    def collect(self) -> list[PrometheusMetric]:
        """Return the families of every collector that returned in time; none once it is closed."""
        with self._lock:
            if self._registry is None:
                return []
            self._stuck = [run for run in self._stuck if not run.done.is_set()]
            stuck = [run.current for run in self._stuck]
            try:
                asked = _collectors(self._registry, self._deadline)
            except TimeoutError as error:
                self._on_error(error)
                return []
            run = _Run([found for found in asked if not _is_in(found, stuck)], self._on_error)
            self._start(run)
            if not run.done.wait(self._deadline):
                self._abandon(run)
            return list(run.found)

    def __del__(self) -> None:
        self.close()

    def close(self) -> None:
        """Let the thread end, and let go of the registry: whoever closes this may be in a cycle."""
        with self._lock:
            if self._runs is not None:
                self._runs.put(None)
            self._runs = None
            self._registry = None
            self._stuck = []

    def _start(self, run: _Run) -> None:
        if self._runs is None:
            runs: SimpleQueue[_Run | None] = SimpleQueue()
            try:
                unpatched.start_thread(partial(_work, runs), "aiometrics-registry")
            except Exception:  # noqa: BLE001 - the interpreter shuts down, or a test has replaced what threads need
                run()
                return
            self._runs = runs
        self._runs.put(run)

    def _abandon(self, run: _Run) -> None:
        """Leave the thread to the collector that does not return; the next round has another."""
        run.abandoned = True
        self._runs = None
        self._stuck.append(run)
        if run.current is not None:
            self._on_error(
                TimeoutError(
                    f"collector {_name(run.current)} has not returned within {self._deadline:g} s: "
                    "it is left out until it does"
                )
            )


def _work(runs: SimpleQueue[_Run | None]) -> None:
    while (run := runs.get()) is not None:
        run()
        if run.abandoned:
            run.done.set()
            return


def _collectors(registry: Registry, deadline: float) -> list[Registry]:
    """Return what a registry asks, each of which can then fail alone; else the registry itself.

    Raises ``TimeoutError`` if the application holds the registry for so long, as it does while it
    registers a collector that is asked for its names.
    """
    inner: Any = registry
    if type(registry) is not CollectorRegistry:
        return [registry]
    try:  # there is no public way to ask one after the other
        lock, names = inner._lock, inner._collector_to_names  # noqa: SLF001
    except AttributeError:
        return [registry]
    if not lock.acquire(timeout=deadline):
        raise TimeoutError(f"the registry was locked for {deadline:g} s: it is being changed")
    try:
        return [_TargetInfo(registry), *names]
    finally:
        lock.release()


class _TargetInfo(NamedTuple):
    """The collector of what a registry says about its target."""

    registry: CollectorRegistry

    def collect(self) -> Iterable[PrometheusMetric]:
        registry: Any = self.registry
        return [registry._target_info_metric()] if registry.get_target_info() else []  # noqa: SLF001


def _is_in(collector: object, some: list[Any]) -> bool:
    return any(collector is each for each in some)


def _name(collector: object) -> str:
    return f"{type(collector).__module__}.{type(collector).__qualname__}"
