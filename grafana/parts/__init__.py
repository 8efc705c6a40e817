"""Panels, queries, thresholds and units that the dashboards are built from."""
