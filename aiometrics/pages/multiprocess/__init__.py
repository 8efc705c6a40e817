"""Stats pages in files of a shared directory.

Only this folder opens, locks, maps and copies these files.
"""
