"""Tools for the other folders; imports nothing else of aiometrics."""
