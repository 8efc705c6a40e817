"""Attacks on the code that reads untrusted bytes: from pages, and from clients of the port."""
