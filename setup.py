"""Build the optional C recorder and put the assets into the package.

Everything else is declared in pyproject.toml.
"""

from __future__ import annotations

import os
import runpy
import sys
import sysconfig
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_py import build_py

FLAGS = ["-std=c11", "-fvisibility=hidden", "-Wall", "-Wextra", "-Wconversion"]


def files(pattern: str) -> list[str]:
    """Return the files of the C recorder, relative to this file as setuptools needs them."""
    return sorted(path.as_posix() for path in Path("aiometrics/recorder/csrc").glob(pattern))


def extensions() -> list[Extension]:
    """Return the C recorder, or nothing where only the Python one is wanted or safe.

    The extension is optional: if it does not compile, the install still succeeds.
    """
    switched_off = os.environ.get("AIOMETRICS_NO_EXTENSIONS", "").lower() not in {
        "",
        "0",
        "false",
        "no",
        "off",
    }
    free_threaded = bool(sysconfig.get_config_var("Py_GIL_DISABLED"))
    sources, headers = files("*.c"), files("*.h")
    if switched_off or free_threaded or sys.implementation.name != "cpython" or not sources:
        return []
    flags = [] if sys.platform == "win32" else FLAGS
    core = Extension(
        "aiometrics.recorder._core",
        sources,
        depends=headers,
        extra_compile_args=flags,
        optional=True,
    )
    return [core]


class BuildWithAssets(build_py):
    """Exports the assets of the checkout into the package.

    An editable install reads them from the checkout.
    """

    def run(self) -> None:
        """Copy the modules, then the assets."""
        super().run()
        if not self.editable_mode:
            assets = runpy.run_path("aiometrics/exporter/assets.py")
            assets["export"](
                Path(self.build_lib, "aiometrics", assets["INSTALLED"].name), overwrite=True
            )


setup(ext_modules=extensions(), cmdclass={"build_py": BuildWithAssets})
