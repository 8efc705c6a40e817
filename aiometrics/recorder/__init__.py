"""The hot path: what runs at each step of a task and writes one loop's numbers into its page.

A file of ``csrc`` that has a twin in Python has the same name, and the twin is its specification.
"""
