"""A small shop under load that has the six classic faults of asyncio services: what the hotspots of a sick loop look like."""
