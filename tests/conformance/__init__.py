"""CPython's own ``test_asyncio``, bare and with every loop of the process instrumented: the outcomes must be the same."""
