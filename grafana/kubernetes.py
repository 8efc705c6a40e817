"""Manifests for the Prometheus operator: what it scrapes, and the rules.

The dashboards need no generated manifest: ``grafana/kustomization.yaml`` makes ConfigMaps of them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
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


def manifests(rules: Iterable[str]) -> dict[str, str]:
    """Return each manifest's content by file name; ``rules`` are the texts of the rule files."""
    return {
        "podmonitor.yaml": POD_MONITOR,
        "prometheusrule.yaml": prometheus_rule(rules),
    }


def prometheus_rule(rules: Iterable[str]) -> str:
    """Return a PrometheusRule with the groups of all rule files, including their comments."""
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
