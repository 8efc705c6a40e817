"""Which loops are traced, and what of them is measured from outside."""
