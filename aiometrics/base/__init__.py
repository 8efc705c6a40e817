"""General tools, which know nothing of metrics.

This folder imports no other folder of aiometrics.
"""
