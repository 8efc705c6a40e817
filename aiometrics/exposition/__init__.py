"""Turns snapshots into text, ``prometheus_client`` metrics and tables; measures nothing itself."""
