"""Requests: scopes, objectives, exemplars, the slow log and traces."""
