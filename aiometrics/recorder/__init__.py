"""The hot path: what happens to one loop's tasks, written into its page, in C and in Python."""
