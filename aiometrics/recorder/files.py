"""Tells which file code runs from, and whether that file was installed by a package manager."""

from __future__ import annotations

import functools
import os
import sys
import sysconfig
from collections.abc import Iterator
from contextlib import suppress
from stat import S_ISDIR
from types import CodeType, ModuleType
from typing import Any

from aiometrics.base import unpatched

_STANDARD_LIBRARY = tuple(
    {
        os.path.join(os.path.realpath(sysconfig.get_path(name)), "")
        for name in ("stdlib", "platstdlib")
    }
    | {os.path.join(sysconfig.get_path(name), "") for name in ("stdlib", "platstdlib")}
)
_METADATA, _RECORD = ".dist-info", "RECORD"
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
        if S_ISDIR(unpatched.stat(folder).st_mode):
            records = _records_of_folder(folder)
        else:
            records = _records_of_archive(folder)
        return frozenset(top for record in records for top in _tops(record))
    except OSError:
        return frozenset()


def _records_of_folder(folder: str) -> Iterator[str]:
    with unpatched.scandir(folder) as entries:
        distributions = [entry.path for entry in entries if entry.name.endswith(_METADATA)]
    for distribution in distributions:
        # Those of Debian have none, and it may be another user's.
        with suppress(OSError):
            yield unpatched.read_bytes(f"{distribution}/{_RECORD}").decode("utf-8", "replace")


def _records_of_archive(path: str) -> Iterator[str]:
    import zipfile  # noqa: PLC0415 - few programs are in archives

    with suppress(zipfile.BadZipFile), zipfile.ZipFile(path) as archive:
        for name in archive.namelist():
            folder, _, file = name.partition("/")
            if folder.endswith(_METADATA) and file == _RECORD:
                yield archive.read(name).decode("utf-8", "replace")


def _tops(record: str) -> Iterator[str]:
    """Return the first parts of the paths in the record of a distribution."""
    for line in record.splitlines():
        yield line.partition(",")[0].partition("/")[0].partition(".")[0]
