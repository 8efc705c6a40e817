"""Which loops are traced, and what is measured about them from outside their tasks."""
