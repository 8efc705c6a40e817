"""Long runs under full load that count what they do; the metrics must equal the counts."""
