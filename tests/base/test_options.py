"""Options: which values are refused, with which message, and where a value comes from."""

from __future__ import annotations

from dataclasses import fields
from inspect import signature
from typing import Any

import pytest

from aiometrics import start_exporter
from aiometrics.base.options import (
    SEGMENT_BUCKETS,
    WAIT_BUCKETS,
    Options,
    RecordingOptions,
    ServingOptions,
    resolve,
)
from aiometrics.exporter import exporter as exporter_module
from aiometrics.recorder.scope import current_scope

DEFAULTS = {
    each.name: getattr(part, each.name)
    for part in (RecordingOptions(), ServingOptions())
    for each in fields(part)
}


def test_defaults_are_the_documented_ones() -> None:
    """The test lists the value of every option that is not given."""
    recording = RecordingOptions(
        segment_buckets=(0.0001, 0.001, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0),
        wait_buckets=(0.001, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0, 60.0),
        native_histograms=True,
        blocking_threshold=0.1,
        sample=1.0,
        max_yield_points=1000,
        max_coroutines=256,
        max_loops=16,
        max_requests=100,
        objectives={},
        request_id=None,
        slow_request=None,
        application=(),
        library=(),
        include=(),
        exclude=(),
        patient=(),
        watchdog=True,
        watchdog_interval=0.05,
        sample_interval=0.01,
        directory="",
    )
    serving = ServingOptions(
        port=9400,
        addr="0.0.0.0",  # noqa: S104 - the default
        web_config="",
        request_timeout=10.0,
        max_connections=16,
        on_error="retry",
        labels={},
        labels_on_series=False,
        detail=None,
    )
    assert (recording, serving) == (RecordingOptions(), ServingOptions()) == resolve(environ={})


#: A value of each option that is not its default.
OTHERS: dict[str, Any] = {
    "port": 1,
    "addr": "127.0.0.1",
    "web_config": "web.yml",
    "segment_buckets": (1.0,),
    "wait_buckets": (2.0,),
    "native_histograms": False,
    "blocking_threshold": 3.0,
    "sample": 1 / 4,
    "max_yield_points": 5,
    "max_coroutines": 6,
    "max_loops": 7,
    "max_requests": 8,
    "objectives": {"GET /": 9.0},
    "request_id": current_scope,
    "slow_request": 10.0,
    "application": ("shop",),
    "library": ("acme",),
    "include": ("shop.*",),
    "exclude": ("shop.health",),
    "patient": ("shop.chat.*",),
    "request_timeout": 11.0,
    "max_connections": 12,
    "on_error": "raise",
    "labels": {"service": "shop"},
    "labels_on_series": True,
    "detail": 15,
    "watchdog": False,
    "watchdog_interval": 13.0,
    "sample_interval": 14.0,
    "directory": "/nowhere",
}


@pytest.mark.parametrize("name", sorted(signature(start_exporter).parameters.keys() - {"registry"}))
def test_every_argument_of_start_exporter_arrives(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The value of an argument is the value of its option, and no other option changes."""
    begun: list[Options] = []
    monkeypatch.setattr(exporter_module, "_start", lambda options, *_: begun.append(options))
    start_exporter(**{name: OTHERS[name]})
    (options,) = begun
    given = {
        each.name: getattr(part, each.name)
        for part in (options.recording, options.serving)
        for each in fields(part)
    }
    assert given == {**DEFAULTS, name: OTHERS[name]}


def test_every_argument_of_start_exporter_is_one_option() -> None:
    """Each argument but the registry is a field of one of the types, and vice versa."""
    arguments = signature(start_exporter).parameters.keys() - {"registry"}
    recording, serving = (
        {each.name for each in fields(options)} for options in (RecordingOptions, ServingOptions)
    )
    assert arguments == recording | serving
    assert set() == recording & serving


ASCENDING = "must be 1 to 64 ascending bounds in seconds, at least a nanosecond apart, not"
SECONDS = "must be a number of seconds from 1e-9 to 1e+09, not"
SAMPLE = (
    "sample must be 1 for every task, or 1/N to trace one task in N "
    "(1/10, 0.01; N up to 1 000 000), not"
)
ADDR = "use '0.0.0.0' for every interface or '127.0.0.1' for this machine only"
NO_HOST = "addr must be a host name or an IP address, not the unix socket or URL"
ADDR_WHY = "which Prometheus cannot scrape"
OBJECTIVES = "seconds by type of request, such as {'GET /orders/{id}': 0.25}"
TOO_MANY = "raise max_requests, which is 1, to at least that number"


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ({"port": -1}, ValueError, "port must be from 0 to 65535, not -1"),
        ({"port": 65536}, ValueError, "port must be from 0 to 65535, not 65536"),
        ({"port": "9400"}, TypeError, "port must be an integer from 0 to 65535, not '9400'"),
        ({"port": True}, TypeError, "port must be an integer from 0 to 65535, not True"),
        ({"addr": 1}, TypeError, "addr must be a string, not 1"),
        (
            {"addr": ""},
            ValueError,
            f"addr must not be empty; {ADDR}",
        ),
        ({"addr": "/run/shop.sock"}, ValueError, f"{NO_HOST} '/run/shop.sock', {ADDR_WHY}; {ADDR}"),
        ({"addr": "unix:shop"}, ValueError, f"{NO_HOST} 'unix:shop', {ADDR_WHY}; {ADDR}"),
        ({"web_config": 1}, TypeError, "web_config must be a path, not 1"),
        ({"segment_buckets": ()}, ValueError, f"segment_buckets {ASCENDING} ()"),
        ({"segment_buckets": (2.0, 1.0)}, ValueError, f"segment_buckets {ASCENDING} (2.0, 1.0)"),
        ({"wait_buckets": (1.0, 1.0)}, ValueError, f"wait_buckets {ASCENDING} (1.0, 1.0)"),
        (
            {"wait_buckets": (1.0, 1.0000000001)},
            ValueError,
            f"wait_buckets {ASCENDING} (1.0, 1.0000000001)",
        ),
        (
            {"wait_buckets": range(1, 66)},
            ValueError,
            f"wait_buckets {ASCENDING} {tuple(range(1, 66))}",
        ),
        ({"wait_buckets": (0, 1)}, ValueError, f"each bound of wait_buckets {SECONDS} 0"),
        (
            {"wait_buckets": (1, float("inf"))},
            ValueError,
            f"each bound of wait_buckets {SECONDS} inf",
        ),
        (
            {"wait_buckets": (1, "2")},
            TypeError,
            "each bound of wait_buckets must be a number, not '2'",
        ),
        ({"wait_buckets": "1,2"}, TypeError, "wait_buckets must be a sequence, not '1,2'"),
        ({"wait_buckets": 1.0}, TypeError, "wait_buckets must be a sequence, not 1.0"),
        ({"blocking_threshold": 0}, ValueError, f"blocking_threshold {SECONDS} 0"),
        ({"blocking_threshold": 1e10}, ValueError, f"blocking_threshold {SECONDS} 10000000000.0"),
        ({"blocking_threshold": float("nan")}, ValueError, f"blocking_threshold {SECONDS} nan"),
        (
            {"blocking_threshold": "0.1"},
            TypeError,
            "blocking_threshold must be a number, not '0.1'",
        ),
        ({"sample": 0}, ValueError, f"{SAMPLE} 0"),
        ({"sample": 2}, ValueError, f"{SAMPLE} 2"),
        ({"sample": 0.3}, ValueError, f"{SAMPLE} 0.3"),
        ({"sample": 1e-7}, ValueError, f"{SAMPLE} 1e-07"),
        ({"sample": None, "max_loops": 0}, ValueError, "max_loops must be from 1 to 1000, not 0"),
        ({"max_yield_points": 0}, ValueError, "max_yield_points must be from 1 to 100000, not 0"),
        (
            {"max_coroutines": 100_001},
            ValueError,
            "max_coroutines must be from 1 to 100000, not 100001",
        ),
        (
            {"max_coroutines": 1.5},
            TypeError,
            "max_coroutines must be an integer from 1 to 100000, not 1.5",
        ),
        ({"max_requests": 0}, ValueError, "max_requests must be from 1 to 10000, not 0"),
        (
            {"objectives": 1},
            TypeError,
            f"objectives must be {OBJECTIVES}, not 1",
        ),
        (
            {"objectives": {1: 1}},
            TypeError,
            "each key of objectives must be a type of request, such as 'GET /orders/{id}', not 1",
        ),
        ({"objectives": {"GET /": 0}}, ValueError, f"the objective of 'GET /' {SECONDS} 0"),
        (
            {"objectives": {"GET /": "1"}},
            TypeError,
            "the objective of 'GET /' must be a number, not '1'",
        ),
        (
            {"objectives": {"a": 1, "b": 1}, "max_requests": 1},
            ValueError,
            f"objectives name 2 types of requests: {TOO_MANY}",
        ),
        ({"request_id": "id"}, TypeError, "request_id must be a contextvars.ContextVar, not 'id'"),
        ({"application": "shop"}, TypeError, "application must be a sequence, not 'shop'"),
        (
            {"application": [1]},
            TypeError,
            "application must be module prefixes such as ('shop', 'acme.billing'), not (1,)",
        ),
        (
            {"library": [""]},
            TypeError,
            "library must be module prefixes such as ('shop', 'acme.billing'), not ('',)",
        ),
        (
            {"exclude": [""]},
            TypeError,
            "exclude must be names of coroutines such as ('shop.health', 'shop.jobs.*'), not ('',)",
        ),
        ({"request_timeout": -1}, ValueError, f"request_timeout {SECONDS} -1"),
        ({"max_connections": 0}, ValueError, "max_connections must be from 1 to 10000, not 0"),
        ({"on_error": "ignore"}, ValueError, "on_error must be 'retry' or 'raise', not 'ignore'"),
        ({"on_error": 1}, TypeError, "on_error must be a string, not 1"),
        (
            {"labels": "service=shop"},
            TypeError,
            "labels must be values by name, such as {'service': 'shop'}, not 'service=shop'",
        ),
        (
            {"labels": {"version": 1.4}},
            TypeError,
            "labels must be strings, such as {'version': '1.4'}, not 'version': 1.4",
        ),
        *(
            (
                {"labels": {name: "x"}},
                ValueError,
                f"labels has {name!r}, which is not a valid label name: use letters, digits and _",
            )
            for name in ("", "1st", "my-service", "__name__", "a.b", "größe")
        ),
        (
            {"labels": {"service": ""}},
            ValueError,
            "labels has 'service': '', but to Prometheus an empty label is none: leave it out",
        ),
        ({"labels_on_series": 1}, TypeError, "labels_on_series must be True or False, not 1"),
        ({"detail": 0}, ValueError, "detail must be from 1 to 100000, not 0"),
        ({"detail": True}, TypeError, "detail must be an integer from 1 to 100000, not True"),
        ({"watchdog": 1}, TypeError, "watchdog must be True or False, not 1"),
        ({"watchdog_interval": 0}, ValueError, f"watchdog_interval {SECONDS} 0"),
        ({"sample_interval": -1}, ValueError, f"sample_interval {SECONDS} -1"),
    ],
)
def test_wrong_option_is_refused(
    given: dict[str, Any], error: type[Exception], message: str
) -> None:
    """The error names the option, its value and what is allowed."""
    with pytest.raises(error) as caught:
        resolve(**given, environ={})
    assert message == str(caught.value)


def test_unknown_option_is_refused() -> None:
    """A misspelt name raises TypeError."""
    with pytest.raises(TypeError, match="unexpected keyword argument 'prot'"):
        resolve(prot=1, environ={})  # type: ignore[call-arg]


@pytest.mark.parametrize(
    ("variable", "text", "name", "expected"),
    [
        ("AIOMETRICS_PORT", "0", "port", 0),
        ("AIOMETRICS_PORT", " 9401 ", "port", 9401),
        ("AIOMETRICS_PORT", "", "port", 9400),
        ("AIOMETRICS_ADDR", "127.0.0.1", "addr", "127.0.0.1"),
        ("AIOMETRICS_SEGMENT_BUCKETS", "0.1, 1,", "segment_buckets", (0.1, 1.0)),
        ("AIOMETRICS_WAIT_BUCKETS", "5", "wait_buckets", (5.0,)),
        ("AIOMETRICS_NATIVE_HISTOGRAMS", "no", "native_histograms", False),
        ("AIOMETRICS_BLOCKING_THRESHOLD", "0.25", "blocking_threshold", 0.25),
        ("AIOMETRICS_SAMPLE", "1/10", "sample", 0.1),
        ("AIOMETRICS_SAMPLE", "0.5", "sample", 0.5),
        ("AIOMETRICS_MAX_YIELD_POINTS", "7", "max_yield_points", 7),
        ("AIOMETRICS_MAX_COROUTINES", "8", "max_coroutines", 8),
        ("AIOMETRICS_MAX_LOOPS", "9", "max_loops", 9),
        ("AIOMETRICS_MAX_REQUESTS", "10", "max_requests", 10),
        (
            "AIOMETRICS_OBJECTIVES",
            "GET /a=0.25, b=c = 1",
            "objectives",
            {"GET /a": 0.25, "b=c": 1.0},
        ),
        ("AIOMETRICS_OBJECTIVES", '{"GET /a,b": 2}', "objectives", {"GET /a,b": 2}),
        (
            "AIOMETRICS_REQUEST_ID",
            "aiometrics.recorder.scope:current_scope",
            "request_id",
            current_scope,
        ),
        ("AIOMETRICS_APPLICATION", "shop, acme.billing", "application", ("shop", "acme.billing")),
        ("AIOMETRICS_LIBRARY", "vendored", "library", ("vendored",)),
        ("AIOMETRICS_INCLUDE", "shop.*", "include", ("shop.*",)),
        ("AIOMETRICS_EXCLUDE", "shop.a, shop.b", "exclude", ("shop.a", "shop.b")),
        ("AIOMETRICS_PATIENT", "shop.chat.*", "patient", ("shop.chat.*",)),
        ("AIOMETRICS_REQUEST_TIMEOUT", "2.5", "request_timeout", 2.5),
        ("AIOMETRICS_MAX_CONNECTIONS", "3", "max_connections", 3),
        ("AIOMETRICS_ON_ERROR", "raise", "on_error", "raise"),
        (
            "AIOMETRICS_LABELS",
            "service=shop, version = 1.4=x",
            "labels",
            {"service": "shop", "version": "1.4=x"},
        ),
        ("AIOMETRICS_LABELS", '{"team": "a,b"}', "labels", {"team": "a,b"}),
        ("AIOMETRICS_LABELS_ON_SERIES", "1", "labels_on_series", True),
        ("AIOMETRICS_DETAIL", "50", "detail", 50),
        ("AIOMETRICS_WATCHDOG", "Off", "watchdog", False),
        ("AIOMETRICS_WATCHDOG", "1", "watchdog", True),
        ("AIOMETRICS_WATCHDOG_INTERVAL", "0.2", "watchdog_interval", 0.2),
        ("AIOMETRICS_SAMPLE_INTERVAL", "0", "sample_interval", 0),
    ],
)
def test_every_option_can_come_from_the_environment(
    variable: str, text: str, name: str, expected: object
) -> None:
    """The variable has the option's name; an empty one counts as not set."""
    recording, serving = resolve(environ={variable: text})
    assert expected == getattr(recording if hasattr(recording, name) else serving, name)


def test_explicit_argument_wins_over_the_environment() -> None:
    """The variable is used where the argument is ``None``."""
    environ = {"AIOMETRICS_PORT": "1", "AIOMETRICS_SAMPLE": "1/2"}
    recording, serving = resolve(port=2, sample=None, environ=environ)
    assert (2, 0.5) == (serving.port, recording.sample)


@pytest.mark.parametrize(
    ("variable", "text", "kind"),
    [
        ("AIOMETRICS_PORT", "http", "int"),
        ("AIOMETRICS_SAMPLE", "1/0", "float"),
        ("AIOMETRICS_SAMPLE", "half", "float"),
        ("AIOMETRICS_WAIT_BUCKETS", "1,two", "tuple[float, ...]"),
        ("AIOMETRICS_WATCHDOG", "perhaps", "bool"),
        ("AIOMETRICS_OBJECTIVES", "GET /", "Mapping[str, float]"),
        ("AIOMETRICS_OBJECTIVES", "{GET /: 1}", "Mapping[str, float]"),
        ("AIOMETRICS_REQUEST_ID", "aiometrics.recorder.scope:nothing", "ContextVar[Any] | None"),
        ("AIOMETRICS_REQUEST_ID", "no_module", "ContextVar[Any] | None"),
    ],
)
def test_error_names_a_wrong_variable(variable: str, text: str, kind: str) -> None:
    """The message has the variable, its text and the expected type."""
    with pytest.raises(ValueError, match="environment variable") as caught:
        resolve(environ={variable: text})
    assert f"environment variable {variable}={text!r} is not a valid {kind}" == str(caught.value)


def test_variable_out_of_range_is_refused_like_an_argument() -> None:
    """The message is that of the argument."""
    with pytest.raises(ValueError, match="port must be from 0 to 65535, not 70000"):
        resolve(environ={"AIOMETRICS_PORT": "70000"})


def test_pages_stay_the_same_when_the_watchdog_changes() -> None:
    """An exporter with another watchdog can take over a running instrumentation."""
    watched = RecordingOptions(watchdog=False, watchdog_interval=1, sample_interval=0)
    assert RecordingOptions().same_pages(watched)
    assert not RecordingOptions().same_pages(RecordingOptions(sample=0.5))


@pytest.mark.parametrize(
    ("sample", "weight"), [(1, 1), (0.5, 2), (1 / 3, 3), (0.01, 100), (1e-6, 1_000_000)]
)
def test_weight_is_the_inverse_of_the_sample(sample: float, weight: int) -> None:
    """The weight is a whole number."""
    assert weight == RecordingOptions(sample=sample).weight


def test_threshold_is_exact_in_nanoseconds() -> None:
    """0.1 s are 100 000 000 ns, and the bound of a default bucket of segments and of waits."""
    assert 100_000_000 == RecordingOptions().blocking_threshold_ns
    assert 0.1 in SEGMENT_BUCKETS
    assert 0.1 in WAIT_BUCKETS
