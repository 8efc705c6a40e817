"""Starts an exporter when the program imports asyncio; Python imports this when it starts.

A ``sitecustomize`` that is found without this directory is imported as it would be. The directory
is removed from ``sys.path``, so that the program sees the path that it would have.
"""

from __future__ import annotations

import os
import sys


def _start(_: object) -> None:
    """Start the exporter of this process, if the package is installed for this interpreter."""
    try:
        from aiometrics.launch.start import start  # noqa: PLC0415 - not before asyncio is needed
    except ImportError as error:
        sys.stderr.write(f"aiometrics: not traced, since {sys.executable} lacks it: {error}\n")
    else:
        start()


def _wait_for_asyncio() -> None:
    # Now, because the directory leaves the path.
    import _aiometrics_imports as imports  # type: ignore[import-not-found]  # noqa: PLC0415

    imports.when_imported("asyncio", _start)


def _leave_path() -> None:
    """Remove this directory from the path, and from the environment if children are not traced."""
    here = os.path.dirname(os.path.abspath(__file__))  # noqa: PTH100, PTH120 - pathlib is slow
    sys.path[:] = [entry for entry in sys.path if entry != here]
    if os.environ.get("AIOMETRICS_CHILDREN") == "0":
        os.environ.pop("AIOMETRICS_RUN", None)
        left = [each for each in os.environ["PYTHONPATH"].split(os.pathsep) if each != here]
        os.environ["PYTHONPATH"] = os.pathsep.join(left)
        if not left:
            del os.environ["PYTHONPATH"]


def _import_hidden() -> None:
    """Import the ``sitecustomize`` that this one hides, if there is one."""
    ours = sys.modules.pop(__name__)
    try:
        __import__(__name__)
    except ModuleNotFoundError as error:
        if error.name != __name__:
            raise
    finally:
        sys.modules.setdefault(__name__, ours)


_wait_for_asyncio()
_leave_path()
if __name__ == "sitecustomize":
    _import_hidden()
