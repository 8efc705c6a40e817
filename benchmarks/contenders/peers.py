"""Other tools to compare with, each set up as its documentation says."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from importlib import import_module
from pathlib import Path
from typing import Any, ClassVar

from contenders.contender import Contender, LoopFactory


class PrometheusAsync(Contender):
    """prometheus-async's ``@time`` on every function that runs as a task."""

    name = "prometheus-async @time"
    gives = "wall histogram per function, placed by hand"

    def decorate(
        self, function: Callable[..., Coroutine[Any, Any, Any]]
    ) -> Callable[..., Coroutine[Any, Any, Any]]:
        histogram = import_module("prometheus_client").Histogram(
            f"{function.__name__}_seconds", "Wall seconds."
        )
        decorated: Callable[..., Coroutine[Any, Any, Any]] = import_module(
            "prometheus_async.aio"
        ).time(histogram)(function)
        return decorated


def _meter_provider() -> Any:
    metrics = import_module("opentelemetry.sdk.metrics")
    reader = import_module("opentelemetry.sdk.metrics.export").InMemoryMetricReader()
    return metrics.MeterProvider(metric_readers=[reader])


class OpenTelemetry(Contender):
    """opentelemetry-instrumentation-asyncio with the SDK and a reader that never collects."""

    name = "OpenTelemetry asyncio"
    gives = "wall histogram per coroutine name"

    def prepare(self) -> None:
        import_module("opentelemetry.instrumentation.asyncio").AsyncioInstrumentor().instrument(
            meter_provider=_meter_provider()
        )


class AioWatch(Contender):
    """aiowatch with the OpenTelemetry SDK and the same reader."""

    name = "aiowatch"
    gives = "task counts by status, a lag probe"

    def inside(self) -> AbstractAsyncContextManager[object]:
        watch: AbstractAsyncContextManager[object] = import_module("aiowatch").AioWatch(
            meter=_meter_provider().get_meter("benchmark"), collect_interval=5.0
        )
        return watch


class MonitoredIoloop(Contender):
    """monitored-ioloop with a prometheus_client histogram.

    Its names of callbacks are left out, since there are as many as there are tasks.
    """

    name = "monitored-ioloop"
    gives = "wall histogram of callbacks"

    def loop_factory(self, kind: str) -> LoopFactory:
        histogram = import_module("prometheus_client").Histogram(
            "callback_seconds", "Wall seconds."
        )

        def observe(state: Any) -> None:
            histogram.observe(state.callback_wall_time)

        module = import_module(f"monitored_ioloop.monitored_{kind}")
        factory: LoopFactory = getattr(module, f"monitored_{kind}_loop_factory")(observe)
        return factory


class AioCop(Contender):
    """aiocop with all features on and a callback that does nothing."""

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


class AioDebug(Contender):
    """aiodebug's log of slow callbacks."""

    name = "aiodebug"
    gives = "a log line per slow callback"

    def prepare(self) -> None:
        import_module("aiodebug.log_slow_callbacks").enable(0.1)


class Logfire(Contender):
    """Logfire's log of slow callbacks, with nothing sent."""

    name = "Logfire slow callbacks"
    gives = "a log line per slow callback"

    def prepare(self) -> None:
        logfire = import_module("logfire")
        logfire.configure(send_to_logfire=False, console=False)
        logfire.log_slow_async_callbacks(0.1)


class Sentry(Contender):
    """Sentry's AsyncioIntegration inside a transaction, with a transport that drops the spans."""

    name = "Sentry asyncio"
    gives = "a span per task, errors"

    @asynccontextmanager
    async def inside(self) -> AsyncIterator[None]:
        sentry, asynchronous = (
            import_module("sentry_sdk"),
            import_module("sentry_sdk.integrations.asyncio"),
        )
        sentry.init(
            "https://key@localhost/1",
            integrations=[asynchronous.AsyncioIntegration()],
            traces_sample_rate=1.0,
            transport=lambda _: None,
        )
        with sentry.start_transaction(name="benchmark"):
            yield


class Datadog(Contender):
    """ddtrace's asyncio integration inside a trace, as in a traced service, with nothing sent."""

    name = "ddtrace asyncio"
    gives = "a task's trace is that of its creator"
    environment: ClassVar[Mapping[str, str]] = {
        "DD_INSTRUMENTATION_TELEMETRY_ENABLED": "false",
        "DD_REMOTE_CONFIGURATION_ENABLED": "false",
        "DD_TRACE_STARTUP_LOGS": "false",
    }

    @asynccontextmanager
    async def inside(self) -> AsyncIterator[None]:
        import_module("ddtrace").patch(asyncio=True)
        with import_module("ddtrace.trace").tracer.trace("benchmark"):
            yield


class AsyncioInspector(Contender):
    """asyncio-inspector with its counters of calls, which are not reported."""

    name = "asyncio-inspector"
    gives = "active time per qualified name"

    @asynccontextmanager
    async def inside(self) -> AsyncIterator[None]:
        with import_module("asyncio_inspector").enable_inpection(asyncio.get_running_loop()):
            yield


class AsyncScope(Contender):
    """asyncscope-tracer on the functions of the benchmark; its application does nothing."""

    name = "asyncscope-tracer"
    gives = "events of every coroutine, by sys.monitoring"
    effort: ClassVar[float] = 0.05

    @asynccontextmanager
    async def inside(self) -> AsyncIterator[None]:
        scope = import_module("asyncscope").AsyncScope(None, project_root=Path(__file__).parents[1])
        scope.install()
        yield
        scope.uninstall()


PEERS: tuple[type[Contender], ...] = (
    PrometheusAsync,
    OpenTelemetry,
    AioWatch,
    AioCop,
    MonitoredIoloop,
    Yappi,
    AioDebug,
    Logfire,
    Sentry,
    Datadog,
    AsyncioInspector,
    AsyncScope,
    Debug,
)
