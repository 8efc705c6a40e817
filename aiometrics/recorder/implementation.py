"""Chooses the recorder: the C core where it was built and can run, else its twin in Python."""

from __future__ import annotations

import logging
import os
import sysconfig
from dataclasses import dataclass
from typing import Any

from aiometrics.pages import layout
from aiometrics.recorder import recorder
from aiometrics.recorder.scope import RequestScope
from aiometrics.recorder.traced import TracedCoroutine
from aiometrics.recorder.turns import Turns

logger = logging.getLogger("aiometrics")

_OFF = frozenset({"", "0", "false", "no", "off"})


@dataclass(frozen=True, slots=True)
class Implementation:
    """One of the twins: what records a loop's tasks, stands for a coroutine, is charged for a request, times turns, and the C module."""

    name: str
    recorder: Any
    traced: type
    scope: type
    turns: Any
    core: Any = None


PYTHON = Implementation("python", recorder.Recorder, TracedCoroutine, RequestScope, Turns)


def _refusal() -> str | None:
    """Why the C core is not to be loaded, even if it is there; to load it without the GIL would bring the GIL back for everybody."""
    if os.environ.get("AIOMETRICS_NO_EXTENSIONS", "").lower() not in _OFF:
        return "AIOMETRICS_NO_EXTENSIONS is set"
    if sysconfig.get_config_var("Py_GIL_DISABLED"):
        return "this Python runs without the GIL, which the C core relies on"
    return None


def _of_these_sources(core: Any) -> bool:
    """Whether the core writes pages as they are read here; in a checkout it may be one that was built before a change."""
    offsets = getattr(core, "LAYOUT", {})
    declared = {
        (record, field): vars(layout).get(record, {}).get(field) for record, field in offsets
    }
    return bool(offsets) and declared == offsets


def _c() -> Implementation | None:
    """The C core, or ``None`` with the reason in the log."""
    refusal = _refusal()
    if refusal is not None:
        logger.info("the recorder runs in Python: %s", refusal)
        return None
    try:
        from aiometrics.recorder import _core  # noqa: PLC0415 - it may not be there
    except ImportError as error:
        logger.info(
            "the recorder runs in Python, which costs microseconds per step: the C core does not load: %s",
            error,
        )
        return None
    if not _of_these_sources(_core):
        logger.warning(
            "the recorder runs in Python, which is slow: the C core was built from other sources. Build it again"
        )
        return None
    return Implementation(
        "c", _core.Recorder, _core.TracedCoroutine, _core.RequestScope, _core.Turns, _core
    )


IMPLEMENTATIONS = {found.name: found for found in (PYTHON, _c()) if found is not None}
DEFAULT = IMPLEMENTATIONS.get("c", PYTHON)
IMPLEMENTATION = DEFAULT.name
