"""Everything about single requests: scopes, objectives, exemplars, the slow log and traces."""
