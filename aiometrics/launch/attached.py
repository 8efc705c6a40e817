"""The part of ``aiometrics attach`` and ``detach`` that runs in the process that they name."""

from __future__ import annotations

import os
from collections.abc import Mapping

from aiometrics.exporter.exporter import Exporter, start_unasked
from aiometrics.exporter.session import process

#: The exporter that was attached, which alone can be detached.
_attached: list[Exporter] = []


def attach(options: Mapping[str, str]) -> str:
    """Start an exporter, unless one runs, and return where it serves."""
    before = process.session
    exporter = start_unasked({**os.environ, **options})
    if exporter is before:
        return f"an exporter already runs: {exporter.url}"
    _attached[:] = [exporter]
    return f"metrics  {exporter.url}"


def detach() -> str:
    """Stop the exporter that was attached. Raises ``RuntimeError`` if there is none."""
    if not _attached or process.session is not _attached[0]:
        raise RuntimeError("no exporter was attached to this process, so none is detached")
    _attached.pop().stop()
    return "detached"
