"""What users start: exporter, job and sidecar; puts together what the folders below provide."""
