"""Who is measured: a bare loop, both of our recorders, and the peers, each set up as its documentation says."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable, Coroutine, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext
from importlib import import_module
from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

LoopFactory = Callable[[], asyncio.AbstractEventLoop]
LOOPS = ("asyncio", "uvloop")


class Unavailable(Exception):  # noqa: N818 - a finding about a contender, not a failure of ours
    """A contender cannot run here; the message says why."""


def plain_loop(kind: str) -> asyncio.AbstractEventLoop:
    """A new loop of this kind (one of ``LOOPS``)."""
    if kind == "uvloop":
        loop: asyncio.AbstractEventLoop = import_module("uvloop").new_event_loop()
        return loop
    return asyncio.SelectorEventLoop()


class Contender:
    """A bare event loop; subclasses add what they add, at the moment their documentation asks for."""

    name: ClassVar[str] = "bare"
    gives: ClassVar[str] = "nothing"
    #: Environment of the process it runs in.
    environment: ClassVar[Mapping[str, str]] = {}

    def prepare(self) -> None:
        """Set-up before there is a loop."""

    def loop_factory(self, kind: str) -> LoopFactory:
        """What makes its loop."""
        return lambda: plain_loop(kind)

    def inside(self) -> AbstractAsyncContextManager[object]:
        """Set-up in the running loop, around the workload."""
        return nullcontext()

    def decorate(self, function: Callable[..., Coroutine[Any, Any, Any]]) -> Callable[..., Coroutine[Any, Any, Any]]:
        """What is done by hand to a coroutine function that runs as a task."""
        return function


class CCore(Contender):
    """aiometrics with its C core, exporter and all."""

    name = "aiometrics C"
    gives = "segments, waits, tasks: per coroutine and yield point"
    implementation: ClassVar[str] = "c"

    def prepare(self) -> None:
        self.facade().start_exporter(port=0, addr="127.0.0.1")

    def facade(self) -> Any:
        """The package, once it is sure that it is the implementation to measure.

        Raises ``Unavailable`` if it is not.
        """
        try:
            facade = import_module("aiometrics")
            implementation = facade.IMPLEMENTATION
        except (ImportError, AttributeError) as error:
            raise Unavailable(f"aiometrics: {error}") from error
        if implementation != self.implementation:
            raise Unavailable(f"the installed aiometrics runs {implementation!r}, not {self.implementation!r}")
        return facade


class Twin(CCore):
    """aiometrics with its Python recorder, exporter and all."""

    name = "aiometrics Python"
    implementation = "python"
    environment: ClassVar[Mapping[str, str]] = {"AIOMETRICS_NO_EXTENSIONS": "1"}


class IdleThread(Contender):
    """A bare loop in a process with one more thread, which sleeps: libc and the kernel lock from then on what they need not lock before.

    Every exporter with a thread of its own pays for that, and so does every service that ever used an executor.
    """

    name = "bare, with an idle thread"

    def prepare(self) -> None:
        threading.Thread(target=threading.Event().wait, daemon=True).start()


class PrometheusAsync(Contender):
    """prometheus-async's ``@time`` on every function that runs as a task."""

    name = "prometheus-async @time"
    gives = "wall histogram per function, placed by hand"

    def decorate(self, function: Callable[..., Coroutine[Any, Any, Any]]) -> Callable[..., Coroutine[Any, Any, Any]]:
        histogram = import_module("prometheus_client").Histogram(f"{function.__name__}_seconds", "Wall seconds.")
        decorated: Callable[..., Coroutine[Any, Any, Any]] = import_module("prometheus_async.aio").time(histogram)(function)
        return decorated


def _meter_provider() -> Any:
    metrics = import_module("opentelemetry.sdk.metrics")
    reader = import_module("opentelemetry.sdk.metrics.export").InMemoryMetricReader()
    return metrics.MeterProvider(metric_readers=[reader])


class OpenTelemetry(Contender):
    """opentelemetry-instrumentation-asyncio with the SDK and a reader that is never asked."""

    name = "OpenTelemetry asyncio"
    gives = "wall histogram per coroutine name"

    def prepare(self) -> None:
        import_module("opentelemetry.instrumentation.asyncio").AsyncioInstrumentor().instrument(meter_provider=_meter_provider())


class AioWatch(Contender):
    """aiowatch with the same SDK."""

    name = "aiowatch"
    gives = "task counts by status, a lag probe"

    def inside(self) -> AbstractAsyncContextManager[object]:
        watch: AbstractAsyncContextManager[object] = import_module("aiowatch").AioWatch(
            meter=_meter_provider().get_meter("benchmark"), collect_interval=5.0
        )
        return watch


class MonitoredIoloop(Contender):
    """monitored-ioloop with a prometheus_client histogram; without its callback names, which are as many as there are tasks."""

    name = "monitored-ioloop"
    gives = "wall histogram of callbacks"

    def loop_factory(self, kind: str) -> LoopFactory:
        histogram = import_module("prometheus_client").Histogram("callback_seconds", "Wall seconds.")

        def observe(state: Any) -> None:
            histogram.observe(state.callback_wall_time)

        module = import_module(f"monitored_ioloop.monitored_{kind}")
        factory: LoopFactory = getattr(module, f"monitored_{kind}_loop_factory")(observe)
        return factory


class AioCop(Contender):
    """aiocop, all on, with a callback that does nothing."""

    name = "aiocop"
    gives = "events of blocking steps"

    @asynccontextmanager
    async def inside(self) -> AsyncIterator[None]:
        aiocop = import_module("aiocop")
        aiocop.patch_audit_functions()
        aiocop.start_blocking_io_detection()
        aiocop.detect_slow_tasks(threshold_ms=100, on_slow_task=lambda _: None)
        aiocop.activate()
        yield
        aiocop.deactivate()


class Yappi(Contender):
    """yappi on the wall clock."""

    name = "yappi"
    gives = "profile per function"

    @asynccontextmanager
    async def inside(self) -> AsyncIterator[None]:
        yappi = import_module("yappi")
        yappi.set_clock_type("wall")
        yappi.start()
        yield
        yappi.stop()


class Debug(Contender):
    """asyncio's own debug mode."""

    name = "asyncio debug mode"
    gives = "a log line per slow callback"

    @asynccontextmanager
    async def inside(self) -> AsyncIterator[None]:
        asyncio.get_running_loop().set_debug(True)
        yield


OURS: tuple[type[Contender], ...] = (Contender, Twin, CCore)
YARDSTICKS: tuple[type[Contender], ...] = (IdleThread,)
PEERS: tuple[type[Contender], ...] = (PrometheusAsync, OpenTelemetry, AioWatch, AioCop, MonitoredIoloop, Yappi, Debug)
CONTENDERS = {contender.name: contender for contender in OURS + YARDSTICKS + PEERS}
BARE = Contender.name


def environment(name: str) -> dict[str, str]:
    """The environment of a process that runs this contender; hashes are fixed, so that dictionaries collide alike in all of them."""
    return {**os.environ, "PYTHONHASHSEED": "0", **CONTENDERS[name].environment}
