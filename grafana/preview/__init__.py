"""Dashboards drawn without Grafana."""
