"""What users start (exporter, job, sidecar), and the only module with global state, ``session``."""
