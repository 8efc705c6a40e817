"""Dashboards, rules and scrape configuration for those who only have the package.

In a checkout they are read where they are maintained. The build runs ``export`` into the package, so that nobody keeps two copies.
"""

from __future__ import annotations

from pathlib import Path

#: Below the root of a checkout, below ``share`` in an installed package, and below the directory that is exported to.
PATTERNS = (
    "prometheus.yml",
    "rules/*.yml",
    "grafana/dashboards/*.json",
    "grafana/kustomization.yaml",
    "deploy/kubernetes/*.yaml",
)
PACKAGE = Path(__file__).resolve().parent.parent
INSTALLED = PACKAGE / "share"


def export(directory: Path, *, overwrite: bool = False) -> list[Path]:
    """Write every asset below ``directory``, which is made if need be, and return their paths relative to it.

    A file that is there already and differs is replaced only with ``overwrite``; else nothing is written and ``FileExistsError``
    names it. Raises ``FileNotFoundError`` if this package came without assets.
    """
    contents = assets()
    changed = [
        path
        for path in contents
        if (directory / path).exists() and (directory / path).read_bytes() != contents[path]
    ]
    if changed and not overwrite:
        raise FileExistsError(
            f"{directory / changed[0]} is there and differs: name another directory, or replace it with --force"
        )
    for path, content in contents.items():
        target = directory / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content)
    return list(contents)


def assets() -> dict[Path, bytes]:
    """Each asset's path, relative to where it is exported, and its content; raises ``FileNotFoundError`` if some are missing."""
    root = INSTALLED if INSTALLED.is_dir() else PACKAGE.parent
    found = {pattern: sorted(root.glob(pattern)) for pattern in PATTERNS}
    for pattern, paths in found.items():
        if not paths:
            raise FileNotFoundError(
                f"{root / pattern} does not exist: install aiometrics-exporter anew, from a wheel or a whole checkout"
            )
    return {path.relative_to(root): path.read_bytes() for paths in found.values() for path in paths}
