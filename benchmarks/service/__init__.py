"""Servers that are compared, and the clients that load them."""
