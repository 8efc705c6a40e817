"""Long runs under full load that keep an account of their own: what the metrics say at the end must be exactly that."""
