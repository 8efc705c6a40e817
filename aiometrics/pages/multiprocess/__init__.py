"""Stats pages in files of a shared directory.

This folder alone opens, locks, maps and copies these files.
"""
