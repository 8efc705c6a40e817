"""Panels as HTML and SVG, from what their queries returned: near enough to Grafana to judge a dashboard by."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from grafana.parts.units import written

PALETTE = (
    "#73bf69",
    "#f2cc0c",
    "#8ab8ff",
    "#ff780a",
    "#f2495c",
    "#5794f2",
    "#b877d9",
    "#705da0",
    "#37872d",
    "#fade2a",
    "#447ebc",
    "#c15c17",
)
COLOURS = {
    "transparent": "transparent",
    "green": "#299c46",
    "yellow": "#cca300",
    "orange": "#e0752d",
    "red": "#c4162a",
}
OTHER = "#8e8e8e"
LEGEND_ROW = 17


@dataclass(frozen=True, slots=True)
class Size:
    """A drawing's pixels."""

    width: int
    height: int


@dataclass(frozen=True, slots=True)
class Line:
    """One series: its legend, Unix times and values."""

    name: str
    times: Sequence[float]
    values: Sequence[float]

    @property
    def mean(self) -> float:
        """The mean of what is a number."""
        numbers = [value for value in self.values if not math.isnan(value)]
        return sum(numbers) / len(numbers) if numbers else math.nan


def threshold_colour(value: float, steps: Sequence[Mapping[str, Any]]) -> str:
    """The colour of the last step that ``value`` reaches."""
    reached = [step["color"] for step in steps if step["value"] is None or value >= step["value"]]
    return COLOURS[reached[-1]] if reached else OTHER


def continuous_colour(share: float) -> str:
    """From green over yellow to red."""
    hue = 120 * (1 - min(max(share, 0), 1))
    return f"hsl({hue:.0f} 70% 38%)"


def points(times: Sequence[float], values: Sequence[float], place: _Place) -> str:
    """SVG coordinates."""
    return " ".join(
        f"{place.x(at):.1f},{place.y(value):.1f}"
        for at, value in zip(times, values, strict=True)
        if not math.isnan(value)
    )


@dataclass(frozen=True, slots=True)
class _Place:
    """Where times and values lie in an SVG."""

    start: float
    end: float
    top: float
    left: float
    size: Size

    def x(self, at: float) -> float:
        return self.left + (at - self.start) / (self.end - self.start) * (
            self.size.width - self.left
        )

    def y(self, value: float) -> float:
        return self.size.height * (1 - min(value / self.top, 1)) if self.top else self.size.height


def big_number(panel: Mapping[str, Any], lines: Sequence[Line], size: Size) -> str:
    """The last value on its threshold's colour, over its course."""
    defaults = panel["fieldConfig"]["defaults"]
    last = next(
        (value for line in lines for value in reversed(line.values) if not math.isnan(value)),
        math.nan,
    )
    colour = OTHER if math.isnan(last) else threshold_colour(last, defaults["thresholds"]["steps"])
    course = ""
    if lines and not math.isnan(last):
        line = lines[0]
        top = max(value for value in line.values if not math.isnan(value)) * 1.1 or 1
        place = _Place(line.times[0], line.times[-1] + 1e-9, top, 0, Size(size.width, 44))
        course = f'<polyline points="{points(line.times, line.values, place)}" fill="none" stroke="#ffffff99" stroke-width="1.5"/>'
    text = "no data" if math.isnan(last) else written(last, defaults["unit"])
    return (
        f'<div class="number" style="background:{colour};height:{size.height}px"><b>{escape(text)}</b>'
        f'<svg width="{size.width}" height="46">{course}</svg></div>'
    )


def chart(
    panel: Mapping[str, Any], lines: Sequence[Line], size: Size, window: tuple[float, float]
) -> str:
    """Lines or stacked areas, with axes, thresholds and a legend."""
    defaults = panel["fieldConfig"]["defaults"]
    unit = defaults["unit"]
    lines = sorted(lines, key=lambda line: -line.mean if not math.isnan(line.mean) else 0)
    on_the_right = panel["options"]["legend"]["placement"] == "right"
    shown = min(len(lines), 12)
    width = size.width - (620 if on_the_right else 0)
    height = size.height - 18 - (0 if on_the_right else LEGEND_ROW * (min(shown, 5) + 1) + 4)
    stacked = defaults["custom"].get("stacking", {}).get("mode") == "normal"
    heights = stack(lines) if stacked else [line.values for line in lines]
    limits = [
        step["value"] for step in defaults["thresholds"]["steps"] if step["value"] is not None
    ]
    largest = max(
        (value for values in heights for value in values if not math.isnan(value)), default=0
    )
    top = defaults.get("max") or nice(max(largest, 1e-9) * 1.05)
    place = _Place(*window, top, 62, Size(width, height))
    drawn = [axes(place, unit)]
    order = list(enumerate(zip(lines, heights, strict=True)))
    for number, (line, values) in order if stacked else reversed(order):
        colour = PALETTE[number % len(PALETTE)]
        line_points = points(line.times, values, place)
        if stacked and line_points:
            first, last = place.x(line.times[0]), place.x(line.times[-1])
            drawn.append(
                f'<polygon points="{first:.1f},{height} {line_points} {last:.1f},{height}" fill="{colour}" />'
            )
        drawn.append(
            f'<polyline points="{line_points}" fill="none" stroke="{colour}" stroke-width="1.4"/>'
        )
    if "thresholdsStyle" in defaults["custom"]:
        drawn += [
            f'<line x1="62" x2="{width}" y1="{place.y(limit):.1f}" y2="{place.y(limit):.1f}" stroke="#f2495c" stroke-dasharray="6 4"/>'
            for limit in limits
            if limit <= top
        ]
    picture = f'<svg width="{width}" height="{height + 18}">{"".join(drawn)}</svg>'
    return f'<div class="chart {"beside" if on_the_right else ""}">{picture}{legend(lines[: 12 if on_the_right else 5], unit)}</div>'


def stack(lines: Sequence[Line]) -> list[list[float]]:
    """Each line's values on top of those after it, so that the largest lies uppermost; series may have gaps."""
    sums: dict[float, float] = {}
    found = []
    for line in reversed(lines):
        values = []
        for at, value in zip(line.times, line.values, strict=True):
            sums[at] = sums.get(at, 0) + (0 if math.isnan(value) else value)
            values.append(sums[at])
        found.append(values)
    return found[::-1]


def nice(number: float) -> float:
    """The next 1, 2, 2.5 or 5 times a power of ten."""
    power = 10.0 ** math.floor(math.log10(number))
    return next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= number)


def axes(place: _Place, unit: str) -> str:
    """Grid lines with values at the left and minutes below."""
    drawn = []
    for quarter in range(5):
        value = place.top * quarter / 4
        y = place.y(value)
        drawn.append(
            f'<line x1="62" x2="{place.size.width}" y1="{y:.1f}" y2="{y:.1f}" stroke="#2c3235"/>'
        )
        drawn.append(
            f'<text x="56" y="{max(y + 4, 10):.1f}" text-anchor="end">{escape(written(value, unit))}</text>'
        )
    return "".join(drawn) + time_axis(place)


def time_axis(place: _Place) -> str:
    """Minutes before the end."""
    drawn = []
    for part in range(1, 6):
        at = place.start + (place.end - place.start) * part / 6
        drawn.append(
            f'<text x="{place.x(at):.1f}" y="{place.size.height + 14}" text-anchor="middle">-{(place.end - at) / 60:.1f} min</text>'
        )
    return "".join(drawn)


def legend(lines: Iterable[Line], unit: str) -> str:
    """Names with mean and last value."""
    rows = "".join(
        f'<tr><td><i style="background:{PALETTE[number % len(PALETTE)]}"></i>{escape(line.name)}</td>'
        f"<td>{written(line.mean, unit)}</td><td>{written(line.values[-1], unit)}</td></tr>"
        for number, line in enumerate(lines)
    )
    return f'<table class="legend"><tr><th></th><th>mean</th><th>last</th></tr>{rows}</table>'


def heat(
    panel: Mapping[str, Any], lines: Sequence[Line], size: Size, window: tuple[float, float]
) -> str:
    """Cells by bucket and time; a calculated heatmap counts series by value instead."""
    unit = panel["options"]["yAxis"]["unit"]
    names, cells = (
        counted(lines, unit) if panel["options"].get("calculate") else bucketed(lines, unit)
    )
    place = _Place(*window, len(names), 62, Size(size.width, size.height - 18))
    step = (
        lines[0].times[1] - lines[0].times[0]
        if lines and len(lines[0].times) > 1
        else window[1] - window[0]
    )
    wide = (place.size.width - 62) * step / (window[1] - window[0])
    tall = place.size.height / max(len(names), 1)
    most = max(cells.values(), default=0) or 1
    drawn = [
        f'<rect x="{place.x(at):.1f}" y="{place.y(row + 1):.1f}" width="{max(wide - 1, 1):.1f}" height="{tall - 1:.1f}" '
        f'fill="hsl(28 90% {15 + 50 * (count / most) ** 0.5:.0f}%)"/>'
        for (row, at), count in cells.items()
        if count > 0
    ]
    drawn += [
        f'<text x="56" y="{place.y(row + 0.5) + 4:.1f}" text-anchor="end">{escape(name)}</text>'
        for row, name in enumerate(names)
    ]
    return (
        f'<svg width="{size.width}" height="{size.height}">{"".join(drawn)}{time_axis(place)}</svg>'
    )


def bucketed(lines: Sequence[Line], unit: str) -> tuple[list[str], dict[tuple[int, float], float]]:
    """Row names and cells of a classic histogram, whose buckets are cumulative and whose legends are their upper bounds."""
    ordered = sorted(lines, key=lambda line: float(line.name))
    cells: dict[tuple[int, float], float] = {}
    below: dict[float, float] = {}
    for row, line in enumerate(ordered):
        for at, value in zip(line.times, line.values, strict=True):
            cells[row, at] = max(value - below.get(at, 0), 0)
            below[at] = value
    return [
        "over" if line.name == "+Inf" else f"≤ {written(float(line.name), unit)}"
        for line in ordered
    ], cells


def counted(lines: Sequence[Line], unit: str) -> tuple[list[str], dict[tuple[int, float], float]]:
    """Row names and cells of how many lines lie in each tenth of the range of values."""
    largest = (
        max((value for line in lines for value in line.values if not math.isnan(value)), default=1)
        or 1
    )
    cells: dict[tuple[int, float], float] = {}
    for line in lines:
        for at, value in zip(line.times, line.values, strict=True):
            if not math.isnan(value):
                row = min(int(10 * value / largest), 9)
                cells[row, at] = cells.get((row, at), 0) + 1
    return [f"≤ {written(largest * (row + 1) / 10, unit)}" for row in range(10)], cells


def stripes(
    panel: Mapping[str, Any], lines: Sequence[Line], size: Size, window: tuple[float, float]
) -> str:
    """One stripe for each line."""
    defaults = panel["fieldConfig"]["defaults"]
    tall = min((size.height - 18) / max(len(lines), 1), 30)
    steps = defaults["thresholds"]["steps"]
    place = _Place(*window, 1, 330, Size(size.width, int(tall * len(lines))))
    drawn = []
    for number, line in enumerate(lines):
        wide = (size.width - 330) / max(len(line.times), 1)
        drawn.append(
            f'<text x="322" y="{tall * (number + 0.65):.1f}" text-anchor="end">{escape(line.name)}</text>'
        )
        drawn += [
            f'<rect x="{place.x(at):.1f}" y="{tall * number:.1f}" width="{wide:.1f}" height="{tall - 3:.1f}" '
            f'fill="{threshold_colour(value, steps)}"/>'
            for at, value in zip(line.times, line.values, strict=True)
        ]
    return (
        f'<svg width="{size.width}" height="{size.height}">{"".join(drawn)}{time_axis(place)}</svg>'
    )


def ranking(
    panel: Mapping[str, Any], answers: Sequence[Sequence[Mapping[str, Any]]], size: Size
) -> str:
    """A table: the vectors of all queries merged by their labels, sorted as the panel says."""
    headings: dict[str, str] = next(t for t in panel["transformations"] if t["id"] == "organize")[
        "options"
    ]["renameByName"]
    labels = [name for name in headings if not name.startswith("Value")]
    columns = [heading for name, heading in headings.items() if name.startswith("Value")]
    rows: dict[tuple[str, ...], dict[str, float]] = {}
    for heading, vector in zip(columns, answers, strict=True):
        for series in vector:
            row = rows.setdefault(tuple(series["metric"].get(name, "") for name in labels), {})
            row[heading] = float(series["value"][1])
    sort = panel["options"]["sortBy"][0]["displayName"]
    ordered = (
        sorted(rows.items(), key=lambda item: -item[1].get(sort, -math.inf))
        if sort in columns
        else sorted(rows.items())
    )
    settings = {
        name: {p["id"]: p["value"] for p in override["properties"]}
        for override in panel["fieldConfig"]["overrides"]
        for name in override["matcher"]["options"]["names"]
    }
    largest = {
        heading: max((row.get(heading, 0) for row in rows.values()), default=0) or 1
        for heading in columns
    }
    head = "".join(f"<th>{escape(headings[name])}</th>" for name in labels)
    head += "".join(
        f'<th class="n">{escape(name)}{" ↓" if name == sort else ""}</th>' for name in columns
    )
    body = "".join(
        "<tr>"
        + "".join(f"<td>{escape(label)}</td>" for label in key)
        + "".join(cell(row.get(name), largest[name], settings.get(name, {})) for name in columns)
        + "</tr>"
        for key, row in ordered
    )
    return f'<table class="rows" style="max-height:{size.height}px"><tr>{head}</tr>{body or "<tr><td>no data</td></tr>"}</table>'


def cell(value: float | None, largest: float, settings: Mapping[str, Any]) -> str:
    """A number, a bar, or a coloured background."""
    if value is None:
        return "<td></td>"
    steps = settings.get("thresholds", {}).get("steps")
    text = escape(written(value, "short"))
    kind = settings.get("custom.cellOptions", {}).get("type")
    if kind == "gauge":
        share = max(value / largest, 0)
        colour = threshold_colour(value, steps) if steps else continuous_colour(share)
        return f'<td class="bar"><span style="background:{colour};width:{100 * share:.0f}px"></span>{text}</td>'
    style = (
        f' style="background:{threshold_colour(value, steps)}"'
        if kind == "color-background" and steps
        else ""
    )
    return f'<td class="n"{style}>{text}</td>'
