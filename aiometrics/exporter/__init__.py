"""The exporter, the job and the sidecar, each put together from what the folders below provide."""
