"""Dashboards checked against a Prometheus."""
