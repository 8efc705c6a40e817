"""Panels in the style of this project.

A title is a question, the description says how to read the panel, and thresholds are the alerts'.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from string import ascii_uppercase
from types import MappingProxyType
from typing import Any

from grafana_foundation_sdk.builders import (
    common,
    dashboard,
    heatmap,
    prometheus,
    stat,
    statushistory,
    table,
    timeseries,
)
from grafana_foundation_sdk.cog.builder import Builder
from grafana_foundation_sdk.models.common import (
    BigValueColorMode,
    BigValueGraphMode,
    GraphGradientMode,
    GraphThresholdsStyleMode,
    HeatmapCellLayout,
    LegendDisplayMode,
    LegendPlacement,
    ScaleDistribution,
    SortOrder,
    StackingMode,
    TooltipDisplayMode,
    VisibilityMode,
)
from grafana_foundation_sdk.models.dashboard import (
    DashboardLinkType,
    DataSourceRef,
    DataTransformerConfig,
    DynamicConfigValue,
    FieldColorModeId,
    FieldConfig,
    FieldConfigSource,
    MatcherConfig,
    Panel,
    Threshold,
    ThresholdsMode,
)
from grafana_foundation_sdk.models.heatmap import (
    HeatmapColorMode,
    HeatmapColorScale,
    HeatmapSelectionMode,
)
from grafana_foundation_sdk.models.prometheus import PromQueryFormat

from grafana.parts.thresholds import GREEN, NONE

PROMETHEUS = DataSourceRef(type_val="prometheus", uid="${datasource}")

#: Query string of a link: passes on the time range and variables that the reader has selected.
SELECTION = (
    "${__url_time_range}&var-datasource=${datasource}&${job:queryparam}&${instance:queryparam}"
    "&${loop:queryparam}&${request:queryparam}&var-topk=${topk}"
)

PanelBuilder = Builder[Panel]


def _query(expression: str, *, legend: str = "", ref: str = "A") -> prometheus.Dataquery:
    return (
        prometheus.Dataquery()
        .datasource(PROMETHEUS)
        .expr(expression)
        .legend_format(legend)
        .ref_id(ref)
    )


def _queries(expressions: Mapping[str, str], *, exemplars: bool) -> list[Builder[Any]]:
    return [
        _query(expression, legend=legend, ref=ref).range().exemplar(exemplars)
        for ref, (legend, expression) in zip(ascii_uppercase, expressions.items(), strict=False)
    ]


def _thresholds(limits: Sequence[Threshold]) -> dashboard.ThresholdsConfig:
    return dashboard.ThresholdsConfig().mode(ThresholdsMode.ABSOLUTE).steps(list(limits))


def drill_down(label: str) -> dashboard.DashboardLink:
    """Return a link to the dashboard of a coroutine.

    ``label`` is the Grafana expression that yields its name.
    """
    return (
        dashboard.DashboardLink("Everything about this coroutine")
        .type(DashboardLinkType.LINK)
        .url(f"/d/aiometrics-coroutine?{SELECTION}&var-coroutine=${{{label}:percentencode}}")
    )


def instance_link(label: str) -> dashboard.DashboardLink:
    """Return a link to the hotspots of an instance.

    ``label`` is the Grafana expression that yields its name.
    """
    return _hotspots_of("instance", label)


def request_link(label: str) -> dashboard.DashboardLink:
    """Return a link to the hotspots, limited to one type of request.

    ``label`` is the Grafana expression that yields the type.
    """
    return _hotspots_of("request", label)


def _hotspots_of(variable: str, label: str) -> dashboard.DashboardLink:
    selection = SELECTION.replace(
        f"${{{variable}:queryparam}}", f"var-{variable}=${{{label}:percentencode}}"
    )
    return (
        dashboard.DashboardLink(f"Hotspots of this {variable}")
        .type(DashboardLinkType.LINK)
        .url(f"/d/aiometrics-hotspots?{selection}")
    )


def big_number(
    title: str,
    description: str,
    expression: str,
    *,
    unit: str,
    limits: Sequence[Threshold] = NONE,
    decimals: int | None = None,
    span: int = 4,
) -> stat.Panel:
    """Return a panel with the latest value over its history, on the colour of its threshold."""
    panel = (
        stat.Panel()
        .title(title)
        .description(description)
        .datasource(PROMETHEUS)
        .with_target(_query(expression).range())
        .unit(unit)
        .no_value("none")
        .thresholds(_thresholds(limits))
        .color_scheme(dashboard.FieldColor().mode(FieldColorModeId.THRESHOLDS))
        .color_mode(BigValueColorMode.BACKGROUND)
        .graph_mode(BigValueGraphMode.AREA)
        .reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]))
        .height(4)
        .span(span)
    )
    return panel if decimals is None else panel.decimals(decimals)


def lines(
    title: str,
    description: str,
    expressions: Mapping[str, str],
    *,
    unit: str,
    limits: Sequence[Threshold] = NONE,
    stacked: bool = False,
    maximum: float | None = None,
    exemplars: bool = False,
    link: dashboard.DashboardLink | None = None,
    legend_on_the_right: bool = False,
    colours: Mapping[str, str] = MappingProxyType({}),
    span: int = 12,
) -> timeseries.Panel:
    """Return a chart of series over time.

    ``expressions`` maps legends to queries. ``limits`` are drawn as dashed lines. ``colours`` maps
    series that mean something to their colours; each of the others has one by its name.
    """
    panel = (
        timeseries.Panel()
        .title(title)
        .description(description)
        .datasource(PROMETHEUS)
        .targets(_queries(expressions, exemplars=exemplars))
        .unit(unit)
        .min(0)
        .color_scheme(dashboard.FieldColor().mode(FieldColorModeId.PALETTE_CLASSIC_BY_NAME))
        .thresholds(_thresholds(limits))
        .line_width(1)
        .show_points(VisibilityMode.NEVER)
        .fill_opacity(70 if stacked else 8)
        .gradient_mode(GraphGradientMode.NONE)
        .legend(
            common.VizLegendOptions()
            .display_mode(LegendDisplayMode.TABLE)
            .placement(LegendPlacement.RIGHT if legend_on_the_right else LegendPlacement.BOTTOM)
            .show_legend(True)  # noqa: FBT003 - the builder's signature
            .calcs(
                ["mean", "max", "lastNotNull"]
                if not legend_on_the_right
                else ["mean", "lastNotNull"]
            )
            .sort_by("Mean")
            .sort_desc(True)  # noqa: FBT003
        )
        .tooltip(
            common.VizTooltipOptions().mode(TooltipDisplayMode.MULTI).sort(SortOrder.DESCENDING)
        )
        .height(9)
        .span(span)
    )
    if len(limits) > 1:
        panel.thresholds_style(
            common.GraphThresholdsStyleConfig().mode(GraphThresholdsStyleMode.DASHED)
        )
    if stacked:
        panel.stacking(common.StackingConfig().mode(StackingMode.NORMAL).group("A"))
    if maximum is not None:
        panel.max(maximum)
    if link is not None:
        panel.data_links([link])
    for series, colour in colours.items():
        panel.with_override(
            _named(series),
            [DynamicConfigValue(id_val="color", value={"mode": "fixed", "fixedColor": colour})],
        )
    return panel


def heat(
    title: str, description: str, expression: str, *, unit: str = "s", span: int = 12
) -> heatmap.Panel:
    """Return a heatmap of a histogram over time.

    The darker a cell, the more observations per second fell into its bucket.
    """
    query = (
        _query(expression, legend="{{le}}").range().format(PromQueryFormat.HEATMAP).exemplar(True)  # noqa: FBT003
    )
    return (
        _heatmap(title, description, query, span)
        .rows_frame(heatmap.RowsHeatmapOptions().layout(HeatmapCellLayout.AUTO))
        .cell_values(heatmap.CellValues().unit("cps"))
        .y_axis(heatmap.YAxisConfig().unit(unit))
        .unit(unit)
        .exemplars_color("rgba(255,0,255,0.7)")
    )


def spread(
    title: str, description: str, expression: str, *, unit: str, span: int = 24
) -> heatmap.Panel:
    """Return a heatmap of how the values of many series are distributed over time.

    It shows a whole fleet in one picture.
    """
    return (
        _heatmap(title, description, _query(expression).range(), span)
        .calculate(True)  # noqa: FBT003
        .calculation(common.HeatmapCalculationOptions())
        .cell_values(heatmap.CellValues().unit("short"))
        .y_axis(heatmap.YAxisConfig().unit(unit).min(0))
        .unit(unit)
    )


def _heatmap(title: str, description: str, query: prometheus.Dataquery, span: int) -> heatmap.Panel:
    return (
        heatmap.Panel()
        .title(title)
        .description(description)
        .datasource(PROMETHEUS)
        .with_target(query)
        .color(
            heatmap.HeatmapColorOptions()
            .mode(HeatmapColorMode.SCHEME)
            .scheme("Oranges")
            .scale(HeatmapColorScale.EXPONENTIAL)
            .exponent(0.5)
            .steps(64)
            .fill("dark-orange")
        )
        .filter_values(heatmap.FilterValueRange().le(1e-9))
        .scale_distribution(common.ScaleDistributionConfig().type(ScaleDistribution.LINEAR))
        .show_value(VisibilityMode.NEVER)
        .cell_gap(1)
        .mode(TooltipDisplayMode.SINGLE)
        .show_y_histogram()
        .show_color_scale(True)  # noqa: FBT003
        .show_legend()
        .selection_mode(HeatmapSelectionMode.X)
        .height(9)
        .span(span)
    )


def stripes(
    title: str,
    description: str,
    expression: str,
    *,
    legend: str,
    unit: str,
    limits: Sequence[Threshold],
) -> statushistory.Panel:
    """Return a panel with one stripe for each series, coloured by threshold over time."""
    return (
        statushistory.Panel()
        .title(title)
        .description(description)
        .datasource(PROMETHEUS)
        .with_target(_query(expression, legend=legend).range())
        .max_data_points(60)
        .unit(unit)
        .min(0)
        .max(1)
        .thresholds(_thresholds(limits))
        .color_scheme(dashboard.FieldColor().mode(FieldColorModeId.THRESHOLDS))
        .show_value(VisibilityMode.NEVER)
        .row_height(0.9)
        .legend(common.VizLegendOptions().show_legend(False))  # noqa: FBT003
        .height(10)
        .span(24)
    )


#: Units of columns by the end of their headings.
_COLUMN_UNITS = {" %": "percent", " ms": "ms", " s": "s", "/s": "cps"}


def column_unit(heading: str) -> tuple[str, str]:
    """Return the heading of a column without its unit, and the unit as Grafana calls it."""
    for end, unit in _COLUMN_UNITS.items():
        if heading.endswith(end):
            return heading.removesuffix(end), unit
    return heading, "short"


@dataclass(frozen=True, slots=True)
class Column:
    """A column of numbers in a table.

    ``heading`` ends in the unit, ``expression`` is an instant query, ``limits`` and ``bar`` say how
    the cells look. ``%`` and ``ms`` in the heading scale the query, so that the numbers are right
    as they are: Grafana's JSON schema of version 1 allows only objects as values of an override, so
    the cells of a table with several units have none there. In schema version 2, they do.
    """

    heading: str
    expression: str
    limits: Sequence[Threshold] | None = None
    bar: bool = False

    @property
    def factor(self) -> int:
        """Factor that converts a share, or seconds, to the unit in the heading."""
        return 100 if self.heading.endswith("%") else 1000 if self.heading.endswith(" ms") else 1

    @property
    def query(self) -> str:
        """The expression, scaled to the unit in the heading."""
        return self.expression if self.factor == 1 else f"{self.factor} * ({self.expression})"

    def properties(self) -> list[DynamicConfigValue]:
        """Return the field settings: a bar or a background in the colours of the limits."""
        found: dict[str, object] = {}
        if self.bar:
            found["custom.cellOptions"] = {
                "type": "gauge",
                "mode": "gradient",
                "valueDisplayMode": "text",
            }
            found["color"] = {"mode": "continuous-GrYlRd" if self.limits is None else "thresholds"}
        elif self.limits is not None:
            found["custom.cellOptions"] = {"type": "color-background", "mode": "gradient"}
        if self.limits is not None:
            lowest = GREEN if self.bar else "transparent"
            scaled = [
                {"value": self.factor * step.value, "color": step.color}
                for step in self.limits
                if step.value is not None
            ]
            found["thresholds"] = {
                "mode": "absolute",
                "steps": [{"value": None, "color": lowest}, *scaled],
            }
        return [DynamicConfigValue(id_val=name, value=value) for name, value in found.items()]


class _PerColumn(FieldConfig):
    """Field settings with which bars are scaled to the largest cell of their own column.

    The builders have no option for it.
    """

    def to_json(self) -> dict[str, object]:
        return {**super().to_json(), "fieldMinMax": True}


class _Table(table.Panel):
    def __init__(self) -> None:
        super().__init__()
        self._internal.field_config = FieldConfigSource(defaults=_PerColumn(), overrides=[])


def ranking(
    title: str,
    description: str,
    labels: Mapping[str, str],
    columns: Sequence[Column],
    *,
    links: Sequence[dashboard.DashboardLink] = (),
    sort: str = "",
    height: int = 10,
    span: int = 24,
) -> table.Panel:
    """Return a table with a row for each set of labels and a number for each column, worst first.

    ``labels`` maps label names to headings. The table is sorted by the column ``sort``, or else by
    its first column of numbers. A click on a cell offers ``links``.
    """
    refs = dict(zip(ascii_uppercase, columns, strict=False))
    values = {
        f"Value #{ref}" if len(refs) > 1 else "Value": column.heading
        for ref, column in refs.items()
    }
    headings = dict(labels) | values
    units = {column_unit(column.heading)[1] for column in columns}
    panel = (
        _Table()
        .title(title)
        .description(description)
        .datasource(PROMETHEUS)
        .targets(
            [
                _query(column.query, ref=ref).instant().format(PromQueryFormat.TABLE)
                for ref, column in refs.items()
            ]
        )
        .with_transformation(DataTransformerConfig(id_val="merge", options={}))
        .with_transformation(DataTransformerConfig(id_val="organize", options=_organized(headings)))
        .unit(units.pop() if len(units) == 1 else "short")
        .min(0)
        .thresholds(_thresholds(NONE))
        .filterable(True)  # noqa: FBT003
        .sort_by(
            [common.TableSortByFieldState().display_name(sort or columns[0].heading).desc(True)]  # noqa: FBT003
        )
        .with_override(
            _named(*labels.values()),
            [
                DynamicConfigValue(
                    id_val="custom.cellOptions", value={"type": "auto", "wrapText": True}
                )
            ],
        )
        .height(height)
        .span(span)
    )
    for column in columns:
        if properties := column.properties():
            panel.with_override(_named(column.heading), properties)
    if links:
        panel.data_links(list(links))
    return panel


def _organized(headings: Mapping[str, str]) -> dict[str, object]:
    return {
        "excludeByName": {"Time": True},
        "indexByName": {name: index for index, name in enumerate(headings)},
        "renameByName": headings,
    }


def _named(*headings: str) -> MatcherConfig:
    return MatcherConfig(id_val="byNames", options={"mode": "include", "names": list(headings)})
