"""Write the dashboards and the Kubernetes manifests, or check that the committed ones are current.

python -m grafana.generate            writes grafana/dashboards*/*.json and deploy/kubernetes/*.yaml
python -m grafana.generate --check    names every file that differs, and exits 1 if there is one
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

try:
    from grafana_foundation_sdk.cog.encoder import JSONEncoder
except ModuleNotFoundError as error:
    raise SystemExit(
        f"{error}: install what dashboards need with 'pip install --group dashboards' "
        "(pip 25.1 or newer), in the root of the checkout"
    ) from None

from grafana.boards.coroutine import coroutine
from grafana.boards.event_loop import event_loop
from grafana.boards.fleet import fleet
from grafana.boards.hotspots import hotspots
from grafana.kubernetes import manifests
from grafana.parts.schema_v2 import resource

ROOT = Path(__file__).resolve().parent.parent
DASHBOARDS = {
    "hotspots": hotspots,
    "event-loop": event_loop,
    "coroutine": coroutine,
    "fleet": fleet,
}


def dashboards() -> dict[str, dict[str, Any]]:
    """Return each dashboard by its name.

    Panels are numbered by position, so that the same code always writes the same bytes.
    """
    found = {}
    for name, build in DASHBOARDS.items():
        found[name] = json.loads(JSONEncoder().encode(build().build()))
        number_panels(found[name]["panels"])
    return found


def text(dashboard: Mapping[str, Any]) -> str:
    """Return the content of a dashboard's file."""
    return json.dumps(dashboard, indent=2, ensure_ascii=False) + "\n"


def number_panels(panels: list[dict[str, object]], first: int = 1) -> int:
    """Number ``panels``, and those in collapsed rows, from ``first``; return the next free id."""
    for panel in panels:
        panel["id"] = first
        first += 1
        inner = panel.get("panels")
        if isinstance(inner, list):
            first = number_panels(inner, first)
    return first


def files(root: Path = ROOT) -> dict[Path, str]:
    """Return the content of every generated file by its path below ``root``.

    The rules are read from ``root``.
    """
    rules = [
        (root / "rules" / f"aiometrics.{kind}.yml").read_text() for kind in ("rules", "alerts")
    ]
    boards = dashboards()
    return {
        **{root / "grafana/dashboards" / f"{name}.json": text(one) for name, one in boards.items()},
        **{
            root / "grafana/dashboards-v2" / f"{name}.json": text(resource(one))
            for name, one in boards.items()
        },
        **{root / "deploy/kubernetes" / name: one for name, one in manifests(rules).items()},
    }


def stale(wanted: Mapping[Path, str]) -> list[Path]:
    """Return the paths of the files that are missing or differ from ``wanted``."""
    return [path for path, text in wanted.items() if not path.exists() or path.read_text() != text]


def main() -> int:
    """Write the files, or with ``--check`` only compare them; return the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m grafana.generate",
        description="Write the dashboards and the Kubernetes manifests.",
    )
    parser.add_argument(
        "--check", action="store_true", help="write nothing; exit 1 if a committed file differs"
    )
    arguments = parser.parse_args()
    wanted = files()
    differing = stale(wanted)
    for path in differing:
        print(f"{'differs' if arguments.check else 'written'}: {path.relative_to(ROOT)}")
    if arguments.check:
        return 1 if differing else 0
    for path in differing:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(wanted[path])
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
