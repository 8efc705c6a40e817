"""Runs, samples and tables."""
