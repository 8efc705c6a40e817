"""Decides which loops are traced, and measures what happens to them outside of their tasks."""
