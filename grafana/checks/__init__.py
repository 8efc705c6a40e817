"""Programs that check the dashboards against a Prometheus."""
