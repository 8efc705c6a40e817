"""The same dashboards and rules as manifests for the Prometheus operator and for the dashboard sidecar of Grafana's Helm chart."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from textwrap import dedent, indent

HEADER = "# Written by `python -m grafana.generate`: change the sources, not this file.\n"

POD_MONITOR = HEADER + dedent(
    """\
    # Scrapes every pod of its namespace that has the label `aiometrics: scrape` and a port named
    # `aiometrics`.
    apiVersion: monitoring.coreos.com/v1
    kind: PodMonitor
    metadata:
      name: aiometrics
      labels:
        app.kubernetes.io/name: aiometrics
    spec:
      jobLabel: app.kubernetes.io/name
      selector:
        matchLabels:
          aiometrics: scrape
      podMetricsEndpoints:
        - port: aiometrics
          path: /metrics
          interval: 15s
          scrapeTimeout: 10s
          relabelings:
            - sourceLabels: [__meta_kubernetes_pod_name]
              targetLabel: instance
    """
)


def manifests(dashboards: Mapping[str, str], rules: Iterable[str]) -> dict[str, str]:
    """File names and contents, from the dashboards' JSON by name and the text of the rule files."""
    return {
        "podmonitor.yaml": POD_MONITOR,
        "prometheusrule.yaml": prometheus_rule(rules),
        "dashboards.yaml": HEADER
        + "---\n".join(config_map(name, text) for name, text in dashboards.items()),
    }


def prometheus_rule(rules: Iterable[str]) -> str:
    """One PrometheusRule that holds the groups of all rule files, their comments included."""
    groups = "\n".join(
        re.split(r"^groups:\n", text, maxsplit=1, flags=re.MULTILINE)[1].rstrip("\n") + "\n"
        for text in rules
    )
    head = dedent(
        """\
        apiVersion: monitoring.coreos.com/v1
        kind: PrometheusRule
        metadata:
          name: aiometrics
          labels:
            app.kubernetes.io/name: aiometrics
        spec:
          groups:
        """
    )
    return HEADER + head + indent(groups, "  ")


def config_map(name: str, text: str) -> str:
    """A ConfigMap that the sidecar loads into the folder aiometrics; one for each dashboard, since a ConfigMap holds 1 MiB at most."""
    head = dedent(
        f"""\
        apiVersion: v1
        kind: ConfigMap
        metadata:
          name: aiometrics-dashboard-{name}
          labels:
            app.kubernetes.io/name: aiometrics
            grafana_dashboard: "1"
          annotations:
            grafana_folder: aiometrics
        data:
          aiometrics-{name}.json: |
        """
    )
    return head + indent(text, "    ")
