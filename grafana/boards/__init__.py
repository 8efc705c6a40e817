"""The dashboards: one module for each, and ``requests`` for the last row of Hotspots."""
