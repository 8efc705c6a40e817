"""Starts the exporter of a program that ``aiometrics run`` runs."""

from __future__ import annotations

import logging
import os

from aiometrics.exporter.exporter import start_unasked
from aiometrics.exporter.service import RUN
from aiometrics.launch.frameworks import add_middleware

logger = logging.getLogger("aiometrics")


def start() -> None:
    """Start the exporter as the environment says. Never raises: the program runs without it."""
    try:
        start_unasked()
        if os.environ.get("AIOMETRICS_MIDDLEWARE") != "0":
            add_middleware()
    except Exception as error:  # noqa: BLE001 - never the application's problem
        logger.warning("aiometrics: not traced: %s", error)


def start_beside_opentelemetry() -> None:
    """Do the same if ``opentelemetry-instrument`` was run, whose ``sitecustomize`` hides ours."""
    if RUN in os.environ:
        start()
