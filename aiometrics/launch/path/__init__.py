"""A directory for ``PYTHONPATH``: what is here must run without the package."""
