"""Log records as JSON: one line each, in the names of the Elastic Common Schema."""

from __future__ import annotations

import json
import logging
import sys
import threading
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aiometrics.ecs import EcsFormatter, timestamp


def record(message: str = "it took %s", *args: object, **attributes: Any) -> logging.LogRecord:
    """Return a record of a fixed moment."""
    made = logging.LogRecord(
        "shop.orders",
        logging.WARNING,
        __file__,
        1,
        message,
        args or ("long",),
        attributes.pop("exc_info", None),
    )
    made.created = 1_763_856_000.25
    made.process, made.threadName = 42, "MainThread"
    vars(made).update(attributes)
    return made


def fields(made: logging.LogRecord) -> dict[str, Any]:
    """Return the fields of a formatted record."""
    line = EcsFormatter().format(made)
    assert "\n" not in line
    found: dict[str, Any] = json.loads(line)
    return found


def test_a_plain_record() -> None:
    """Time, level and message come first, as the schema's rules for loggers demand."""
    assert [
        ("@timestamp", "2025-11-23T00:00:00.250000Z"),
        ("log.level", "warning"),
        ("message", "it took long"),
        ("ecs.version", "8.11.0"),
        ("log.logger", "shop.orders"),
        ("process.pid", 42),
        ("process.thread.name", "MainThread"),
    ] == list(fields(record()).items())


def test_fields_of_the_record_are_added_and_win() -> None:
    """An event says when it happened, which is not when it was written."""
    own = {
        "@timestamp": "2025-11-22T23:59:59.000000Z",
        "event.duration": 1,
        "labels.request": "GET /",
    }
    found = fields(record(ecs=own))
    assert own == {name: found[name] for name in own}
    assert "@timestamp" == next(iter(found))


def test_numbers_that_json_does_not_know_are_text() -> None:
    """A reader would refuse the whole line because of one."""
    own = {"ratio": float("nan"), "limits": [float("inf"), {"low": float("-inf"), "high": 1.5}]}
    line = EcsFormatter().format(record(ecs=own))

    def refuse(word: str) -> None:
        raise AssertionError(word)

    found = json.loads(line, parse_constant=refuse)
    assert {"ratio": "nan", "limits": ["inf", {"low": "-inf", "high": 1.5}]} == {
        name: found[name] for name in own
    }


@pytest.mark.parametrize("own", [None, 7, ["a"]])
def test_an_attribute_that_is_not_a_mapping_is_ignored(own: object) -> None:
    """Another library may use the attribute for something else."""
    assert fields(record()) == fields(record(ecs=own))


def test_an_error_has_type_message_and_traceback() -> None:
    """The type has its module, and everything is on the same line."""
    error = ValueError("invalid literal")
    try:
        raise error
    except ValueError:
        made = record(exc_info=sys.exc_info())
    found = fields(made)
    assert ("builtins.ValueError", "invalid literal") == (
        found["error.type"],
        found["error.message"],
    )
    assert found["error.stack_trace"].startswith("Traceback (most recent call last):\n")


def test_values_that_json_does_not_know_are_text() -> None:
    """A lock among the fields does not lose the event."""
    lock = threading.Lock()
    assert str(lock) == fields(record(ecs={"labels.lock": lock}))["labels.lock"]


@given(text=st.text(st.characters()))
def test_any_text_becomes_valid_utf_8(text: str) -> None:
    """Text is unchanged, except that lone surrogates are replaced."""
    line = EcsFormatter().format(record(ecs={"labels.request": text}))
    assert 1 == len(line.encode().split(b"\n"))
    assert text.encode(errors="replace").decode() == json.loads(line)["labels.request"]


def test_times_have_microseconds_and_are_in_utc() -> None:
    """A whole second has them too; fractions of a microsecond are cut off."""
    assert ("1970-01-01T00:00:00.000000Z", "2025-11-23T00:00:00.123456Z") == (
        timestamp(0),
        timestamp(1_763_856_000_123_456_999),
    )
