"""Dashboards in Grafana's schema version 2, made from those in version 1.

Version 2 knows panels apart from their layout, and its tables have a unit for each column. Grafana
12 and older read version 1 only.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from grafana.parts.panels import column_unit

Json = dict[str, Any]

API_VERSION = "dashboard.grafana.app/v2"
_CURSOR_SYNC = ("Off", "Crosshair", "Tooltip")
_REFRESH = ("never", "onDashboardLoad", "onTimeRangeChanged")
_SORT = ("disabled", "alphabeticalAsc")
_REFRESH_INTERVALS = ["5s", "10s", "30s", "1m", "5m", "15m", "30m", "1h"]
#: What a panel and a query have in version 1 that is elsewhere in version 2.
_QUERY_PLACE = ("refId", "datasource")


def resource(board: Mapping[str, Any]) -> Json:
    """Return the resource of version 2 that shows the same as ``board``, a dashboard in JSON."""
    return {
        "apiVersion": API_VERSION,
        "kind": "Dashboard",
        "metadata": {"name": board["uid"]},
        "spec": _spec(board),
    }


def _spec(board: Mapping[str, Any]) -> Json:
    rows = list(_rows(board["panels"]))
    return {
        "title": board["title"],
        "description": board["description"],
        "tags": board["tags"],
        "editable": board["editable"],
        "preload": False,
        "cursorSync": _CURSOR_SYNC[board["graphTooltip"]],
        "links": board["links"],
        "timeSettings": {
            "timezone": board["timezone"],
            "from": board["time"]["from"],
            "to": board["time"]["to"],
            "autoRefresh": board["refresh"],
            "autoRefreshIntervals": _REFRESH_INTERVALS,
            "hideTimepicker": False,
            "fiscalYearStartMonth": board["fiscalYearStartMonth"],
        },
        "variables": [_variable(one) for one in board["templating"]["list"]],
        "annotations": [_annotation(one) for one in board["annotations"]["list"]],
        "elements": {_name(panel): _panel(panel) for _, panels in rows for panel in panels},
        "layout": _kind("RowsLayout", rows=[_row(row, panels) for row, panels in rows]),
    }


def _kind(kind: str, **spec: object) -> Json:
    return {"kind": kind, "spec": spec}


def _rows(panels: list[Json]) -> Iterator[tuple[Json, list[Json]]]:
    """Yield each row with its panels, which follow an open row and are inside a collapsed one."""
    for number, row in enumerate(panels):
        if row["type"] == "row":
            following = panels[number + 1 :]
            end = next((at for at, one in enumerate(following) if one["type"] == "row"), None)
            yield row, row["panels"] or following[:end]


def _name(panel: Json) -> str:
    return f"panel-{panel['id']}"


def _row(row: Json, panels: list[Json]) -> Json:
    top = row["gridPos"]["y"] + 1
    items = [
        _kind(
            "GridLayoutItem",
            x=panel["gridPos"]["x"],
            y=panel["gridPos"]["y"] - top,
            width=panel["gridPos"]["w"],
            height=panel["gridPos"]["h"],
            element={"kind": "ElementReference", "name": _name(panel)},
        )
        for panel in panels
    ]
    return _kind(
        "RowsLayoutRow",
        title=row["title"],
        collapse=row["collapsed"],
        layout=_kind("GridLayout", items=items),
    )


def _panel(panel: Json) -> Json:
    if panel["type"] == "table":
        panel = _with_units(panel)
    options = {"maxDataPoints": panel["maxDataPoints"]} if "maxDataPoints" in panel else {}
    return _kind(
        "Panel",
        id=panel["id"],
        title=panel["title"],
        description=panel["description"],
        links=[],
        transparent=panel["transparent"],
        data=_kind(
            "QueryGroup",
            queries=[
                _kind("PanelQuery", refId=one["refId"], hidden=False, query=_target(one))
                for one in panel["targets"]
            ],
            transformations=[
                {"kind": "Transformation", "group": one["id"], "spec": {"options": one["options"]}}
                for one in panel.get("transformations", [])
            ],
            queryOptions=options,
        ),
        vizConfig={
            "kind": "VizConfig",
            "group": panel["type"],
            "version": "",
            "spec": {
                "options": panel["options"],
                "fieldConfig": panel["fieldConfig"],
            },
        },
    )


def _with_units(table: Json) -> Json:
    """Return ``table`` with units in its cells in place of its headings."""
    organized = next(one for one in table["transformations"] if one["id"] == "organize")
    text, units = json.dumps(table), {}
    for heading in organized["options"]["renameByName"].values():
        name, unit = column_unit(heading)
        text = text.replace(json.dumps(heading), json.dumps(name))
        units[name] = unit
    found: Json = json.loads(text)
    for name, unit in units.items():
        if unit != "short":
            found["fieldConfig"]["overrides"].append(
                {
                    "matcher": {"id": "byNames", "options": {"mode": "include", "names": [name]}},
                    "properties": [{"id": "unit", "value": unit}],
                }
            )
    return found


def _query(datasource: Json, spec: Json) -> Json:
    return {
        "kind": "DataQuery",
        "group": datasource["type"],
        "version": "v0",
        "datasource": {"name": datasource["uid"]},
        "spec": spec,
    }


def _target(target: Json) -> Json:
    spec = {name: value for name, value in target.items() if name not in _QUERY_PLACE}
    return _query(target["datasource"], spec)


def _annotation(annotation: Json) -> Json:
    return _kind(
        "AnnotationQuery",
        name=annotation["name"],
        enable=annotation["enable"],
        hide=annotation["hide"],
        iconColor=annotation["iconColor"],
        builtIn=False,
        query=_query(annotation["datasource"], {"expr": annotation["expr"], "refId": "Anno"}),
        legacyOptions={name: annotation[name] for name in ("titleFormat", "textFormat", "step")},
    )


def _variable(variable: Json) -> Json:
    common = {
        "name": variable["name"],
        "label": variable["label"],
        "description": variable.get("description", ""),
        "current": _option(variable.get("current", {"text": "", "value": ""})),
        "hide": "dontHide",
        "skipUrlSync": variable["skipUrlSync"],
        "multi": variable["multi"],
        "includeAll": variable["includeAll"],
        "allowCustomValue": variable["allowCustomValue"],
        "options": [_option(one) for one in variable.get("options", [])],
    }
    if variable["type"] == "datasource":
        return _kind(
            "DatasourceVariable",
            pluginId=variable["query"],
            refresh="onDashboardLoad",
            regex="",
            **common,
        )
    if variable["type"] == "custom":
        return _kind("CustomVariable", query=variable["query"], **common)
    return _kind(
        "QueryVariable",
        query=_query(
            variable["datasource"],
            {"qryType": 5, "query": variable["query"], "refId": f"Variable-{variable['name']}"},
        ),
        definition=variable["query"],
        refresh=_REFRESH[variable["refresh"]],
        regex="",
        sort=_SORT[variable["sort"]],
        allValue=variable["allValue"],
        **common,
    )


def _option(option: Json) -> Json:
    return {name: value for name, value in option.items() if name in {"selected", "text", "value"}}
