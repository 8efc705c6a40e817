"""The options of an exporter: validated before anything is installed, and frozen.

:class:`RecordingOptions` decide how numbers are recorded, :class:`ServingOptions` how they are
served.
"""

from __future__ import annotations

import importlib
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import Field, dataclass, field, fields, replace
from typing import Any, NamedTuple, TypeVar

from aiometrics.base.clock import SECOND_NS
from aiometrics.base.option_checks import (
    check_addr,
    check_buckets,
    check_choice,
    check_count,
    check_flag,
    check_labels,
    check_objectives,
    check_path,
    check_patterns,
    check_prefixes,
    check_sample,
    check_seconds,
    check_variable,
)

T = TypeVar("T")

DEFAULT_PORT = 9400
SEGMENT_BUCKETS = (0.0001, 0.001, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0)
WAIT_BUCKETS = (0.001, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0, 60.0)


def _number(text: str) -> float:
    """Return a number, or the value of a fraction such as 1/10."""
    numerator, slash, denominator = text.partition("/")
    return float(numerator) / float(denominator) if slash else float(text)


def _flag(text: str) -> bool:
    """Return whether the text means yes or no. Raises ``KeyError`` for any other word."""
    return {
        "1": True,
        "true": True,
        "yes": True,
        "on": True,
        "0": False,
        "false": False,
        "no": False,
        "off": False,
    }[text.lower()]


def _floats(text: str) -> tuple[float, ...]:
    return tuple(float(part) for part in text.split(",") if part.strip())


def _strings(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip())


def _objectives(text: str) -> dict[str, float]:
    """Parse ``type=seconds`` pairs separated by commas, or a JSON object.

    JSON is for types that contain commas.
    """
    if text.startswith("{"):
        return dict(json.loads(text))
    pairs = (part.rpartition("=") for part in _strings(text))
    return {name.strip(): float(seconds) for name, _, seconds in pairs}


def _labels(text: str) -> dict[str, str]:
    """Parse ``name=value`` pairs separated by commas, or a JSON object."""
    if text.startswith("{"):
        return dict(json.loads(text))
    pairs = (part.partition("=") for part in _strings(text))
    return {name.strip(): value.strip() for name, _, value in pairs}


def _variable(text: str) -> Any:
    """Import the variable that ``module:name`` names."""
    module, _, name = text.partition(":")
    try:
        return getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise ValueError(text) from error


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordingOptions:
    """The options of ``start_exporter`` that decide how numbers are recorded.

    Names and meanings are those of its arguments; durations are in seconds. ``parse`` in a field's
    metadata converts the text of its environment variable.
    """

    segment_buckets: tuple[float, ...] = field(default=SEGMENT_BUCKETS, metadata={"parse": _floats})
    wait_buckets: tuple[float, ...] = field(default=WAIT_BUCKETS, metadata={"parse": _floats})
    native_histograms: bool = field(default=True, metadata={"parse": _flag})
    blocking_threshold: float = field(default=0.1, metadata={"parse": _number})
    sample: float = field(default=1.0, metadata={"parse": _number})
    max_yield_points: int = field(default=1000, metadata={"parse": int})
    max_coroutines: int = field(default=256, metadata={"parse": int})
    max_loops: int = field(default=16, metadata={"parse": int})
    max_requests: int = field(default=100, metadata={"parse": int})
    objectives: Mapping[str, float] = field(default_factory=dict, metadata={"parse": _objectives})
    request_id: ContextVar[Any] | None = field(default=None, metadata={"parse": _variable})
    slow_request: float | None = field(default=None, metadata={"parse": _number})
    application: tuple[str, ...] = field(default=(), metadata={"parse": _strings})
    library: tuple[str, ...] = field(default=(), metadata={"parse": _strings})
    include: tuple[str, ...] = field(default=(), metadata={"parse": _strings})
    exclude: tuple[str, ...] = field(default=(), metadata={"parse": _strings})
    patient: tuple[str, ...] = field(default=(), metadata={"parse": _strings})
    watchdog: bool = field(default=True, metadata={"parse": _flag})
    watchdog_interval: float = field(default=0.05, metadata={"parse": _number})
    sample_interval: float = field(default=0.01, metadata={"parse": _number})
    directory: str = field(default="", metadata={"parse": str})

    def __post_init__(self) -> None:
        check_path("directory", self.directory)
        check_buckets("segment_buckets", self.segment_buckets)
        check_buckets("wait_buckets", self.wait_buckets)
        check_flag("native_histograms", self.native_histograms)
        check_seconds("blocking_threshold", self.blocking_threshold)
        check_sample(self.sample)
        check_count("max_yield_points", self.max_yield_points, 1, 100_000)
        check_count("max_coroutines", self.max_coroutines, 1, 100_000)
        check_count("max_loops", self.max_loops, 1, 1000)
        check_count("max_requests", self.max_requests, 1, 10_000)
        check_objectives(self.objectives, self.max_requests)
        check_variable("request_id", self.request_id)
        if self.slow_request is not None:
            check_seconds("slow_request", self.slow_request)
        check_prefixes("application", self.application)
        check_prefixes("library", self.library)
        check_patterns("include", self.include)
        check_patterns("exclude", self.exclude)
        check_patterns("patient", self.patient)
        check_flag("watchdog", self.watchdog)
        check_seconds("watchdog_interval", self.watchdog_interval)
        if self.sample_interval != 0:
            check_seconds("sample_interval", self.sample_interval)

    def same_pages(self, other: RecordingOptions) -> bool:
        """Whether ``other`` leads to the same numbers and names in the pages.

        The watchdog and the sampler may differ: new ones can be started at any time.
        """
        return other == replace(
            self,
            watchdog=other.watchdog,
            watchdog_interval=other.watchdog_interval,
            sample_interval=other.sample_interval,
        )

    @property
    def weight(self) -> int:
        """The number of tasks that one traced task stands for."""
        return round(1 / self.sample)

    @property
    def blocking_threshold_ns(self) -> int:
        """The blocking threshold in ns."""
        return round(self.blocking_threshold * SECOND_NS)

    @property
    def slow_request_ns(self) -> int | None:
        """The ns from which a request is slow if its type has no objective; ``None`` if not set."""
        return None if self.slow_request is None else round(self.slow_request * SECOND_NS)


@dataclass(frozen=True, slots=True, kw_only=True)
class ServingOptions:
    """The options of ``start_exporter`` that decide how numbers are served.

    Fields are as in :class:`RecordingOptions`.
    """

    port: int = field(default=DEFAULT_PORT, metadata={"parse": int})
    #: Every interface, because Prometheus scrapes from another host.
    addr: str = field(default="0.0.0.0", metadata={"parse": str})  # noqa: S104 - see above
    web_config: str = field(default="", metadata={"parse": str})
    request_timeout: float = field(default=10.0, metadata={"parse": _number})
    max_connections: int = field(default=16, metadata={"parse": int})
    on_error: str = field(default="retry", metadata={"parse": str})
    labels: Mapping[str, str] = field(default_factory=dict, metadata={"parse": _labels})
    labels_on_series: bool = field(default=False, metadata={"parse": _flag})
    detail: int | None = field(default=None, metadata={"parse": int})

    def __post_init__(self) -> None:
        check_count("port", self.port, 0, 65535)
        check_addr(self.addr)
        check_path("web_config", self.web_config)
        check_seconds("request_timeout", self.request_timeout)
        check_count("max_connections", self.max_connections, 1, 10_000)
        check_choice("on_error", self.on_error, ("retry", "raise"))
        check_labels(self.labels)
        check_flag("labels_on_series", self.labels_on_series)
        if self.detail is not None:
            check_count("detail", self.detail, 1, 100_000)


class Options(NamedTuple):
    """All options of an exporter."""

    recording: RecordingOptions
    serving: ServingOptions

    def values(self) -> dict[str, Any]:
        """Return the value of each option by its name."""
        return {option.name: getattr(part, option.name) for part in self for option in fields(part)}


def resolve(
    *,
    port: int | None = None,
    addr: str | None = None,
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
    environ: Mapping[str, str] = os.environ,
) -> Options:
    """Complete the given options from ``AIOMETRICS_*`` variables, and then from the defaults.

    ``None`` means not given. Raises ``TypeError`` or ``ValueError`` naming the option, its value
    and what is allowed.
    """
    recording = _fallbacks(RecordingOptions, environ)
    serving = _fallbacks(ServingOptions, environ)
    return Options(
        RecordingOptions(
            segment_buckets=_first(
                _tuple("segment_buckets", segment_buckets), recording["segment_buckets"]
            ),
            wait_buckets=_first(_tuple("wait_buckets", wait_buckets), recording["wait_buckets"]),
            native_histograms=_first(native_histograms, recording["native_histograms"]),
            blocking_threshold=_first(blocking_threshold, recording["blocking_threshold"]),
            sample=_first(sample, recording["sample"]),
            max_yield_points=_first(max_yield_points, recording["max_yield_points"]),
            max_coroutines=_first(max_coroutines, recording["max_coroutines"]),
            max_loops=_first(max_loops, recording["max_loops"]),
            max_requests=_first(max_requests, recording["max_requests"]),
            objectives=_first(objectives, recording["objectives"]),
            request_id=_first(request_id, recording["request_id"]),
            slow_request=_first(slow_request, recording["slow_request"]),
            application=_first(_tuple("application", application), recording["application"]),
            library=_first(_tuple("library", library), recording["library"]),
            include=_first(_tuple("include", include), recording["include"]),
            exclude=_first(_tuple("exclude", exclude), recording["exclude"]),
            patient=_first(_tuple("patient", patient), recording["patient"]),
            watchdog=_first(watchdog, recording["watchdog"]),
            watchdog_interval=_first(watchdog_interval, recording["watchdog_interval"]),
            sample_interval=_first(sample_interval, recording["sample_interval"]),
            directory=_first(_path(directory), recording["directory"]),
        ),
        ServingOptions(
            port=_first(port, serving["port"]),
            addr=_first(addr, serving["addr"]),
            web_config=_first(_path(web_config), serving["web_config"]),
            request_timeout=_first(request_timeout, serving["request_timeout"]),
            max_connections=_first(max_connections, serving["max_connections"]),
            on_error=_first(on_error, serving["on_error"]),
            labels=_first(labels, serving["labels"]),
            labels_on_series=_first(labels_on_series, serving["labels_on_series"]),
            detail=_first(detail, serving["detail"]),
        ),
    )


def variable_of(option: str) -> str:
    """Return the name of an option's environment variable."""
    return "AIOMETRICS_DIR" if option == "directory" else f"AIOMETRICS_{option.upper()}"


def _fallbacks(
    options: type[RecordingOptions | ServingOptions], environ: Mapping[str, str]
) -> dict[str, Any]:
    """Return the value of each option that is not given: its variable's value, or its default."""
    defaults = options()
    return {
        option.name: _first(_from_environment(option, environ), getattr(defaults, option.name))
        for option in fields(options)
    }


def _from_environment(option: Field[Any], environ: Mapping[str, str]) -> Any:
    """Return the value of an option's variable, or ``None`` if that is not set or empty."""
    variable = variable_of(option.name)
    text = environ.get(variable, "").strip()
    if not text:
        return None
    try:
        return option.metadata["parse"](text)
    except (ValueError, KeyError, ZeroDivisionError):
        raise ValueError(
            f"environment variable {variable}={text!r} is not a valid {option.type}"
        ) from None


def _first(given: T | None, fallback: T) -> T:
    return fallback if given is None else given


def _tuple(name: str, given: object) -> tuple[Any, ...] | None:
    if given is None:
        return None
    if isinstance(given, str) or not isinstance(given, Iterable):
        raise TypeError(f"{name} must be a sequence, not {given!r}")
    return tuple(given)


def _path(given: Any) -> Any:
    """Return a path object as text; the type of everything else is checked later."""
    return os.fspath(given) if isinstance(given, os.PathLike) else given
