"""What users rely on: names, arguments, metrics, environment variables and the layout of pages.

``public_names.json`` has them all. A change of that file is a change for users.
"""

from __future__ import annotations

import inspect
import json
from dataclasses import fields
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

import aiometrics
from aiometrics.base.options import RecordingOptions, ServingOptions, variable_of
from aiometrics.exposition.metrics import METRICS
from aiometrics.pages import layout

EXPECTED = json.loads(Path(__file__).with_name("public_names.json").read_text(encoding="utf-8"))
#: Users get these from functions and never make them.
MADE_BY_US = {"Exporter", "Hotspots", "Job", "Request", "Snapshot"}


def public_names(module: str) -> dict[str, list[str] | None]:
    """The public names of a module, each with its arguments if it can be called."""
    imported = import_module(module)
    found = vars(imported)
    names = found.get("__all__") or [
        name
        for name, value in found.items()
        if not name.startswith("_") and callable(value) and value.__module__ == module
    ]
    return {name: arguments(name, getattr(imported, name)) for name in sorted(names)}


def arguments(name: str, value: Any) -> list[str] | None:
    """The names of the arguments of a function or class."""
    if name in MADE_BY_US or not callable(value):
        return None
    return list(inspect.signature(value).parameters)


@pytest.mark.parametrize("module", EXPECTED["modules"])
def test_names_and_arguments_stay(module: str) -> None:
    """Programs that use them go on working."""
    assert EXPECTED["modules"][module] == public_names(module)


def test_metrics_and_labels_stay() -> None:
    """Queries, rules and dashboards of users name them."""
    found = {metric.name: [metric.kind, list(metric.labels)] for metric in METRICS}
    assert EXPECTED["metrics"] == found


def test_environment_variables_stay() -> None:
    """Deployments set them."""
    options = [*fields(RecordingOptions), *fields(ServingOptions)]
    assert EXPECTED["environment"] == sorted(variable_of(option.name) for option in options)


def test_pages_of_a_version_have_one_layout() -> None:
    """Processes of one service may run different releases: another layout is another version."""
    made = layout.from_seconds((0.001, 0.01), (0.001, 0.01, 0.1), 8, 16, 4)
    found = {
        "magic": layout.MAGIC,
        "version": layout.VERSION,
        "size": made.size,
        "header": list(layout.HEADER),
        "loop": list(layout.LOOP),
        "loop_stats": list(layout.LOOP_STATS),
        "coroutine": list(layout.COROUTINE),
        "yield_point": list(layout.YIELD_POINT),
        "request": list(layout.REQUEST),
        "request_wait": list(layout.REQUEST_WAIT),
        "held": list(layout.HELD),
        "segment_path": list(layout.SEGMENT_PATH),
        "chain_node": list(layout.CHAIN_NODE),
        "scope_error": list(layout.SCOPE_ERROR),
        "coroutines": made.coroutines,
        "yield_points": made.yield_points,
        "requests": made.requests,
        "strings": made.strings,
    }
    assert EXPECTED["page"] == found


def test_no_public_name_is_a_module() -> None:
    """A function such as ``aiometrics.snapshot`` is never replaced by a module of its name."""
    public = {name: getattr(aiometrics, name) for name in aiometrics.__all__}
    assert [] == [name for name, value in public.items() if inspect.ismodule(value)]


def test_returned_types_are_public() -> None:
    """Type hints of an application can name what ``snapshot()`` and ``hotspots()`` return."""
    assert aiometrics.snapshot.__annotations__["return"] == aiometrics.Snapshot.__name__
    assert aiometrics.hotspots.__annotations__["return"] == aiometrics.Hotspots.__name__
