"""The dashboards, rules and configuration that ship with the package.

A checkout reads them where they are maintained. The build exports them into the package, so that
there is only one copy to maintain.
"""

from __future__ import annotations

import sys
from pathlib import Path

#: Relative to the root of a checkout, to ``share`` in an installed package, and to the target of an
#: export.
PATTERNS = (
    "prometheus.yml",
    "rules/*.yml",
    "grafana/dashboards/*.json",
    "grafana/dashboards-v2/*.json",
    "grafana/kustomization.yaml",
    "deploy/kubernetes/*.yaml",
)
_INCOMPLETE = "reinstall aiometrics-exporter, from a wheel or a complete checkout"
_BUILT_WITHOUT = (
    "this program was frozen without them: export them where aiometrics-exporter is installed, "
    "or give PyInstaller --collect-data aiometrics"
)
_IN_ARCHIVE = (
    "this program is in an archive, which has no files: export them where aiometrics-exporter is "
    "installed"
)
PACKAGE = Path(__file__).resolve().parent.parent
INSTALLED = PACKAGE / "share"


def export(directory: Path, *, overwrite: bool = False) -> list[Path]:
    """Write every asset below ``directory`` and return their paths relative to it.

    Directories are created if they are missing. A file that exists and differs is replaced only
    with ``overwrite``; otherwise nothing is written and ``FileExistsError`` names the file. Raises
    ``FileNotFoundError`` if this package came without assets.
    """
    contents = assets()
    changed = [
        path
        for path in contents
        if (directory / path).exists() and (directory / path).read_bytes() != contents[path]
    ]
    if changed and not overwrite:
        raise FileExistsError(
            f"{directory / changed[0]} exists and differs: "
            "name another directory, or replace it with --force"
        )
    for path, content in contents.items():
        target = directory / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content)
    return list(contents)


def assets() -> dict[Path, bytes]:
    """Return the content of each asset by its path, relative to the target directory.

    Raises ``FileNotFoundError`` if some are missing.
    """
    root = INSTALLED if INSTALLED.is_dir() else PACKAGE.parent
    found = {pattern: sorted(root.glob(pattern)) for pattern in PATTERNS}
    for pattern, paths in found.items():
        if not paths:
            raise FileNotFoundError(f"{root / pattern} does not exist: {_advice()}")
    return {path.relative_to(root): path.read_bytes() for paths in found.values() for path in paths}


def _advice() -> str:
    if getattr(sys, "frozen", False):
        return _BUILT_WITHOUT
    return _INCOMPLETE if PACKAGE.is_dir() else _IN_ARCHIVE
