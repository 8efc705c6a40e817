"""The stats page: a block of memory that one recorder writes and readers copy.

Only this folder knows how numbers are stored.
"""
