"""Checks of the values of options: each error names the option, its value and what is allowed."""

from __future__ import annotations

import re
from collections.abc import Mapping
from contextvars import ContextVar

from aiometrics.base.clock import SECOND_NS

#: Thirty years, which in ns still fits into a word of a page.
LONGEST_SECONDS = 1e9
_LABEL = re.compile(r"(?!__)[A-Za-z_][A-Za-z0-9_]*")


def check_addr(value: object) -> None:
    """Refuse what is no host name or address."""
    if not isinstance(value, str):
        raise TypeError(f"addr must be a string, not {value!r}")
    advice = "use '0.0.0.0' for every interface or '127.0.0.1' for this machine only"
    if not value:
        raise ValueError(f"addr must not be empty; {advice}")
    if "/" in value or value.startswith("unix:"):
        raise ValueError(
            f"addr must be a host name or an IP address, not the unix socket or URL {value!r}, "
            f"which Prometheus cannot scrape; {advice}"
        )


def check_choice(name: str, value: object, choices: tuple[str, ...]) -> None:
    """Refuse what is none of the words."""
    if not isinstance(value, str):
        raise TypeError(f"{name} must be a string, not {value!r}")
    if value not in choices:
        raise ValueError(f"{name} must be {' or '.join(map(repr, choices))}, not {value!r}")


def check_path(name: str, value: object) -> None:
    """Refuse what is no text."""
    if not isinstance(value, str):
        raise TypeError(f"{name} must be a path, not {value!r}")


def check_flag(name: str, value: object) -> None:
    """Refuse what is neither true nor false."""
    if not isinstance(value, bool):
        raise TypeError(f"{name} must be True or False, not {value!r}")


def check_number(name: str, value: object) -> None:
    """Refuse what is no number."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{name} must be a number, not {value!r}")


def check_seconds(name: str, value: float) -> None:
    """Refuse what is no number of seconds that fits into a word of a page."""
    check_number(name, value)
    if not 1e-9 <= value <= LONGEST_SECONDS:
        raise ValueError(
            f"{name} must be a number of seconds from 1e-9 to {LONGEST_SECONDS:g}, not {value!r}"
        )


def check_count(name: str, value: object, low: int, high: int) -> None:
    """Refuse what is no integer within these bounds."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} must be an integer from {low} to {high}, not {value!r}")
    if not low <= value <= high:
        raise ValueError(f"{name} must be from {low} to {high}, not {value!r}")


def check_buckets(name: str, bounds: tuple[float, ...]) -> None:
    """Refuse bounds that do not ascend, or are too many."""
    for bound in bounds:
        check_seconds(f"each bound of {name}", bound)
    rounded = [round(bound * SECOND_NS) for bound in bounds]
    if not 1 <= len(bounds) <= 64 or rounded != sorted(set(rounded)):
        raise ValueError(
            f"{name} must be 1 to 64 ascending bounds in seconds, at least a nanosecond apart, "
            f"not {bounds!r}"
        )


def check_sample(sample: float) -> None:
    """Refuse what is not one task in a whole number."""
    check_number("sample", sample)
    if not 1e-6 <= sample <= 1 or abs(1 / sample - round(1 / sample)) > 1e-6:
        raise ValueError(
            "sample must be 1 for every task, or 1/N to trace one task in N "
            f"(1/10, 0.01; N up to 1 000 000), not {sample!r}"
        )


def check_prefixes(name: str, prefixes: tuple[object, ...]) -> None:
    """Refuse what is no name of a module."""
    for prefix in prefixes:
        if not isinstance(prefix, str) or not prefix:
            raise TypeError(
                f"{name} must be module prefixes such as ('shop', 'acme.billing'), not {prefixes!r}"
            )


def check_patterns(name: str, patterns: tuple[object, ...]) -> None:
    """Refuse what is no name of a coroutine."""
    for pattern in patterns:
        if not isinstance(pattern, str) or not pattern:
            raise TypeError(
                f"{name} must be names of coroutines such as ('shop.health', 'shop.jobs.*'), "
                f"not {patterns!r}"
            )


def check_objectives(objectives: object, most: int) -> None:
    """Refuse what is not a limited number of seconds by type of request."""
    if not isinstance(objectives, Mapping):
        raise TypeError(
            "objectives must be seconds by type of request, such as "
            f"{{'GET /orders/{{id}}': 0.25}}, not {objectives!r}"
        )
    for name, seconds in objectives.items():
        if not isinstance(name, str) or not name:
            raise TypeError(
                "each key of objectives must be a type of request, such as 'GET /orders/{id}', "
                f"not {name!r}"
            )
        check_seconds(f"the objective of {name!r}", seconds)
    if len(objectives) > most:
        raise ValueError(
            f"objectives name {len(objectives)} types of requests: "
            f"raise max_requests, which is {most}, to at least that number"
        )


def check_labels(labels: object) -> None:
    """Refuse what is no label that Prometheus can take."""
    if not isinstance(labels, Mapping):
        raise TypeError(
            f"labels must be values by name, such as {{'service': 'shop'}}, not {labels!r}"
        )
    for name, value in labels.items():
        if not isinstance(name, str) or not isinstance(value, str):
            raise TypeError(
                f"labels must be strings, such as {{'version': '1.4'}}, not {name!r}: {value!r}"
            )
        if not _LABEL.fullmatch(name):
            raise ValueError(
                f"labels has {name!r}, which is not a valid label name: use letters, digits and _"
            )
        if not value:
            raise ValueError(
                f"labels has {name!r}: '', but to Prometheus an empty label is none: leave it out"
            )


def check_variable(name: str, value: object) -> None:
    """Refuse what is no context variable."""
    if value is not None and not isinstance(value, ContextVar):
        raise TypeError(f"{name} must be a contextvars.ContextVar, not {value!r}")
