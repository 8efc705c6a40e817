"""The frame that all dashboards share.

It consists of variables, links to the other dashboards, alert annotations and a shared crosshair.
"""

from __future__ import annotations

from collections.abc import Sequence

from grafana_foundation_sdk.builders import dashboard
from grafana_foundation_sdk.models.dashboard import (
    AnnotationQuery,
    DashboardCursorSync,
    DashboardLinkType,
    VariableOption,
    VariableRefresh,
    VariableSort,
)

from grafana.parts.panels import PROMETHEUS, PanelBuilder

TAG = "aiometrics"
ALL = VariableOption(selected=True, text="All", value="$__all")
TOP = ("5", "10", "20", "50")


class _Alerts(AnnotationQuery):
    """Firing alerts as regions, with the alert's name as title and its labels as text.

    The builders have no option for these formats.
    """

    def to_json(self) -> dict[str, object]:
        return {
            **super().to_json(),
            "titleFormat": "{{alertname}}",
            "textFormat": (
                "{{severity}}: {{job}} {{instance}} {{loop}} {{coroutine}} {{yield_point}}"
            ),
            "step": "30s",
        }


class _AlertsBuilder(dashboard.AnnotationQuery):
    def __init__(self) -> None:
        self._internal = _Alerts(
            name="Alerts",
            datasource=PROMETHEUS,
            enable=True,
            icon_color="red",
            expr='ALERTS{alertname=~"Asyncio.*",alertstate="firing",job=~"$job"}',
        )


def _picker(name: str, label: str, query: str, description: str) -> dashboard.QueryVariable:
    return (
        dashboard.QueryVariable(name)
        .label(label)
        .description(description)
        .datasource(PROMETHEUS)
        .query(query)
        .current(ALL)
        .include_all(True)  # noqa: FBT003 - the builder's signature
        .all_value(".*")
        .multi(True)  # noqa: FBT003
        .refresh(VariableRefresh.ON_TIME_RANGE_CHANGED)
        .sort(VariableSort.ALPHABETICAL_ASC)
    )


def _variables() -> list[
    dashboard.DatasourceVariable | dashboard.QueryVariable | dashboard.CustomVariable
]:
    selected = 'job=~"$job",instance=~"$instance"'
    top = [VariableOption(selected=value == "10", text=value, value=value) for value in TOP]
    return [
        dashboard.DatasourceVariable("datasource").label("Data source").type("prometheus"),
        _picker(
            "job",
            "Job",
            "label_values(aiometrics_build_info, job)",
            "Services that export asyncio metrics",
        ),
        _picker(
            "instance",
            "Instance",
            'label_values(aiometrics_build_info{job=~"$job"}, instance)',
            "Processes of these services",
        ),
        _picker(
            "loop",
            "Loop",
            f"label_values(asyncio_loop_heartbeat_timestamp_seconds{{{selected}}}, loop)",
            "Event loops, by thread",
        ),
        _picker(
            "coroutine",
            "Coroutine",
            f"label_values(asyncio_tasks_created_total{{{selected}}}, coroutine)",
            "Root coroutines of tasks",
        ),
        _picker(
            "request",
            "Request",
            f"label_values(asyncio_requests_in_progress{{{selected}}}, request)",
            "Types of requests",
        ),
        dashboard.CustomVariable("topk")
        .label("Top")
        .description("Number of rows and series that a ranking shows")
        .values(",".join(TOP))
        .options(top)
        .current(top[TOP.index("10")]),
    ]


def frame(uid: str, title: str, description: str) -> dashboard.Dashboard:
    """Return a dashboard that has the shared frame and no panels yet."""
    built = (
        dashboard.Dashboard(title)
        .uid(uid)
        .description(description)
        .tags([TAG, "asyncio", "python"])
        .readonly()
        .tooltip(DashboardCursorSync.CROSSHAIR)
        .time("now-30m", "now")
        .refresh("30s")
        .timezone("browser")
        .annotation(_AlertsBuilder())
        .link(
            dashboard.DashboardLink("aiometrics")
            .type(DashboardLinkType.DASHBOARDS)
            .tags([TAG])
            .include_vars(True)  # noqa: FBT003
            .keep_time(True)  # noqa: FBT003
        )
    )
    for variable in _variables():
        built.with_variable(variable)
    return built


def add_row(
    board: dashboard.Dashboard,
    title: str,
    panels: Sequence[PanelBuilder],
    *,
    collapsed: bool = False,
) -> None:
    """Append a row with ``title`` and ``panels`` to ``board``.

    A collapsed row loads nothing until it is opened.
    """
    row = dashboard.Row(title).collapsed(collapsed)
    if collapsed:
        for panel in panels:
            row.with_panel(panel)
        board.with_row(row)
        return
    board.with_row(row)
    for panel in panels:
        board.with_panel(panel)
