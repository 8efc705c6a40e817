"""Connects aiometrics with frameworks: only users import these modules, each of its framework."""
