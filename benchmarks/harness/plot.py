"""The price list as a bar chart of ratios to a bare loop, on a logarithmic scale."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from xml.sax.saxutils import escape

from contenders.registry import BARE

from harness.samples import ratios

LOOP = "asyncio"
COLOURS = {"step": "#1f77b4", "spawn": "#ff7f0e", "depth 10": "#2ca02c"}
LEFT, WIDTH, BAR, GAP, TOP = 190, 560, 11, 12, 58
TICKS = (1, 1.5, 2, 3, 5, 10, 20, 50, 100)


def peers(costs: Mapping[str, Mapping[str, Sequence[float]]]) -> str:
    """Return an SVG of the median ratios on asyncio, with a bar per contender and workload.

    ``costs`` holds nanoseconds by contender and by loop and workload, such as ``asyncio step``.
    """
    bare = costs[BARE]
    bars = {
        name: {
            workload: ratios(values, bare[column]).median
            for workload in COLOURS
            if (values := by_column.get(column := f"{LOOP} {workload}"))
        }
        for name, by_column in costs.items()
        if name != BARE
    }
    bars = {name: ratio for name, ratio in bars.items() if ratio}
    largest = max((value for ratio in bars.values() for value in ratio.values()), default=2.0)
    scale = WIDTH / math.log(max(largest, 2.0) * 1.15)
    group = len(COLOURS) * BAR + GAP
    height = TOP + len(bars) * group + 30
    parts = [_legend(), *_grid(scale, largest, height - 26)]
    for number, (name, ratio) in enumerate(
        sorted(bars.items(), key=lambda item: max(item[1].values()))
    ):
        parts += _group(name, ratio, TOP + number * group, scale)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{LEFT + WIDTH + 70}" height="{height}" '
        'font-family="sans-serif" font-size="12">\n'
        f'<rect width="100%" height="100%" fill="white"/>\n{chr(10).join(parts)}\n</svg>\n'
    )


def _legend() -> str:
    title = "CPU time, ratio to a bare asyncio loop (logarithmic)"
    parts = [f'<text x="{LEFT}" y="18" font-size="14">{title}</text>']
    for number, (name, colour) in enumerate(COLOURS.items()):
        x = LEFT + 95 * number
        parts.append(
            f'<rect x="{x}" y="30" width="11" height="11" fill="{colour}"/>'
            f'<text x="{x + 16}" y="40">{name}</text>'
        )
    return "\n".join(parts)


def _grid(scale: float, largest: float, bottom: int) -> list[str]:
    lines = []
    for tick in TICKS:
        if tick > largest * 1.15:
            break
        x = LEFT + math.log(tick) * scale
        lines.append(
            f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{TOP - 6}" y2="{bottom}" stroke="#ddd"/>'
        )
        lines.append(
            f'<text x="{x:.1f}" y="{bottom + 16}" text-anchor="middle" fill="#555">x{tick:g}</text>'
        )
    return lines


def _group(name: str, ratio: Mapping[str, float], y: int, scale: float) -> list[str]:
    weight = ' font-weight="bold"' if name.startswith("aiometrics") else ""
    middle = y + len(COLOURS) * BAR / 2 + 4
    parts = [
        f'<text x="{LEFT - 8}" y="{middle:.0f}" text-anchor="end"{weight}>{escape(name)}</text>'
    ]
    for number, (workload, value) in enumerate(ratio.items()):
        # A ratio below 1 is noise around 1: the bar has no length.
        length = max(math.log(value), 0.0) * scale
        top = y + number * BAR
        parts.append(
            f'<rect x="{LEFT}" y="{top}" width="{length:.1f}" height="{BAR - 1}" '
            f'fill="{COLOURS[workload]}"/>'
        )
        parts.append(
            f'<text x="{LEFT + length + 4:.1f}" y="{top + BAR - 2}" font-size="9" fill="#333">'
            f"{value:.2f}</text>"
        )
    return parts
