"""Encoders that are compared, and one that only waits."""
