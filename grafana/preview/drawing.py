"""Draw panels as HTML and SVG from query results, close enough to Grafana to judge a dashboard."""

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
    """The size of a drawing in pixels."""

    width: float
    height: float


@dataclass(frozen=True, slots=True)
class Line:
    """One series: its legend, Unix times and values."""

    name: str
    times: Sequence[float]
    values: Sequence[float]

    @property
    def mean(self) -> float:
        """The mean of the values that are numbers."""
        numbers = [value for value in self.values if not math.isnan(value)]
        return sum(numbers) / len(numbers) if numbers else math.nan


def threshold_colour(value: float, steps: Sequence[Mapping[str, Any]]) -> str:
    """Return the colour of the last step that ``value`` reaches."""
    reached = [step["color"] for step in steps if step["value"] is None or value >= step["value"]]
    return COLOURS[reached[-1]] if reached else OTHER


def continuous_colour(share: float) -> str:
    """Return a colour between green (0) and red (1)."""
    hue = 120 * (1 - min(max(share, 0), 1))
    return f"hsl({hue:.0f} 70% 38%)"


def label(x: float, y: float, anchor: str, text: str) -> str:
    """Draw ``text`` at a point, which is its ``anchor``: ``middle`` or ``end``."""
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'


def polyline(coordinates: str, colour: str, width: float) -> str:
    """Draw a line through ``coordinates``."""
    return (
        f'<polyline points="{coordinates}" fill="none" stroke="{colour}" stroke-width="{width}"/>'
    )


def rectangle(x: float, y: float, size: Size, colour: str) -> str:
    """Draw a filled rectangle with its upper left corner at a point."""
    extent = f'width="{size.width:.1f}" height="{size.height:.1f}"'
    return f'<rect x="{x:.1f}" y="{y:.1f}" {extent} fill="{colour}"/>'


def horizontal(place: _Place, y: float, stroke: str) -> str:
    """Draw a line across a chart; ``stroke`` is its attributes."""
    return f'<line x1="62" x2="{place.size.width}" y1="{y:.1f}" y2="{y:.1f}" {stroke}/>'


def points(times: Sequence[float], values: Sequence[float], place: _Place) -> str:
    """Return the SVG coordinates of a series, without values that are not numbers."""
    return " ".join(
        f"{place.x(at):.1f},{place.y(value):.1f}"
        for at, value in zip(times, values, strict=True)
        if not math.isnan(value)
    )


@dataclass(frozen=True, slots=True)
class _Place:
    """Maps times and values to coordinates in an SVG."""

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
    """Draw the last value on the colour of its threshold, over its history."""
    defaults = panel["fieldConfig"]["defaults"]
    last = next(
        (value for line in lines for value in reversed(line.values) if not math.isnan(value)),
        math.nan,
    )
    colour = OTHER if math.isnan(last) else threshold_colour(last, defaults["thresholds"]["steps"])
    history = ""
    if lines and not math.isnan(last):
        line = lines[0]
        top = max(value for value in line.values if not math.isnan(value)) * 1.1 or 1
        place = _Place(line.times[0], line.times[-1] + 1e-9, top, 0, Size(size.width, 44))
        history = polyline(points(line.times, line.values, place), "#ffffff99", 1.5)
    text = "no data" if math.isnan(last) else written(last, defaults["unit"])
    return (
        f'<div class="number" style="background:{colour};height:{size.height}px">'
        f'<b>{escape(text)}</b><svg width="{size.width}" height="46">{history}</svg></div>'
    )


def chart(
    panel: Mapping[str, Any], lines: Sequence[Line], size: Size, window: tuple[float, float]
) -> str:
    """Draw lines or stacked areas with axes, thresholds and a legend."""
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
            outline = f"{first:.1f},{height} {line_points} {last:.1f},{height}"
            drawn.append(f'<polygon points="{outline}" fill="{colour}" />')
        drawn.append(polyline(line_points, colour, 1.4))
    if "thresholdsStyle" in defaults["custom"]:
        drawn += [
            horizontal(place, place.y(limit), 'stroke="#f2495c" stroke-dasharray="6 4"')
            for limit in limits
            if limit <= top
        ]
    picture = f'<svg width="{width}" height="{height + 18}">{"".join(drawn)}</svg>'
    layout, rows = ("chart beside", 12) if on_the_right else ("chart", 5)
    return f'<div class="{layout}">{picture}{legend(lines[:rows], unit)}</div>'


def stack(lines: Sequence[Line]) -> list[list[float]]:
    """Add to each line's values those of the lines after it, so that the first line is on top.

    Series may have gaps.
    """
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
    """Round ``number`` up to 1, 2, 2.5 or 5 times a power of ten."""
    power = 10.0 ** math.floor(math.log10(number))
    return next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= number)


def axes(place: _Place, unit: str) -> str:
    """Draw grid lines with values on the left and minutes below."""
    drawn = []
    for quarter in range(5):
        value = place.top * quarter / 4
        y = place.y(value)
        drawn.append(horizontal(place, y, 'stroke="#2c3235"'))
        drawn.append(label(56, max(y + 4, 10), "end", written(value, unit)))
    return "".join(drawn) + time_axis(place)


def time_axis(place: _Place) -> str:
    """Draw the labels of the time axis: minutes before the end."""
    drawn = []
    for part in range(1, 6):
        at = place.start + (place.end - place.start) * part / 6
        minutes = f"-{(place.end - at) / 60:.1f} min"
        drawn.append(label(place.x(at), place.size.height + 14, "middle", minutes))
    return "".join(drawn)


def legend(lines: Iterable[Line], unit: str) -> str:
    """Draw a legend: names with mean and last value."""
    rows = "".join(
        f'<tr><td><i style="background:{PALETTE[number % len(PALETTE)]}"></i>'
        f"{escape(line.name)}</td>"
        f"<td>{written(line.mean, unit)}</td><td>{written(line.values[-1], unit)}</td></tr>"
        for number, line in enumerate(lines)
    )
    return f'<table class="legend"><tr><th></th><th>mean</th><th>last</th></tr>{rows}</table>'


def heat(
    panel: Mapping[str, Any], lines: Sequence[Line], size: Size, window: tuple[float, float]
) -> str:
    """Draw cells by bucket and time; a calculated heatmap counts series by value instead."""
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
        rectangle(
            place.x(at),
            place.y(row + 1),
            Size(max(wide - 1, 1), tall - 1),
            f"hsl(28 90% {15 + 50 * (count / most) ** 0.5:.0f}%)",
        )
        for (row, at), count in cells.items()
        if count > 0
    ]
    drawn += [label(56, place.y(row + 0.5) + 4, "end", name) for row, name in enumerate(names)]
    return (
        f'<svg width="{size.width}" height="{size.height}">{"".join(drawn)}{time_axis(place)}</svg>'
    )


def bucketed(lines: Sequence[Line], unit: str) -> tuple[list[str], dict[tuple[int, float], float]]:
    """Return row names and cells of a classic histogram.

    Its buckets are cumulative, and their legends are their upper bounds.
    """
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
    """Return row names and cells: how many lines lie in each tenth of the range of values."""
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
    """Draw one stripe for each line."""
    defaults = panel["fieldConfig"]["defaults"]
    tall = min((size.height - 18) / max(len(lines), 1), 30)
    steps = defaults["thresholds"]["steps"]
    place = _Place(*window, 1, 330, Size(size.width, int(tall * len(lines))))
    drawn = []
    for number, line in enumerate(lines):
        wide = (size.width - 330) / max(len(line.times), 1)
        drawn.append(label(322, tall * (number + 0.65), "end", line.name))
        drawn += [
            rectangle(
                place.x(at), tall * number, Size(wide, tall - 3), threshold_colour(value, steps)
            )
            for at, value in zip(line.times, line.values, strict=True)
        ]
    return (
        f'<svg width="{size.width}" height="{size.height}">{"".join(drawn)}{time_axis(place)}</svg>'
    )


def ranking(
    panel: Mapping[str, Any], answers: Sequence[Sequence[Mapping[str, Any]]], size: Size
) -> str:
    """Draw a table: the results of all queries merged by labels, sorted as the panel says."""
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
    body = body or "<tr><td>no data</td></tr>"
    return f'<table class="rows" style="max-height:{size.height}px"><tr>{head}</tr>{body}</table>'


def cell(value: float | None, largest: float, settings: Mapping[str, Any]) -> str:
    """Draw a table cell: a number, a bar, or a number on a coloured background."""
    if value is None:
        return "<td></td>"
    steps = settings.get("thresholds", {}).get("steps")
    text = escape(written(value, "short"))
    kind = settings.get("custom.cellOptions", {}).get("type")
    if kind == "gauge":
        share = max(value / largest, 0)
        colour = threshold_colour(value, steps) if steps else continuous_colour(share)
        bar = f'<span style="background:{colour};width:{100 * share:.0f}px"></span>'
        return f'<td class="bar">{bar}{text}</td>'
    style = (
        f' style="background:{threshold_colour(value, steps)}"'
        if kind == "color-background" and steps
        else ""
    )
    return f'<td class="n"{style}>{text}</td>'
