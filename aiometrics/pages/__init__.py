"""The stats page, a block of memory that one recorder writes and readers copy.

This folder alone knows how numbers are stored.
"""
