"""The memory that a recorder writes and readers copy: its layout, writer and reader."""
