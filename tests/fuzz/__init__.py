"""Attacks on what reads bytes of others: pages that anybody may have written, and the port that anybody may reach."""
