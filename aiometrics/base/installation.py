"""Notices a package of somebody else's that has the name of ours."""

from __future__ import annotations

import logging
import os
import re

_PACKAGE = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))  # noqa: PTH100, PTH120 - at each import, and pathlib takes longer
_NAMESAKE = re.compile(r"aiometrics-[^-]*\.(dist|egg)-info")


def warn_of_namesake(directory: str = os.path.dirname(_PACKAGE)) -> None:  # noqa: PTH120 - as above
    """Log a warning if the distribution ``aiometrics`` is installed, which overwrites our files."""
    try:
        names = os.listdir(directory)  # noqa: PTH208 - as above
    except OSError:  # the package is in an archive
        return
    if any(_NAMESAKE.fullmatch(name) for name in names):
        logging.getLogger("aiometrics").warning(
            "aiometrics: the package 'aiometrics', which is somebody else's, is installed in %s "
            "too, and each overwrites files of the other: pip uninstall aiometrics, then "
            "pip install --force-reinstall aiometrics-exporter",
            directory,
        )
