"""Runs CPython's own ``test_asyncio`` bare and instrumented; the outcomes must be the same."""
