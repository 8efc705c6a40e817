"""What users start: exporter, job and sidecar, and the one session of the process."""
