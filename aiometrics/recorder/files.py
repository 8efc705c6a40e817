"""Tells which file code runs from, and whether that file was installed by a package manager."""

from __future__ import annotations

import functools
import os
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any

_STANDARD_LIBRARY = tuple(
    {
        os.path.join(os.path.realpath(sysconfig.get_path(name)), "")
        for name in ("stdlib", "platstdlib")
    }
    | {os.path.join(sysconfig.get_path(name), "") for name in ("stdlib", "platstdlib")}
)
_SITE = ("site-packages", "dist-packages")
_NAMESPACE: Any = vars(ModuleType)["__dict__"]


def file_of(module: str, code: CodeType) -> str:
    """Return the path of the file that code runs from.

    Code that was compiled in advance may have a relative path, that of its source where it was
    built. Its module knows the file that it was loaded from.
    """
    if os.path.isabs(code.co_filename):
        return code.co_filename
    return loaded_from(module) or code.co_filename


def loaded_from(module: str) -> str | None:
    """Return the path of the file that a module was loaded from; ``None`` if it is not known."""
    loaded = sys.modules.get(module)
    # Read behind the module's own attributes, which may be made on demand.
    file = _NAMESPACE.__get__(loaded).get("__file__") if isinstance(loaded, ModuleType) else None
    return file if isinstance(file, str) else None


def in_standard_library(path: str) -> bool:
    """Return whether a file belongs to the standard library, or was installed into its folder."""
    return path.startswith(_STANDARD_LIBRARY)


def is_installed(path: str, module: str) -> bool:
    """Return whether a package manager put the file where it is, as far as the place tells.

    That is under ``site-packages``, or beside the metadata of its distribution, as after
    ``pip install --target`` and in archives that are made that way.
    """
    parts = path.replace(os.sep, "/").split("/")
    if any(part in _SITE for part in parts):
        return True
    name = module.split(".")
    depth = len(name) + parts[-1].startswith("__init__.")
    return name[0] in _installed_in("/".join(parts[:-depth]))


@functools.lru_cache(maxsize=1000)
def _installed_in(folder: str) -> frozenset[str]:
    """Return the top-level modules of distributions whose metadata is in a folder or archive."""
    try:
        metadata = [entry for entry in _entries(folder) if entry.name.endswith(".dist-info")]
    except OSError:
        return frozenset()
    return frozenset(top for entry in metadata for top in _tops(entry / "RECORD"))


def _entries(folder: str) -> Iterator[Any]:
    if os.path.isdir(folder):
        return Path(folder).iterdir()
    if not os.path.isfile(folder):
        return iter(())
    import zipfile  # noqa: PLC0415 - few programs are in archives

    try:
        return zipfile.Path(folder).iterdir()
    except zipfile.BadZipFile:
        return iter(())


def _tops(record: Any) -> Iterator[str]:
    try:
        if not record.is_file():  # distributions of Debian have none
            return
        lines = record.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:  # it may be another user's
        return
    for line in lines:
        yield line.partition(",")[0].partition("/")[0].partition(".")[0]
