"""Snapshots as Prometheus metrics and as tables."""
