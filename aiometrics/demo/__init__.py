"""A small shop under load with the six classic faults of asyncio services; used by ``__main__``."""
