"""The programs and services that run under each contender."""
