"""Starts an exporter in programs that do not start one themselves.

``path/`` is a directory for ``PYTHONPATH``, whose ``sitecustomize`` Python imports when it starts.
"""
