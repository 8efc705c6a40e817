"""The sections of the benchmark: one module for each table."""
