"""Grafana dashboards as code.

``python -m grafana.generate`` writes every file under ``grafana/dashboards`` and
``deploy/kubernetes``.
"""
