"""Pictures of the dashboards, drawn without Grafana."""
