"""The options of an exporter: checked once, before anything is installed, and frozen."""

from __future__ import annotations

import importlib
import json
import os
from collections.abc import Callable, Iterable, Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field, fields, replace
from typing import Any

from aiometrics.base.clock import SECOND_NS

DEFAULT_PORT = 9400
#: Thirty years; in ns it still fits into a page.
LONGEST_SECONDS = 1e9
SEGMENT_BUCKETS = (0.0001, 0.001, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0)
#: What an exporter does with the numbers, and not how they come about.
_OF_THE_EXPORTER = (
    "port",
    "addr",
    "web_config",
    "request_timeout",
    "max_connections",
    "watchdog",
    "watchdog_interval",
)
WAIT_BUCKETS = (0.001, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0, 60.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """Each option of ``start_exporter``, with the meaning it has there. Durations are in seconds."""

    port: int = DEFAULT_PORT
    addr: str = "0.0.0.0"  # noqa: S104 - Prometheus scrapes from another host
    web_config: str = ""
    segment_buckets: tuple[float, ...] = SEGMENT_BUCKETS
    wait_buckets: tuple[float, ...] = WAIT_BUCKETS
    blocking_threshold: float = 0.1
    sample: float = 1.0
    max_yield_points: int = 1000
    max_coroutines: int = 256
    max_loops: int = 16
    max_requests: int = 100
    objectives: Mapping[str, float] = field(default_factory=dict)
    request_id: ContextVar[Any] | None = None
    slow_request: float | None = None
    application: tuple[str, ...] = ()
    library: tuple[str, ...] = ()
    request_timeout: float = 10.0
    max_connections: int = 16
    watchdog: bool = True
    watchdog_interval: float = 0.05
    directory: str = ""

    def __post_init__(self) -> None:
        _check_port(self.port)
        _check_text("addr", self.addr)
        _check_path("web_config", self.web_config)
        _check_path("directory", self.directory)
        _check_buckets("segment_buckets", self.segment_buckets)
        _check_buckets("wait_buckets", self.wait_buckets)
        _check_seconds("blocking_threshold", self.blocking_threshold)
        _check_sample(self.sample)
        _check_count("max_yield_points", self.max_yield_points, 1, 100_000)
        _check_count("max_coroutines", self.max_coroutines, 1, 100_000)
        _check_count("max_loops", self.max_loops, 1, 1000)
        _check_count("max_requests", self.max_requests, 1, 10_000)
        _check_objectives(self.objectives, self.max_requests)
        _check_variable("request_id", self.request_id)
        if self.slow_request is not None:
            _check_seconds("slow_request", self.slow_request)
        _check_prefixes("application", self.application)
        _check_prefixes("library", self.library)
        _check_seconds("request_timeout", self.request_timeout)
        _check_count("max_connections", self.max_connections, 1, 10_000)
        _check_flag("watchdog", self.watchdog)
        _check_seconds("watchdog_interval", self.watchdog_interval)

    def measures_as(self, other: Options) -> bool:
        """Whether ``other`` measures and names the same way, wherever it serves the numbers."""
        return other == replace(self, **{name: getattr(other, name) for name in _OF_THE_EXPORTER})

    @property
    def weight(self) -> int:
        """How many tasks one traced task stands for."""
        return round(1 / self.sample)

    @property
    def blocking_threshold_ns(self) -> int:
        """The blocking threshold in ns."""
        return round(self.blocking_threshold * SECOND_NS)

    @property
    def slow_request_ns(self) -> int | None:
        """What a request may take whose type has no objective, in ns."""
        return None if self.slow_request is None else round(self.slow_request * SECOND_NS)


def _check_port(port: object) -> None:
    _check_count("port", port, 0, 65535)


def _check_text(name: str, value: object) -> None:
    if not isinstance(value, str):
        raise TypeError(f"{name} must be a string, not {value!r}")
    if not value:
        raise ValueError(
            f"{name} must not be empty; use '0.0.0.0' for every interface or '127.0.0.1' for this machine only"
        )


def _check_path(name: str, value: object) -> None:
    if not isinstance(value, str):
        raise TypeError(f"{name} must be a path, not {value!r}")


def _check_flag(name: str, value: object) -> None:
    if not isinstance(value, bool):
        raise TypeError(f"{name} must be True or False, not {value!r}")


def _check_number(name: str, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{name} must be a number, not {value!r}")


def _check_seconds(name: str, value: float) -> None:
    _check_number(name, value)
    if not 1e-9 <= value <= LONGEST_SECONDS:
        raise ValueError(
            f"{name} must be a number of seconds from 1e-9 to {LONGEST_SECONDS:g}, not {value!r}"
        )


def _check_count(name: str, value: object, low: int, high: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} must be an integer from {low} to {high}, not {value!r}")
    if not low <= value <= high:
        raise ValueError(f"{name} must be from {low} to {high}, not {value!r}")


def _check_buckets(name: str, bounds: tuple[float, ...]) -> None:
    for bound in bounds:
        _check_seconds(f"each bound of {name}", bound)
    rounded = [round(bound * SECOND_NS) for bound in bounds]
    if not 1 <= len(bounds) <= 64 or rounded != sorted(set(rounded)):
        raise ValueError(
            f"{name} must be 1 to 64 ascending bounds in seconds, at least a nanosecond apart, not {bounds!r}"
        )


def _check_sample(sample: float) -> None:
    _check_number("sample", sample)
    if not 1e-6 <= sample <= 1 or abs(1 / sample - round(1 / sample)) > 1e-6:
        raise ValueError(
            f"sample must be 1 for every task, or 1/N to trace one task in N (1/10, 0.01; N up to 1 000 000), not {sample!r}"
        )


def _check_prefixes(name: str, prefixes: tuple[object, ...]) -> None:
    for prefix in prefixes:
        if not isinstance(prefix, str) or not prefix:
            raise TypeError(
                f"{name} must be module prefixes such as ('shop', 'acme.billing'), not {prefixes!r}"
            )


def _check_objectives(objectives: object, most: int) -> None:
    if not isinstance(objectives, Mapping):
        raise TypeError(
            f"objectives must be seconds by type of request, such as {{'GET /orders/{{id}}': 0.25}}, not {objectives!r}"
        )
    for name, seconds in objectives.items():
        if not isinstance(name, str) or not name:
            raise TypeError(
                f"each key of objectives must be a type of request, such as 'GET /orders/{{id}}', not {name!r}"
            )
        _check_seconds(f"the objective of {name!r}", seconds)
    if len(objectives) > most:
        raise ValueError(
            f"objectives are of {len(objectives)} types of requests: raise max_requests, which is {most}, to that number at least"
        )


def _check_variable(name: str, value: object) -> None:
    if value is not None and not isinstance(value, ContextVar):
        raise TypeError(f"{name} must be a contextvars.ContextVar, not {value!r}")


def _number(text: str) -> float:
    """A number, or a fraction such as 1/10."""
    numerator, slash, denominator = text.partition("/")
    return float(numerator) / float(denominator) if slash else float(text)


def _flag(text: str) -> bool:
    """Raises ``KeyError`` for what means neither."""
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
    """``type=seconds`` separated by commas, or a JSON object where types have commas."""
    if text.startswith("{"):
        return dict(json.loads(text))
    pairs = (part.rpartition("=") for part in _strings(text))
    return {name.strip(): float(seconds) for name, _, seconds in pairs}


def _variable(text: str) -> Any:
    """The variable that ``module:name`` names."""
    module, _, name = text.partition(":")
    try:
        return getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise ValueError(text) from error


_PARSERS: dict[str, Callable[[str], Any]] = {
    "int": int,
    "float": _number,
    "float | None": _number,
    "str": str,
    "bool": _flag,
    "tuple[float, ...]": _floats,
    "tuple[str, ...]": _strings,
    "Mapping[str, float]": _objectives,
    "ContextVar[Any] | None": _variable,
}


def variable_of(option: str) -> str:
    """The environment variable of an option."""
    return "AIOMETRICS_DIR" if option == "directory" else f"AIOMETRICS_{option.upper()}"


def _from_environment(environ: Mapping[str, str]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for option in fields(Options):
        variable = variable_of(option.name)
        text = environ.get(variable, "").strip()
        if not text:
            continue
        try:
            values[option.name] = _PARSERS[str(option.type)](text)
        except (ValueError, KeyError, ZeroDivisionError):
            raise ValueError(
                f"environment variable {variable}={text!r} is not a valid {option.type}"
            ) from None
    return values


def _tuple(name: str, value: object) -> tuple[Any, ...]:
    if isinstance(value, str) or not isinstance(value, Iterable):
        raise TypeError(f"{name} must be a sequence, not {value!r}")
    return tuple(value)


def resolve(given: Mapping[str, Any], environ: Mapping[str, str] = os.environ) -> Options:
    """Options from explicit arguments (``None`` means not given), then ``AIOMETRICS_*`` variables, then the defaults.

    Raises ``TypeError`` or ``ValueError`` naming the option, its value and what is allowed.
    """
    explicit = {name: value for name, value in given.items() if value is not None}
    for name in ("segment_buckets", "wait_buckets", "application", "library"):
        if name in explicit:
            explicit[name] = _tuple(name, explicit[name])
    for name in ("web_config", "directory"):
        if isinstance(explicit.get(name), os.PathLike):
            explicit[name] = os.fspath(explicit[name])
    return Options(**{**_from_environment(environ), **explicit})
